"""The phantom as a store."""

from __future__ import annotations

import numpy as np
import pytest

from cxrmonai.data.phantom import FINDINGS, MASK_NAMES
from cxrmonai.data.phantom_store import default_store, write_phantom
from cxrmonai.data.splits import check_overlap
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError


@pytest.fixture(scope="module")
def store(small_phantom):
    return Store(small_phantom)


def test_it_says_what_it_is(store):
    assert store.synthetic
    assert store.source == "phantom"
    assert store.class_names == list(FINDINGS)
    assert store.mask_names == list(MASK_NAMES)
    assert store.size == 64
    assert store.table["patient_id"].nunique() == 24
    assert len(store) > 24
    assert store.images.reshape(len(store), -1).std(1).min() > 10


def test_patients_are_in_one_split(store):
    check_overlap(store.table)
    assert set(store.column("split")) == {"train", "val", "test"}


def test_labels_masks_and_boxes_agree(store):
    masks, known = store.masks(np.arange(len(store)))
    assert known.all()
    drawn = masks.any((2, 3))
    lungs = MASK_NAMES.index("Lungs")
    assert drawn[:, lungs].all()
    positions = [MASK_NAMES.index(name) for name in FINDINGS]
    np.testing.assert_array_equal(drawn[:, positions], store.labels == 1)
    assert set(np.unique(store.labels)) == {0, 1}
    row_of = {name: k for k, name in enumerate(store.column("image_id"))}
    covered = np.zeros_like(masks)
    for image_id, finding, x, y, w, h in store.boxes.itertuples(index=False):
        part = covered[row_of[image_id], MASK_NAMES.index(finding)]
        part[int(y) : int(y + h), int(x) : int(x + w)] = True
        inside = masks[row_of[image_id], MASK_NAMES.index(finding)][int(y) : int(y + h), int(x) : int(x + w)]
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
    covered[:, lungs] = masks[:, lungs]
    assert not (masks & ~covered).any()
    np.testing.assert_array_equal(covered.any((2, 3)), drawn)


def test_two_builds_are_equal(tmp_path, same_stores, store_contents):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert write_phantom(tmp_path / f"{name}.h5", patients=3, size=32, seed=seed, progress=False) >= 3
    same_stores(tmp_path / "a.h5", tmp_path / "b.h5")
    assert "masks/bits" in store_contents(tmp_path / "a.h5")
    first, third = Store(tmp_path / "a.h5").images, Store(tmp_path / "c.h5").images
    assert third.shape != first.shape or (third != first).any()


def test_processes_draw_the_same(tmp_path, same_stores):
    for workers in (0, 2):
        write_phantom(tmp_path / f"{workers}.h5", patients=4, size=32, progress=False, workers=workers)
    same_stores(tmp_path / "0.h5", tmp_path / "2.h5")


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(CxrError, match="exists already"):
        write_phantom(tmp_path / "a.h5", patients=2, size=32)
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_the_default_is_made_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cxrmonai.data.phantom_store.DEFAULT_PATIENTS", 2)

    def tiny(path, overwrite, **_):
        write_phantom(path, patients=2, size=32, overwrite=overwrite, progress=False)

    monkeypatch.setattr("cxrmonai.data.phantom_store.write_phantom", tiny)
    path = default_store(tmp_path / "new")
    made = Store(path)
    assert len(made) >= 2
    before = made.path.stat().st_mtime_ns
    assert default_store(tmp_path / "new") == path
    assert made.path.stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("making the synthetic phantom") == 1
