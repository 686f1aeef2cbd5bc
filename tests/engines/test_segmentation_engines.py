"""What a segmenter is judged by and what becomes of its masks: loops, tuned thresholds, and masks at original size."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrmonai.data.geometry import letterbox, letterbox_geometry
from cxrmonai.data.segmentation import SegmentationDataset
from cxrmonai.data.store import write_store
from cxrmonai.data.table import make_table
from cxrmonai.engines import MaskScorer, MeanOverlap, read_thresholds, tune_thresholds
from cxrmonai.engines.segmentation import Thresholds, known_counts, masks_at_original, write_thresholds
from cxrmonai.errors import CxrError
from cxrmonai.transforms import BatchMaskTargetd, BatchScaleIntensityd

SIZE = 48


def test_the_metric_equals_a_loop_over_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, 7, 5, generator=generator)
    target = (torch.rand(6, 2, 7, 5, generator=generator) < 0.5).float()
    target[torch.rand(6, 2, 7, 5, generator=generator) < 0.2] = torch.nan
    target[1, 0] = torch.nan
    metric = MeanOverlap("dice")
    for part in (slice(0, 4), slice(4, 6)):
        metric.update((logits[part], target[part]))
    classes = []
    for k in range(2):
        values = []
        for n in range(6):
            known = ~target[n, k].isnan()
            predicted, true = (logits[n, k] >= 0) & known, (target[n, k] == 1) & known
            if known.any() and (predicted | true).any():
                values.append(2 * (predicted & true).sum().item() / (predicted.sum() + true.sum()).item())
        classes.append(np.mean(values))
    assert metric.compute() == pytest.approx(np.mean(classes))
    counts = known_counts(logits >= 0, target)
    assert np.isnan(counts[:, 1, 0]).all()
    metric.reset()
    metric.update((logits, torch.full_like(target, torch.nan)))
    assert np.isnan(metric.compute())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eight images, wide or high, with grey that is a probability of the mask; the third mask is nowhere."""
    path = tmp_path_factory.mktemp("engines") / "store.h5"
    random = np.random.default_rng(0)
    images, bits, geometry, truth = [], [], [], []
    for k in range(8):
        shape = (120, 80) if k % 2 else (75, 131)
        y, x = np.mgrid[: shape[0], : shape[1]]
        disc = (y - random.integers(30, 50)) ** 2 + (x - random.integers(30, 50)) ** 2 < random.integers(12, 28) ** 2
        images.append(letterbox(np.where(disc, 180, 60).astype(np.uint8), SIZE))
        small = letterbox(disc.astype(np.uint8) * 255, SIZE) >= 128
        bits.append(small.astype(np.uint32) | (small.astype(np.uint32) << 1))
        geometry.append(letterbox_geometry(*shape, SIZE))
        truth.append(disc)
    names = [f"i{k}" for k in range(8)]
    write_store(
        path,
        images=np.stack(images),
        geometry=np.stack(geometry),
        table=make_table({"image": names, "image_id": names, "patient_id": list("aabbccdd"), "split": ["val"] * 8}),
        class_names=[],
        source="test",
        masks=(np.arange(7), np.array([7] * 6 + [0b101], np.uint32), np.stack(bits[:7])),
        mask_names=["Edema", "Mass", "Nodule"],
    )
    return path, truth


class Grey(torch.nn.Module):
    """Takes the grey for the probability of each mask."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def forward(self, images):
        return torch.logit(images.clamp(1e-3, 1 - 1e-3)).expand(-1, self.masks, -1, -1)


def plain(batch):
    return BatchMaskTargetd("mask")(BatchScaleIntensityd("image")(batch))


def best_by_loop(dataset, k):
    """The threshold of the best mean Dice over the images, ties nearest to one half."""
    batch, scores = dataset.__getitems__(range(len(dataset))), {}
    for threshold in np.round(np.arange(0.2, 0.801, 0.05), 2):
        values = []
        for image, mask in zip(batch["image"][:, 0].numpy(), batch["mask"][:, k].numpy(), strict=True):
            predicted, true = image[mask != 255] / 255 >= threshold, mask[mask != 255] == 1
            if len(true) and (predicted | true).any():
                values.append(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
        scores[threshold] = (round(float(np.mean(values)), 9), -abs(threshold - 0.5))
    return max(scores, key=scores.get)


def test_thresholds_are_the_best_of_the_grid(store):
    dataset = SegmentationDataset(store[0], "Edema,Mass,Nodule", split="val")
    found = tune_thresholds(Grey(3), dataset, plain, "cpu")
    assert 60 / 255 < found.values[0] <= 180 / 255
    assert found.values[0] == pytest.approx(best_by_loop(dataset, 0))
    assert found.values[2] == 0.5
    assert "7 validation images; Nodule: none there" in found.origin
    shifted = tune_thresholds(torch.nn.Sequential(Grey(3), Shift()), dataset, plain, "cpu", "miou")
    assert shifted.values[0] == pytest.approx(0.75, abs=0.051)


class Shift(torch.nn.Module):
    """Makes the background as probable as 0.65, so that only a higher threshold finds the disc."""

    def forward(self, logits):
        return logits + 1.7


def test_thresholds_lie_beside_their_weights(tmp_path, capsys):
    write_thresholds(Thresholds(np.array([0.3, 0.75]), "chosen"), tmp_path, ["a", "b"])
    found = read_thresholds(tmp_path / "model.pt", ["b", "a"])
    assert found.values.tolist() == [0.75, 0.3]
    assert found.origin == "chosen"
    with pytest.raises(CxrError, match="not the thresholds of these weights"):
        read_thresholds(tmp_path / "model.pt", ["c"])
    assert read_thresholds(tmp_path / "other/model.pt", ["c"]).values.tolist() == [0.5]
    assert "one half" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(300, 170), (111, 257), (64, 64)])
def test_a_mask_returns_to_its_own_size_within_a_pixel(shape):
    size = 128
    y, x = np.mgrid[: shape[0], : shape[1]]
    box = (y >= 20) & (y < 51) & (x >= 13) & (x < 60)
    geometry = letterbox_geometry(*shape, size)
    small = letterbox(box.astype(np.float32), size)
    (mask,) = masks_at_original(small[None], geometry, np.array([0.5]))
    assert mask.shape == shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    pixel = max(1.0, max(shape) / size)  # of the small image, in pixels of the large
    for found, drawn in ((rows[0], 20), (rows[-1], 50), (columns[0], 13), (columns[-1], 59)):
        assert abs(found - drawn) <= pixel


def run(scorer, dataset, size):
    batch = dataset.__getitems__(range(len(dataset)))
    images = BatchScaleIntensityd("image")({"image": batch["image"]})["image"]
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    engine = SimpleNamespace(state=SimpleNamespace(batch=batch, output={"pred": Grey(len(dataset.mask_names))(images)}))
    scorer.start(engine)
    scorer.step(engine)
    scorer.finish(engine)
    return scorer


def overlap_of(pair):
    """CheXlocalize's IoU of an image, written anew: (true positives only, empty unions left out)."""
    predicted, true = pair
    union = np.logical_or(predicted, true).sum()
    iou = np.logical_and(predicted, true).sum() / union if union else np.nan
    return (iou if predicted.any() and true.any() else np.nan), iou


