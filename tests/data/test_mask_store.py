"""A mask store: what goes in comes out, whole or not at all, at a few hundred bytes an image."""

from __future__ import annotations

import pickle
import resource

import numpy as np
import pytest

from cxrmonai.data.mask_store import KINDS, MaskStore, MaskStoreWriter
from cxrmonai.errors import CxrError

NAMES, SIZE = ["Mass", "Ödem"], 20


def draw(count, kind, seed=0, size=SIZE):
    choice = np.random.default_rng(seed).choice(KINDS[kind], (count, len(NAMES), size, size))
    return choice.astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact(tmp_path, kind):
    values = draw(7, kind)
    with MaskStoreWriter(tmp_path / "a.h5", NAMES, SIZE, kind, options={"threshold": 0.3}) as writer:
        writer.add([5, 3], ["five", "dräi"], values[:2])
        writer.add(np.arange(10, 15), [f"i{k}" for k in range(5)], values[2:])
    store = pickle.loads(pickle.dumps(MaskStore(tmp_path / "a.h5")))
    assert (store.names, store.size, store.kind, len(store)) == (NAMES, SIZE, kind, 7)
    assert store.options == {"threshold": 0.3}
    assert store.rows.tolist() == [5, 3, 10, 11, 12, 13, 14]
    assert store.image_ids == ["five", "dräi", "i0", "i1", "i2", "i3", "i4"]
    np.testing.assert_array_equal(store.get(range(7)), values)
    np.testing.assert_array_equal(store.get([6, 0, 6]), values[[6, 0, 6]])
    assert store.places_of([14, 4, 5]).tolist() == [6, -1, 0]


def test_no_image_is_a_store_as_well(tmp_path):
    with MaskStoreWriter(tmp_path / "a.h5", NAMES, SIZE):
        pass
    store = MaskStore(tmp_path / "a.h5")
    assert (len(store), store.image_ids, store.get([]).shape) == (0, [], (0, 2, SIZE, SIZE))


@pytest.mark.parametrize(
    ("rows", "ids", "values", "words"),
    [
        ([0], ["a"], draw(1, "mask").astype(np.int64), "takes uint8"),
        ([0], ["a"], draw(1, "mask", size=9), "takes uint8 of shape"),
        ([0, 1], ["a"], draw(2, "mask"), "1 images"),
        ([0], ["a"], draw(1, "mask") * 255, "no value 255"),
        ([0, 0], ["a", "b"], draw(2, "mask"), "row 0 were given twice"),
        ([1], ["a"], draw(1, "mask"), "row 1 were given twice"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, rows, ids, values, words):
    writer = MaskStoreWriter(tmp_path / "a.h5", NAMES, SIZE)

    def write():
        with writer:
            writer.add([1], ["first"], draw(1, "mask"))
            writer.add(rows, ids, values)

    with pytest.raises(CxrError, match=words):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_and_no_names_are_refused(tmp_path):
    with pytest.raises(CxrError, match=r"'soft'.*mask or ir"):
        MaskStoreWriter(tmp_path / "a.h5", NAMES, SIZE, "soft")
    with pytest.raises(CxrError, match="need names"):
        MaskStoreWriter(tmp_path / "a.h5", [], SIZE)


def test_other_files_are_refused(tmp_path, small_phantom):
    (tmp_path / "text.h5").write_text("no HDF5")
    for path, words in [("none.h5", "no such file"), ("text.h5", "no mask store"), (small_phantom, "no mask store")]:
        with pytest.raises(CxrError, match=words):
            MaskStore(tmp_path / path)


def test_masks_of_another_store_are_told(tmp_path):
    with MaskStoreWriter(tmp_path / "a.h5", NAMES, SIZE) as writer:
        writer.add([0, 4], ["a", "b"], draw(2, "mask"))
    store = MaskStore(tmp_path / "a.h5")
    store.check_ids([0, 1, 4], ["a", "whatever", "b"])
    with pytest.raises(CxrError, match="row 4 is another image"):
        store.check_ids([0, 4], ["a", "c"])


def test_memory_is_bounded_and_the_file_is_small(tmp_path):
    """600 images of 10 findings at 128 pixels are 98 MB as uint8."""
    grid = np.hypot(*np.mgrid[-64:64, -64:64])
    values = np.zeros((20, 10, 128, 128), np.uint8)
    values[:, ::3] = grid < 30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with MaskStoreWriter(tmp_path / "a.h5", [str(k) for k in range(10)], 128) as writer:
        for start in range(0, 600, 20):
            writer.add(range(start, start + 20), [str(k) for k in range(start, start + 20)], values)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
    assert (tmp_path / "a.h5").stat().st_size < 600 * 2000
