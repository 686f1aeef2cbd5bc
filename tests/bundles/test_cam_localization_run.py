"""The bundle cam_localization from a store, a folder of files and a classifier to its files and scores."""

import json

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY
from monai.bundle import create_workflow

from cxrmonai.data.store import Store
from cxrmonai.errors import user_error
from cxrmonai.explain import Heatmaps, attribute
from cxrmonai.explain.boxes import find_boxes
from cxrmonai.explain.truth import StoreTruth
from cxrmonai.networks import Classifier

FOLDER = REPOSITORY / "bundles/cam_localization"
ASKED = {
    "target": "findings",
    "classes": None,
    "policy": "ignore",
    "blank": None,
    "grade_column": "edema_severity",
    "equalize": False,
}


@pytest.fixture(scope="module")
def network(small_phantom):
    torch.manual_seed(0)
    made = Classifier(Store(small_phantom).class_names, "resnet10t", image_size=96, pooling="PCAM", asked=ASKED)
    torch.nn.init.normal_(made.head.weight, 0, 1)
    return made.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def run(config, output_dir, **overrides):
    values = {key: str(value) if hasattr(value, "parts") else value for key, value in overrides.items()}
    workflow = create_workflow(
        config_file=str(FOLDER / f"configs/{config}.json"),
        workflow_type="infer",
        bundle_root=str(FOLDER),
        output_dir=str(output_dir),
        **values,
    )
    workflow.initialize()
    workflow.run()


@pytest.fixture(scope="module")
def inferred(small_phantom, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inferred")
    run("inference", folder, data_file=small_phantom, ckpt_path=weights, split="val", classes="Mass,Edema",
        method="cam", overlays=3, export="chexlocalize")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def evaluated(small_phantom, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    run("evaluate", folder, data_file=small_phantom, ckpt_path=weights, overlays=2, resamples=100, method="pcam")
    return folder


def test_inference_leaves_its_files(inferred, small_phantom, network):
    store = Store(small_phantom)
    found = Heatmaps(inferred / "heatmaps.h5")
    assert found.class_names == ["Mass", "Edema"]
    assert (found.size, found.method) == (store.size, "cam")
    np.testing.assert_array_equal(found.rows, store.rows("val"))
    images = torch.from_numpy(store.images[found.rows]).float()[:, None] / 255
    prepared = torch.nn.functional.interpolate(images, size=96, mode="bilinear", antialias=True)
    targets = [store.class_names.index(name) for name in found.class_names]
    expected = attribute(network, (prepared - 0.5) / 0.25, targets, "cam", size=store.size)
    np.testing.assert_allclose(found.maps(range(len(found))), expected.numpy(), atol=0.02)
    boxes = pd.read_csv(inferred / "boxes.csv")
    assert list(boxes.columns) == ["image_id", "finding", "x", "y", "w", "h", "score", "probability"]
    one = find_boxes(found.maps([0])[0, 0], store.geometry[found.rows[0]])
    own = boxes[(boxes["image_id"] == found.image_ids[0]) & (boxes["finding"] == "Mass")]
    np.testing.assert_allclose(own[["x", "y", "w", "h"]], one.boxes, atol=1e-3)
    assert set(json.loads((inferred / "masks.json").read_text())) == set(found.image_ids)
    pictures = sorted((inferred / "overlays").glob("*.png"))
    assert len(pictures) == 3
    assert cv2.imread(str(pictures[0])).std() > 10
    page = (inferred / "report.html").read_text()
    assert "Synthetic images" in page
    assert page.count("<img") == 1
    assert len(list((inferred / "chexlocalize/maps").glob("*.pkl"))) == len(found)  # Edema alone is among its tasks


def test_evaluation_scores_the_test_images_alone(evaluated, small_phantom):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    store = Store(small_phantom)
    rows = store.rows("test")
    np.testing.assert_array_equal(Heatmaps(evaluated / "heatmaps.h5").rows, rows)
    assert metrics["synthetic"] is True
    assert metrics["images"] == len(rows)
    assert metrics["splits"] == {"test": len(rows)}
    truth = StoreTruth(store, store.class_names)
    for k, name in enumerate(store.class_names):
        boxes = [truth.boxes(int(row), k) for row in rows]
        assert metrics["findings"][name]["boxes"] == sum(map(len, boxes))
        assert metrics["findings"][name]["images"] == sum(len(each) > 0 for each in boxes)
        assert metrics["overlap"]["classes"][name]["images"] == len(rows)
    assert metrics["wang_2017"]["Cardiomegaly"]["iobb 0.25"] == 0.9794
    page = (evaluated / "report.html").read_text()
    assert "accuracy published 2017" in page
    assert len(list((evaluated / "overlays").glob("*.png"))) == 2


def test_thresholds_do_not_depend_on_test_images(evaluated, small_phantom, weights, tmp_path):
    changed = tmp_path / "changed.h5"
    changed.write_bytes(small_phantom.read_bytes())
    rows = Store(small_phantom).rows("test")
    with h5py.File(changed, "r+") as file:
        file["images"][rows] = 255 - file["images"][rows]
        for place in np.flatnonzero(np.isin(file["masks/rows"][:], rows)):
            file["masks/bits"][place] = 0
    run("evaluate", tmp_path / "out", data_file=changed, ckpt_path=weights, overlays=0, resamples=100, method="pcam")
    before, after = (json.loads((each / "metrics.json").read_text()) for each in (evaluated, tmp_path / "out"))
    assert before["mask_thresholds"] == after["mask_thresholds"]
    assert any(isinstance(value, float) for value in before["mask_thresholds"].values())
    assert before["findings"] != after["findings"]


def test_a_folder_of_files_is_taken_back_to_its_own_pixels(weights, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for name, shape in (("tall", (200, 90)), ("wide", (70, 240))):
        cv2.imwrite(str(images / f"{name}.png"), cv2.GaussianBlur(random.random(shape), (0, 0), 9) * 255)
    (images / "broken.png").write_bytes(b"no image")
    run("inference", tmp_path / "out", dataset_dir=images, ckpt_path=weights, classes="Mass", overlays=0, method="cam")
    masks = json.loads((tmp_path / "out/masks.json").read_text())
    assert {name: mask["Mass"]["size"] for name, mask in masks.items()} == {"tall": [200, 90], "wide": [70, 240]}
    boxes = pd.read_csv(tmp_path / "out/boxes.csv")
    for name, width, height in (("tall", 90, 200), ("wide", 240, 70)):
        own = boxes[boxes["image_id"] == name]
        assert (own["x"] + own["w"] <= width + 2.6).all()
        assert (own["y"] + own["h"] <= height + 2.6).all()


def test_a_missing_classifier_is_told_with_the_way_to_one(small_phantom, tmp_path):
    for config in ("inference", "evaluate"):
        with pytest.raises(Exception) as failed:  # noqa: PT011 - MONAI wraps it
            run(config, tmp_path, data_file=small_phantom, ckpt_path=tmp_path / "none.pt")
        told = str(user_error(failed.value))
        assert "none.pt: no such file; name a classifier with --ckpt_path, or train one" in told
        assert list(tmp_path.iterdir()) == []