def test_scores_at_original_size_are_those_of_chexlocalize(store, tmp_path):
    from pycocotools import mask as coco

    from cxrmonai.report.segmentation import overlap_table, summarise_overlap

    dataset = SegmentationDataset(store[0], "Edema,Mass", split="all", need_masks=False, keep_masks=False)
    thresholds = Thresholds(np.array([0.5, 0.9]), "test")
    scorer = run(MaskScorer(dataset, thresholds, "chexlocalize", tmp_path / "masks.json"), dataset, 48)
    content = json.loads((tmp_path / "masks.json").read_text())
    assert set(content) == {f"i{k}" for k in range(8)}
    tasks = set(content["i0"])
    assert len(tasks) == 10
    assert "Airspace Opacity" in tasks
    assert all(set(each) == tasks for each in content.values())
    decoded = {
        name: {task: coco.decode({**rle, "counts": rle["counts"].encode()}).astype(bool) for task, rle in each.items()}
        for name, each in content.items()
    }
    pairs = [(decoded[f"i{k}"]["Edema"], store[1][k]) for k in range(8)]
    assert all(predicted.shape == true.shape for predicted, true in pairs)
    assert not any(decoded[f"i{k}"]["Pneumothorax"].any() for k in range(8))
    summary = summarise_overlap(overlap_table(scorer), ["Edema", "Mass"], 100, 0)
    assert summary["classes"]["Edema"]["images"] == 7
    assert summary["classes"]["Mass"]["images"] == 6
    assert summary["patients"] == 4
    # The truth of a store is drawn at its size, so that it is compared as it comes back from there.
    from cxrmonai.data.geometry import mask_to_original

    drawn = dataset.store.masks(range(7))[0]
    truth = [mask_to_original(drawn[k, 0], dataset.store.geometry[k]) for k in range(7)]
    found = np.array([overlap_of((pairs[k][0], truth[k])) for k in range(7)])
    assert summary["classes"]["Edema"]["miou_true_positive"] == pytest.approx(np.nanmean(found[:, 0]))
    assert summary["classes"]["Edema"]["miou"] == pytest.approx(np.nanmean(found[:, 1]))
    assert summary["classes"]["Edema"]["dice"] > 0.9
    exact = np.nanmean([overlap_of(pairs[k])[1] for k in range(7)])
    assert summary["classes"]["Edema"]["miou"] == pytest.approx(exact, abs=0.1)
    assert summary["classes"]["Mass"]["dice"] == 0  # nothing is as probable as 0.9
    assert np.isnan(summary["classes"]["Mass"]["miou_true_positive"])


def test_a_scorer_of_another_size_and_its_table(store):
    from cxrmonai.report.segmentation import overlap_table, overlays

    dataset = SegmentationDataset(store[0], "Edema", split="all", need_masks=False, keep_masks=False)
    scorer = run(MaskScorer(dataset, Thresholds(np.array([0.45]), "test")), dataset, 32)
    table = overlap_table(scorer)
    assert table["image_id"].tolist() == [f"i{k}" for k in range(8)]
    assert pd.isna(table["intersection"].iloc[7])
    assert 2 * table["intersection"].sum() / (table["predicted"].sum() + table["true"].sum()) > 0.8
    assert scorer.counts.shape == (3, 8, 1)
    assert len(scorer.drawn) == 8
    assert overlays(scorer) is not None


def test_exports_are_checked(store):
    dataset = SegmentationDataset(store[0], "Nodule", split="all")
    half = Thresholds(np.array([0.5]), "test")
    with pytest.raises(CxrError, match="none of its ten tasks is among Nodule"):
        MaskScorer(dataset, half, "chexlocalize")
    with pytest.raises(CxrError, match="known are none, masks, chexlocalize"):
        MaskScorer(dataset, half, "pickle")
