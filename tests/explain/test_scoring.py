"""Scores of heatmaps against truth: what CheXlocalize's scripts would say, and where thresholds come from."""

import io
import json
import pickle

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as coco

from cxrmonai.data.geometry import letterbox, letterbox_geometry
from cxrmonai.data.packing import pack_bits
from cxrmonai.data.store import Store, write_store
from cxrmonai.data.table import BOX_COLUMNS, make_table
from cxrmonai.errors import CxrError
from cxrmonai.explain import Heatmaps, HeatmapWriter
from cxrmonai.explain.products import CHEXLOCALIZE_TASKS, export, write_boxes, write_masks
from cxrmonai.explain.scoring import CANDIDATES, Thresholds, score, truth_rows, tune_thresholds
from cxrmonai.explain.truth import StoreTruth, filled

SIZE, NAMES = 48, ["Cardiomegaly", "Effusion", "Lung Opacity"]
SHAPES = [(60, 90), (96, 64), (80, 80), (50, 70), (72, 40), (66, 81)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six images of odd shapes: Cardiomegaly has masks, Effusion boxes, Lung Opacity labels alone."""
    path = tmp_path_factory.mktemp("scoring") / "store.h5"
    random = np.random.default_rng(0)
    geometry = np.stack([letterbox_geometry(*shape, SIZE) for shape in SHAPES])
    count, boxes, bits = len(SHAPES), [], []
    for k, (height, width) in enumerate(SHAPES):
        box = [0.2 * width, 0.3 * height, 0.4 * width, 0.25 * height]
        if k % 2 == 0:
            boxes.append((f"i{k}", "Pleural Effusion", *box))
        mask = filled(np.array([[0.3 * width, 0.5 * height, 0.5 * width, 0.3 * height]]), (height, width))
        small = letterbox((255 * mask).astype(np.uint8), SIZE) > 127
        bits.append(pack_bits({"Cardiomegaly": small if k != 1 else np.zeros_like(small)}, ["Cardiomegaly"], SIZE))
    table = make_table(
        {
            "image": [f"i{k}" for k in range(count)],
            "image_id": [f"i{k}" for k in range(count)],
            "patient_id": list("aabbcd"),
            "split": ["val", "val", "test", "test", "test", "train"],
        },
        pd.DataFrame({"Cardiomegaly": 1.0, "Effusion": [1.0, 0, 1, 0, 1, 0], "Lung Opacity": [0.0, 1, 0, 1, 0, 1]}),
    )
    write_store(
        path,
        images=random.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8),
        geometry=geometry,
        table=table,
        class_names=NAMES,
        source="test",
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)),
        masks=(np.arange(count), np.ones(count, np.uint32), np.stack(bits)),
        mask_names=["Cardiomegaly"],
    )
    return Store(path)


def smooth(random, count):
    rough = random.random((count, SIZE, SIZE)).astype(np.float32)
    maps = np.stack([cv2.GaussianBlur(each, (0, 0), 4) for each in rough])
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


@pytest.fixture(scope="module")
def heatmaps(store, tmp_path_factory):
    """Smooth noise, but the first image's Cardiomegaly is found and the last test image's map is constant."""
    path = tmp_path_factory.mktemp("maps") / "h.h5"
    maps = smooth(np.random.default_rng(3), 6 * 3).reshape(6, 3, SIZE, SIZE)
    maps[4, 0] = 0
    with HeatmapWriter(path, NAMES, SIZE, "cam", store.path) as writer:
        writer.add(np.arange(6), [f"i{k}" for k in range(6)], maps, np.linspace(0, 1, 18).reshape(6, 3))
    return Heatmaps(path)


class PlainTensors(pickle.Unpickler):
    """Knows the names that a plain CPU tensor needs, and no others."""

    def find_class(self, module, name):
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch.storage", "_load_from_bytes"),
            ("collections", "OrderedDict"),
        }
        assert (module, name) in allowed, (module, name)
        return super().find_class(module, name)


def their_hits(folder, truth):
    """Hit rate as CheXlocalize counts it: the stretched map's highest pixel; NaN without truth."""
    hits = {}
    for path in sorted((folder / "maps").glob("*_map.pkl")):
        image_id, task = path.name.rsplit("_", 2)[:2]
        content = PlainTensors(io.BytesIO(path.read_bytes())).load()
        assert content["task"] == task
        assert type(content["map"]) is torch.Tensor
        assert content["map"].dtype == torch.float32
        width, height = content["cxr_dims"]
        assert type(width) is int
        assert content["cxr_img"].shape == (3, *content["map"].shape[2:])
        assert 0 <= content["cxr_img"].min() <= content["cxr_img"].max() <= 1
        if image_id not in truth:
            continue
        mask = coco.decode(truth[image_id][task])
        assert mask.shape == (height, width)
        assert content["gt"] == int(mask.any())
        whole = torch.nn.functional.interpolate(content["map"], (height, width), mode="bilinear").squeeze().numpy()
        hits.setdefault(task, []).append(mask.flat[whole.argmax()] if mask.any() else np.nan)
    return hits


def their_ious(predicted, truth, task, true_positives):
    ious = []
    for image_id, tasks in truth.items():
        one, other = coco.decode(predicted[image_id][task]), coco.decode(tasks[task])
        assert one.shape == other.shape
        shared, union = (one & other).sum(), (one | other).sum()
        skip = not (one.any() and other.any()) if true_positives else not union
        ious.append(np.nan if skip else shared / union)
    return np.array(ious)


def test_the_export_scored_as_chexlocalize_does_gives_our_numbers(store, heatmaps, tmp_path):
    folder = export("chexlocalize", tmp_path, heatmaps, store, "otsu")
    truth = json.loads((folder / "truth.json").read_text())
    predicted = json.loads((folder / "segmentations.json").read_text())
    assert len(list((folder / "maps").glob("*.pkl"))) == 6 * 3
    assert all(set(tasks) == set(CHEXLOCALIZE_TASKS) for tasks in predicted.values())
    assert "Airspace Opacity" in CHEXLOCALIZE_TASKS
    # Lung Opacity is known only where its label is 0
    assert list(truth) == ["i0", "i2", "i4"]
    rules = Thresholds(dict.fromkeys(NAMES, "otsu"))
    found = score(heatmaps, store, rules, rules, resamples=50)
    kept = score(_some(heatmaps, [0, 2, 4], tmp_path), store, rules, rules, resamples=50)
    assert found["images"] == 6
    assert kept["patients"] == 3
    hits = their_hits(folder, truth)
    for name, task in (("Cardiomegaly", "Cardiomegaly"), ("Effusion", "Pleural Effusion")):
        row = kept["overlap"]["classes"][name]
        assert kept["findings"][name]["hit_rate"] == pytest.approx(np.nanmean(hits[task]))
        assert row["miou"] == pytest.approx(np.nanmean(their_ious(predicted, truth, task, False)))
        assert row["miou_true_positive"] == pytest.approx(np.nanmean(their_ious(predicted, truth, task, True)))
    assert np.nanmean(hits["Cardiomegaly"]) < 1  # its constant map is no hit


def _some(heatmaps, places, tmp_path):
    with HeatmapWriter(tmp_path / "some.h5", NAMES, SIZE, "cam", heatmaps.data_file) as writer:
        ids = [heatmaps.image_ids[k] for k in places]
        writer.add(heatmaps.rows[places], ids, heatmaps.maps(places), heatmaps.probability[places])
    some = Heatmaps(tmp_path / "some.h5")
    np.testing.assert_array_equal(some.maps(range(len(places))), heatmaps.maps(places))
    return some


def test_boxes_and_masks_lie_in_original_pixels(store, heatmaps, tmp_path):
    table = write_boxes(tmp_path / "boxes.csv", heatmaps, store, "otsu", min_probability=0.3)
    read = pd.read_csv(tmp_path / "boxes.csv")
    assert len(read) == len(table) > 0
    assert read["probability"].min() >= 0.3
    assert (read["score"] <= read["probability"] + 1e-4).all()
    for image_id, x, y, w, h in read[["image_id", "x", "y", "w", "h"]].itertuples(index=False):
        height, width = SHAPES[int(image_id[1])]
        pixel = max(height, width) / SIZE
        assert -0.01 <= x < x + w <= width + pixel / 2
        assert -0.01 <= y < y + h <= height + pixel / 2
    write_masks(tmp_path / "masks.json", heatmaps, store, "otsu", min_probability=0.3)
    masks = json.loads((tmp_path / "masks.json").read_text())
    assert list(masks) == heatmaps.image_ids
    for n, image_id in enumerate(masks):
        assert list(masks[image_id]) == NAMES
        for k, name in enumerate(NAMES):
            assert masks[image_id][name]["size"] == list(SHAPES[n])
            if heatmaps.probability[n, k] < 0.3:
                assert coco.area(masks[image_id][name]) == 0
    assert "i4" in set(read["image_id"])
    assert not ((read["image_id"] == "i4") & (read["finding"] == "Cardiomegaly")).any()  # a constant map


def test_truth_comes_from_masks_boxes_and_labels(store):
    truth = StoreTruth(store, ["Cardiomegaly", "Pleural Effusion", "Lung Opacity", "Unheard-of"])
    assert truth.rows("val").tolist() == [0, 1]
    assert truth.rows("test").tolist() == [2, 3, 4]
    height, width = SHAPES[2]
    np.testing.assert_allclose(truth.boxes(2, 1), [[0.2 * width, 0.3 * height, 0.4 * width, 0.25 * height]])
    np.testing.assert_array_equal(truth.mask(2, 1), filled(truth.boxes(2, 1), (height, width)))
    np.testing.assert_allclose(
        truth.boxes(2, 0), [[0.3 * width, 0.5 * height, 0.5 * width, 0.3 * height]], atol=1.01 * max(SHAPES[2]) / SIZE
    )
    assert truth.boxes(1, 0).shape == (0, 4)  # drawn as absent, whatever the label says
    assert truth.boxes(3, 1).shape == (0, 4)  # label 0
    assert truth.boxes(3, 2) is None
    assert truth.mask(3, 2) is None
    assert truth.boxes(0, 3) is None
    assert [truth.present(3, k) for k in range(4)] == [True, False, True, False]
    assert not truth.present(1, 0)
    only = StoreTruth(store, ["Pleural Effusion"])
    assert only.rows("test").tolist() == [2, 4]
    with pytest.raises(CxrError, match="no image of split test has a box or mask of Lung Opacity"):
        truth_rows(store.path, "test", ["Lung Opacity"])


def test_filled_is_counted_by_pixel_centres():
    assert filled(np.array([[1.0, 2.0, 3.0, 2.0]]), (6, 6)).sum() == 6
    assert filled(np.array([[1.4, 2.0, 1.2, 1.0]]), (6, 6)).sum() == 2
    assert not filled(np.zeros((0, 4)), (3, 3)).any()


def test_tuning_finds_the_threshold_that_fits(store, tmp_path):
    maps = np.zeros((2, 3, SIZE, SIZE), np.float32)
    masks, _ = store.masks([0, 1])
    maps[:, 0] = 0.45 * cv2.dilate(masks[0, 0].astype(np.uint8), np.ones((15, 15))).astype(np.float32)
    maps[0, 0][masks[0, 0]] = 0.62
    maps[0, 0, 0, 0] = 1
    with HeatmapWriter(tmp_path / "val.h5", NAMES, SIZE, "cam", store.path) as writer:
        writer.add([0, 1], ["i0", "i1"], maps, np.ones((2, 3)))
    tuned = tune_thresholds(Heatmaps(tmp_path / "val.h5"), store)
    assert 0.45 <= tuned.values["Cardiomegaly"] <= 0.6
    assert tuned.values["Cardiomegaly"] in CANDIDATES
    assert tuned.images == {"Cardiomegaly": 1, "Effusion": 1, "Lung Opacity": 0}
    assert tuned.values["Lung Opacity"] == "otsu"
    assert "Lung Opacity" in tuned.reasons
