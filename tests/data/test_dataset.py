"""Batches out of a store: the same whatever the way, the workers and the ranks."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrmonai import distributed
from cxrmonai.data.dataset import EpochSampler, StoreDataset, store_loader
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.store import Store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError


@pytest.fixture(scope="module")
def store(small_phantom):
    return Store(small_phantom)


@pytest.fixture
def ranks(monkeypatch):
    """`of(count)` yields as each rank in turn."""

    def of(count):
        for rank in range(count):
            with monkeypatch.context() as patch:
                patch.setattr(distributed, "world_size", lambda: count)
                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                yield rank

    return of


def batches_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"image", "label", "index"}
        for name in one:
            assert one[name].dtype == other[name].dtype
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


def test_batches_in_order_are_the_store(store):
    loader = store_loader(StoreDataset(store.path), 7)
    batches = list(loader)
    assert [len(batch["image"]) for batch in batches] == [7] * (len(store) // 7) + [len(store) % 7]
    assert batches[0]["image"].shape == (7, 1, 64, 64)
    assert batches[0]["image"].dtype == torch.uint8
    assert batches[0]["label"].dtype == torch.float32
    assert batches[0]["index"].dtype == torch.int64
    joined = {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}
    np.testing.assert_array_equal(joined["image"][:, 0], store.images)
    np.testing.assert_array_equal(joined["label"], store.labels)
    np.testing.assert_array_equal(joined["index"], np.arange(len(store)))


def test_a_split_and_a_choice_of_rows(store):
    for dataset, rows in (
        (StoreDataset(store.path, "val"), np.flatnonzero(store.column("split") == "val")),
        (StoreDataset(store.path, ["test", "val"]), np.flatnonzero(store.column("split") != "train")),
        (StoreDataset(store.path, rows=[9, 2, 5]), np.array([9, 2, 5])),
    ):
        assert 0 < len(dataset) == len(rows) < len(store)
        np.testing.assert_array_equal(dataset.rows, rows)
        (batch,) = store_loader(dataset, len(rows))
        np.testing.assert_array_equal(batch["index"], rows)
        np.testing.assert_array_equal(batch["image"][:, 0], store.images[rows])
        np.testing.assert_array_equal(batch["label"], store.labels[rows])
    with pytest.raises(CxrError, match="no image is in the split dev"):
        StoreDataset(store.path, "dev")


def test_a_single_item_is_a_row_of_the_batch(store):
    dataset = StoreDataset(store.path, "train")
    item = dataset[3]
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        "image": (1, 64, 64), "label": (len(store.class_names),), "index": ()
    }  # fmt: skip
    row = dataset.rows[3]
    assert item["index"] == row
    np.testing.assert_array_equal(item["image"][0], store.images[row])
    np.testing.assert_array_equal(item["label"], store.labels[row])


def test_changing_a_batch_leaves_the_store_alone(store):
    for device in (None, "cpu"):
        dataset = StoreDataset(store.path, device=device)
        before = dataset[0]["image"].clone()
        batch = dataset.__getitems__([0, 1])
        batch["image"].fill_(255)
        batch["label"].fill_(7)
        assert torch.equal(dataset[0]["image"], before)
        assert not (dataset[0]["label"] == 7).any()


@pytest.mark.parametrize("choice", [{}, {"split": "train"}, {"rows": [4, 0, 7, 7]}])
def test_resident_equals_mapped(store, choice):
    mapped = list(store_loader(StoreDataset(store.path, **choice), 3, shuffle=True, seed=2))
    resident = list(store_loader(StoreDataset(store.path, device="cpu", **choice), 3, shuffle=True, seed=2))
    batches_equal(mapped, resident)


def test_resident_images_leave_the_file(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = StoreDataset(store.path, device="cpu")
    dataset.store.close()
    dataset.__getitems__([0])
    assert "images" not in dataset.store.__dict__


def test_16_bit_and_unknown_labels_come_through(tmp_path):
    images = np.random.default_rng(0).integers(0, 65536, (6, 16, 16)).astype(np.uint16)
    labels = pd.DataFrame({"A": [1, 0, -1, np.nan, 1, 0]})
    names = [str(k) for k in range(6)]
    geometry = np.tile(letterbox_geometry(16, 16, 16), (6, 1))
    write_store(
        tmp_path / "a.h5",
        images=images,
        geometry=geometry,
        table=make_table({"image": names, "image_id": names}, labels),
        class_names=["A"],
        source="test",
    )
    for device in (None, "cpu"):
        (batch,) = store_loader(StoreDataset(tmp_path / "a.h5", device=device), 6)
        assert batch["image"].dtype == torch.uint16
        np.testing.assert_array_equal(batch["image"][:, 0].numpy(), images)
        np.testing.assert_array_equal(batch["label"], labels.to_numpy(np.float32))


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 2), ("forkserver", 1)])
def test_workers_give_the_same_batches(store, method, workers):
    dataset = StoreDataset(store.path)
    assert dataset.store.images.shape == store.images.shape
    alone = store_loader(dataset, 16, shuffle=True, seed=1)
    helped = store_loader(dataset, 16, shuffle=True, seed=1, num_workers=workers, start_method=method)
    for epoch in (0, 1):
        for loader in (alone, helped):
            loader.sampler.set_epoch(epoch)
        batches_equal(list(alone), list(helped))


def test_workers_and_a_resident_set_do_not_go_together(store):
    with pytest.raises(CxrError, match="num_workers must be 0"):
        store_loader(StoreDataset(store.path, device="cpu"), 4, num_workers=1)


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_that_seed_and_epoch_alone_decide(length, seed, epoch):
    sampler = EpochSampler(length, True, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(length))
    assert order == list(sampler)
    assert len(sampler) == length
    again = EpochSampler(length, True, seed)
    again.set_epoch(epoch + 1)
    again.set_epoch(epoch)
    assert list(again) == order


def test_epochs_and_seeds_differ():
    orders = set()
    for seed in range(3):
        sampler = EpochSampler(40, True, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 9
    assert list(EpochSampler(5, False)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("rows", [24, 25, 31])
def test_batches_of_the_ranks_join_to_those_of_one(store, ranks, count, shuffle, rows):
    dataset = StoreDataset(store.path, rows=range(rows))
    whole = store_loader(dataset, 2 * count, shuffle, drop_last=True, seed=3)
    whole.sampler.set_epoch(1)
    whole = [batch["index"].tolist() for batch in whole]
    shares = []
    for _ in ranks(count):
        loader = store_loader(dataset, 2, shuffle, drop_last=True, seed=3)
        loader.sampler.set_epoch(1)
        shares.append([batch["index"].tolist() for batch in loader])
        assert len(loader) == len(shares[-1])
    assert len(whole) == rows // (2 * count)
    assert [sorted(itertools.chain(*steps)) for steps in zip(*shares, strict=True)] == [
        sorted(batch) for batch in whole
    ]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_drop_last_the_ranks_see_every_row_once(store, ranks, count):
    dataset = StoreDataset(store.path, rows=range(26))
    seen = [row for _ in ranks(count) for batch in store_loader(dataset, 4) for row in batch["index"].tolist()]
    assert sorted(seen) == list(range(26))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("rows", [24, 25, 31])
def test_in_order_the_ranks_share_the_batches_of_one(store, ranks, count, rows):
    dataset = StoreDataset(store.path, rows=range(rows))
    whole = [batch["index"].tolist() for batch in store_loader(dataset, 4)]
    shares = [[batch["index"].tolist() for batch in store_loader(dataset, 4)] for _ in ranks(count)]
    assert shares == [whole[rank::count] for rank in range(count)]


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 70))
def test_what_the_ranks_make_comes_back_in_order(rows, count, size):
    rows = max(rows, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: count)
        block = max(1, min(size, rows // count))
        samplers = []
        for rank in range(count):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            samplers.append(EpochSampler(rows, False, even=False, block=block))
        shares = [np.array(list(sampler)) for sampler in samplers]
        assert min(map(len, shares)) > 0  # no rank is idle
        patch.setattr(distributed, "collect", lambda part: shares)
        np.testing.assert_array_equal(samplers[0].join(shares[0]), np.arange(rows))
        patch.setattr(distributed, "collect", lambda part: None)
        np.testing.assert_array_equal(samplers[-1].join(shares[-1]), shares[-1])


def test_unshared_rows_go_to_every_rank(store, ranks):
    dataset = StoreDataset(store.path, rows=range(9))
    for _ in ranks(3):
        (batch,) = store_loader(dataset, 9, shard=False)
        assert batch["index"].tolist() == list(range(9))


def test_fewer_rows_than_ranks(ranks):
    for _ in ranks(3):
        with pytest.raises(CxrError, match="2 images cannot be shared among 3 ranks"):
            EpochSampler(2, True)


@pytest.mark.parametrize(
    ("rows", "size", "drop_last", "lengths"),
    [(10, 4, True, [4, 4]), (10, 4, False, [4, 4, 2]), (3, 4, True, [3]), (4, 4, True, [4]), (1, 1, True, [1])],
)
def test_drop_last_keeps_the_only_batch(store, rows, size, drop_last, lengths):
    loader = store_loader(StoreDataset(store.path, rows=range(rows)), size, drop_last=drop_last)
    assert [len(batch["image"]) for batch in loader] == lengths
    assert len(loader) == len(lengths)


def test_weights_decide_how_often_a_row_is_drawn():
    weights = np.array([0.0, 1.0, 3.0, 0.0, 4.0])
    rows = np.repeat(weights, 4000)
    sampler = EpochSampler(len(rows), True, 3, weights=rows)
    sampler.set_epoch(1)
    drawn = list(sampler)
    assert len(drawn) == len(rows)
    counts = np.bincount(np.array(drawn) // 4000, minlength=5)
    assert counts[0] == counts[3] == 0
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.02)
    again = EpochSampler(len(rows), True, 3, weights=rows)
    again.set_epoch(1)
    assert list(again) == drawn
    again.set_epoch(2)
    assert list(again) != drawn


@pytest.mark.parametrize(("weights", "shuffle"), [([1, 1], True), ([0, 0, 0], True), ([1, 1, 1], False)])
def test_weights_that_will_not_do(weights, shuffle):
    with pytest.raises(CxrError, match="weights for 3 rows"):
        EpochSampler(3, shuffle, weights=weights)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 1.0]])
def test_an_epoch_may_draw_more_or_fewer_rows_than_there_are(weights):
    for draws in (2, 8):
        sampler = EpochSampler(3, True, 5, weights=weights, draws=draws)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == draws
        if weights is None:  # whole orders one after another
            assert max(np.bincount(drawn, minlength=3)) - min(np.bincount(drawn, minlength=3)) <= 1
        else:
            assert 1 not in drawn
        sampler.set_epoch(1)
        assert list(sampler) != drawn or draws == 2
    with pytest.raises(CxrError, match="8 draws an epoch"):
        EpochSampler(3, False, draws=8)
    with pytest.raises(CxrError, match="0 draws an epoch"):
        EpochSampler(3, True, draws=0)


@pytest.fixture(scope="module")
def masked_store(tmp_path_factory):
    """Seven images of which three have masks of some of three names, in an order of their own."""
    path = tmp_path_factory.mktemp("masks") / "masks.h5"
    random = np.random.default_rng(0)
    bits = random.integers(0, 8, (3, 8, 8)).astype(np.uint32)
    names = [f"i{k}" for k in range(7)]
    write_store(
        path,
        images=random.integers(0, 255, (7, 8, 8)).astype(np.uint8),
        geometry=np.tile(letterbox_geometry(8, 8, 8), (7, 1)),
        table=make_table({"image": names, "image_id": names, "split": ["train"] * 7}),
        class_names=[],
        source="test",
        masks=(np.array([5, 0, 3]), np.array([0b111, 0b001, 0b110], np.uint32), bits),
        mask_names=["lungs", "Pleural Effusion", "Mass"],
    )
    return path, bits


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_masks_ride_in_batches_in_the_order_asked_for(masked_store, keep, device):
    path, bits = masked_store
    dataset = StoreDataset(path, rows=[3, 1, 5, 0], masks=["Effusion", "lungs"], keep_masks=keep, device=device)
    batch = dataset.__getitems__([2, 1, 0, 3])  # rows 5, 1, 3, 0
    assert batch["mask"].shape == (4, 2, 8, 8)
    assert batch["mask"].dtype == torch.uint8
    expected = np.zeros((4, 2, 8, 8), bool)
    for place, stored in ((0, 0), (2, 2), (3, 1)):
        expected[place, 0], expected[place, 1] = bits[stored] & 2 != 0, bits[stored] & 1 != 0
    np.testing.assert_array_equal(batch["mask"].numpy(), expected)
    np.testing.assert_array_equal(batch["mask_known"].numpy(), [[1, 1], [0, 0], [1, 0], [0, 1]])
    assert dataset[0]["mask"].shape == (2, 8, 8)
    whole, known = Store(path).masks([5, 1])
    np.testing.assert_array_equal(whole[0, :2], expected[0, ::-1])
    np.testing.assert_array_equal(known, [[True] * 3, [False] * 3])


def test_masks_that_are_not_there_are_named(masked_store, store, tmp_path):
    with pytest.raises(CxrError, match=r"masks.h5: masks: no class 'Nodule'; there are lungs, Pleural Effusion, Mass"):
        StoreDataset(masked_store[0], masks=["Nodule"])
    write_store(
        tmp_path / "bare.h5",
        images=np.zeros((1, 8, 8), np.uint8),
        geometry=letterbox_geometry(8, 8, 8)[None],
        table=make_table({"image": ["a"], "image_id": ["a"], "split": ["train"]}),
        class_names=[],
        source="test",
    )
    with pytest.raises(CxrError, match="holds no masks"):
        StoreDataset(tmp_path / "bare.h5", masks=["lungs"])
    batch = StoreDataset(tmp_path / "bare.h5").__getitems__([0])
    assert "mask" not in batch
    workers = list(store_loader(StoreDataset(store.path, masks=["lungs"]), 64, num_workers=1, start_method="spawn"))
    alone = list(store_loader(StoreDataset(store.path, masks=["lungs"]), 64))
    torch.testing.assert_close(workers[0]["mask"], alone[0]["mask"])
