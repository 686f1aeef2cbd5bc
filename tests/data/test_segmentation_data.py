"""What a segmenter learns from: masks that are known, how often each kind is drawn, turns of a cross-validation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from cxrmonai.data.dataset import EpochSampler, store_loader
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.mask_store import MaskStoreWriter
from cxrmonai.data.segmentation import SegmentationDataset, choose_masks, split_rows
from cxrmonai.data.splits import fold_splits
from cxrmonai.data.store import Store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError

SIZE, COUNT = 16, 40
NAMES = ["Mass", "Edema", "lungs"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """40 training images of 10 patients, 16 wide and 8 high, masks drawn for 30 of them; the last 10 are `val`."""
    path = tmp_path_factory.mktemp("segmentation") / "store.h5"
    random = np.random.default_rng(0)
    ids = [f"i{k}" for k in range(COUNT)]
    bits = np.zeros((30, SIZE, SIZE), np.uint32)
    bits[:, 4:12] = random.integers(0, 4, (30, 8, SIZE))
    bits[::3] &= ~np.uint32(1)  # no Mass in each third image
    bits[:, 5:7] |= 4
    write_store(
        path,
        images=random.integers(0, 255, (COUNT, SIZE, SIZE)).astype(np.uint8),
        geometry=np.tile(letterbox_geometry(80, 160, SIZE), (COUNT, 1)),
        table=make_table(
            {
                "image": ids, "image_id": ids, "patient_id": [f"p{k // 4}" for k in range(COUNT)],
                "split": ["train"] * 32 + ["val"] * 8,
            },
            pd.DataFrame({"Mass": np.zeros(COUNT), "Edema": np.zeros(COUNT)}),
        ),
        class_names=["Mass", "Edema"],
        source="test",
        masks=(np.arange(30), np.where(np.arange(30) < 20, 0b111, 0b011).astype(np.uint32), bits),
        mask_names=NAMES,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pseudo(store, tmp_path_factory):
    """Pseudo-masks of all images but one, of two findings in another order, with undecided pixels."""
    path = tmp_path_factory.mktemp("pseudo") / "pseudo.h5"
    values = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (COUNT - 1, 2, SIZE, SIZE))
    rows = np.random.default_rng(2).permutation(COUNT - 1)
    with MaskStoreWriter(path, ["Edema", "Mass"], SIZE, kind="ir") as writer:
        writer.add(rows, [f"i{row}" for row in rows], values[rows])
    return path, values


def test_masks_of_experts_with_padding_and_what_was_not_drawn_unknown(store):
    dataset = SegmentationDataset(store, "lungs,Mass")
    assert len(dataset) == 30  # of 32 training images
    batch = dataset.__getitems__(range(30))
    masks, known = Store(store).masks(range(30))
    assert batch["mask"].dtype == torch.uint8
    found = batch["mask"].numpy()
    assert (found[:, :, :4] == 255).all()
    assert (found[:, :, 12:] == 255).all()
    np.testing.assert_array_equal(found[:, 1, 4:12], masks[:, 0, 4:12])
    np.testing.assert_array_equal(found[:20, 0, 4:12], masks[:20, 2, 4:12])
    assert (found[20:, 0] == 255).all()
    np.testing.assert_array_equal(batch["mask_known"].numpy(), known[:, [2, 0]])
    assert dataset.from_expert.all()
    assert dataset.expert_counts.tolist() == [20, 20]
    assert dataset.weights(0.9) is None


def test_so_many_masks_of_each_class_and_no_more(store):
    one = SegmentationDataset(store, "Mass,Edema", expert_masks=3, seed=5)
    batch = one.__getitems__(range(len(one)))
    inside = (batch["mask"] == 1).any(dim=3).any(dim=2)
    assert inside.sum(dim=0).tolist() == [3, 3] == one.expert_counts.tolist()
    truth = Store(store).masks(one.rows)[0][:, :2].any(axis=(2, 3))
    known = batch["mask_known"].numpy()
    np.testing.assert_array_equal(known, inside.numpy() | ~truth)  # absent is known, there and not drawn is not
    again = SegmentationDataset(store, "Mass,Edema", expert_masks=3, seed=5)
    np.testing.assert_array_equal(one.rows, again.rows)
    assert any(
        not np.array_equal(one.rows, SegmentationDataset(store, "Mass,Edema", expert_masks=3, seed=seed).rows)
        for seed in range(3)
    )
    assert SegmentationDataset(store, "Mass", expert_masks=1000).expert_counts.tolist() == [20]


def test_pseudo_masks_come_by_their_names_and_rows(store, pseudo):
    path, values = pseudo
    dataset = SegmentationDataset(store, "Mass,Edema", supervision="weak", pseudo_masks=path)
    assert len(dataset) == 32
    assert not dataset.from_expert.any()
    batch = dataset.__getitems__([7, 3])
    np.testing.assert_array_equal(batch["mask"].numpy()[:, :, 4:12], values[[7, 3]][:, ::-1, 4:12])
    assert (batch["mask"].numpy()[:, :, :4] == 255).all()
    assert batch["index"].tolist() == [7, 3]


def test_both_kinds_are_drawn_in_the_proportion_asked_for(store, pseudo):
    dataset = SegmentationDataset(store, "Mass,Edema", supervision="semi", expert_masks=2, pseudo_masks=pseudo[0])
    experts = int(dataset.from_expert.sum())
    assert len(dataset) == experts + 32
    weights = dataset.weights(0.9)
    share = weights / weights.sum()
    assert share[dataset.from_expert].sum() == pytest.approx(0.9, abs=1e-12)  # of each draw, exactly
    np.testing.assert_allclose(share[dataset.from_expert], 0.9 / experts)
    np.testing.assert_allclose(share[~dataset.from_expert], 0.1 / 32)
    sampler = EpochSampler(len(dataset), shuffle=True, seed=3, weights=weights)
    drawn = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(dataset)
        drawn += [dataset.from_expert[place] for place in order]
    spread = np.sqrt(0.9 * 0.1 / len(drawn))
    assert abs(np.mean(drawn) - 0.9) < 4 * spread
    sampler.set_epoch(7)
    once = list(sampler)
    sampler.set_epoch(8)
    other = list(sampler)
    sampler.set_epoch(7)
    assert list(sampler) == once != other
    batch = next(iter(store_loader(dataset, 16, shuffle=True, seed=3, weights=weights)))
    assert batch["mask"].shape == (16, 2, SIZE, SIZE)


def test_strong_weights_at_the_ends(store, pseudo):
    dataset = SegmentationDataset(store, "Mass", supervision="semi", expert_masks=2, pseudo_masks=pseudo[0])
    for weight, kind in ((1.0, True), (0.0, False)):
        order = list(EpochSampler(len(dataset), shuffle=True, weights=dataset.weights(weight)))
        assert set(dataset.from_expert[order].tolist()) == {kind}
    with pytest.raises(CxrError, match="from 0 to 1"):
        dataset.weights(1.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": "Nodule"}, "no class 'Nodule'; there are Mass, Edema, lungs"),
        ({"classes": "Mass", "supervision": "strong"}, "known are full, weak, semi"),
        ({"classes": "Mass", "supervision": "weak"}, "pseudo_masks is missing"),
        ({"classes": "Mass", "expert_masks": 0}, "at least 1"),
        (
            {"classes": "Mass", "split": "val"},
            "no image of the split val has a mask of Mass; name other classes, or a split",
        ),
        ({"classes": "Mass", "split": "test"}, "no image is in the split test"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(store, options, match):
    with pytest.raises(CxrError, match=match):
        SegmentationDataset(store, **options)


def test_pseudo_masks_of_other_images_are_refused(store, tmp_path):
    def fails(match, rows=(0, 1), ids=("i0", "i1"), size=SIZE, classes="Mass", split="train"):
        path = tmp_path / "other.h5"
        with MaskStoreWriter(path, ["Mass"], size) as writer:
            writer.add(rows, ids, np.zeros((2, 1, size, size), np.uint8))
        with pytest.raises(CxrError, match=match):
            SegmentationDataset(store, classes, split, supervision="weak", pseudo_masks=path)

    fails("another store", ids=("i0", "x"))
    fails("do not fit a store of 16", size=8)
    fails("no pseudo-mask of an image of the split train; make it anew .* --images_of all", (38, 39), ("i38", "i39"))
    fails("no pseudo-mask of an image of the split val; make it anew", (0, 1), ("i0", "i1"), split="val")
    fails("no class 'Edema'; there are Mass", classes="Mass,Edema")


def test_what_to_segment_by_default(store, small_phantom):
    assert choose_masks(store, None) == ["Mass", "Edema"]
    assert choose_masks(store, "lungs") == ["lungs"]
    assert set(choose_masks(small_phantom, None)) <= set(Store(small_phantom).class_names)
    with pytest.raises(CxrError, match="no class 'Hernia'"):
        choose_masks(store, ["Hernia"])


def test_each_patient_is_tested_on_once(store):
    patients = np.array([f"p{k // 3}" for k in range(33)])
    turns = [fold_splits(patients, fold, 5, seed=1) for fold in range(5)]
    assert (np.stack([turn == "test" for turn in turns]).sum(axis=0) == 1).all()
    assert (np.stack([turn == "val" for turn in turns]).sum(axis=0) == 1).all()
    for turn in turns:
        for patient in set(patients):
            assert len(set(turn[patients == patient])) == 1
    order = np.random.default_rng(0).permutation(33)
    np.testing.assert_array_equal(fold_splits(patients[order], 2, 5, seed=1), turns[2][order])
    with pytest.raises(CxrError, match="3 folds or more"):
        fold_splits(patients, 5, 5)
    with pytest.raises(CxrError, match="cannot be dealt out"):
        fold_splits(patients[:6], 0, 3)
    rows = [split_rows(Store(store), split, 1, 5) for split in ("train", "val", "test", "all")]
    assert sorted(np.concatenate(rows[:3])) == list(range(COUNT)) == list(rows[3])
