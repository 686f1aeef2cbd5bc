"""The store: what goes in comes out, whole or not at all."""

from __future__ import annotations

import pickle
import resource

import h5py
import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.describe import describe
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.packing import pack_bits
from cxrmonai.data.store import FORMAT_VERSION, Store, open_store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError

COUNT, SIZE = 5, 24
NAMES = ["Lungs", "Herz", "Räume"]


def parts(dtype=np.uint8, count=COUNT, **changes):
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"Ödem": rng.choice([1, 0, -1, np.nan], count), "Mass": rng.choice([1, 0], count)})
    columns = {
        "image": [f"Ordner/größe {k}.png" for k in range(count)],
        "image_id": [f"i{k}" for k in range(count)],
        "patient_id": [f"p{k // 2}" for k in range(count)],
        "view": ["", "PA", "側面", "AP", "PA"][:count] + ["PA"] * (count - 5),
        "age": [np.nan, *rng.uniform(0, 90, count - 1)],
        "sex": ["F", "M", ""][: min(3, count)] + ["F"] * (count - 3),
        "split": ["train"] * (count - 2) + ["val", "test"],
        "extra_number": np.arange(count) * 10,
        "extra_text": [f"{'x' * k}ü" for k in range(count)],
    }
    return {
        "images": rng.integers(0, np.iinfo(dtype).max + 1, (count, SIZE, SIZE)).astype(dtype),
        "geometry": np.stack([letterbox_geometry(30 + k, 20, SIZE, spacing=(0.1, np.nan)) for k in range(count)]),
        "table": make_table(columns, labels),
        "class_names": list(labels),
        "source": "tést",
        "boxes": pd.DataFrame(
            {"image_id": ["i1", "i3", "i1"], "finding": ["Mass", "Ödem", "Mass"], "x": [1.5, 2, 3], "y": [0, 1, 2.25],
             "w": [3, 4, 5.0], "h": [6, 7, 8.0]}
        ),
        "mask_names": NAMES,
        "skipped": pd.DataFrame({"image": ["ü.png"], "reason": ["the file is empty"]}),
        "options": {"size": SIZE, "notes": ["ä"]},
        **changes,
    }  # fmt: skip


def some_masks(rows):
    rng = np.random.default_rng(1)
    drawn = [{name: rng.random((SIZE, SIZE)) > 0.5 for name in NAMES if rng.random() > 0.3} for _ in rows]
    annotated = np.array([sum(1 << NAMES.index(name) for name in masks) for masks in drawn], np.uint32)
    return drawn, (np.asarray(rows), annotated, np.stack([pack_bits(masks, NAMES, SIZE) for masks in drawn]))


def frames_equal(first, second):
    pd.testing.assert_frame_equal(
        first.reset_index(drop=True), second.reset_index(drop=True), check_dtype=False, check_exact=True
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_is_exact(tmp_path, dtype):
    given = parts(dtype)
    drawn, masks = some_masks([0, 2, 4])
    write_store(tmp_path / "a.h5", **given, masks=masks, synthetic=True)
    store = open_store(tmp_path / "a.h5")
    assert len(store) == COUNT
    assert (store.size, store.dtype, store.synthetic) == (SIZE, dtype, True)
    assert (store.class_names, store.mask_names, store.source) == (["Ödem", "Mass"], NAMES, "tést")
    assert store.options == given["options"]
    np.testing.assert_array_equal(store.images, given["images"])
    np.testing.assert_array_equal(store.geometry, given["geometry"])
    frames_equal(store.table, given["table"])
    frames_equal(store.boxes, given["boxes"].iloc[[0, 2, 1]])  # in the order of the images
    frames_equal(store.skipped, given["skipped"])
    np.testing.assert_array_equal(store.labels, given["table"][["Ödem", "Mass"]].to_numpy(np.float32))
    assert store.column("view").tolist() == ["", "PA", "側面", "AP", "PA"]
    np.testing.assert_array_equal(store.mask_rows(), [0, 2, 4])
    read, known = store.masks([4, 1, 0, 4])
    for out, source in ((0, 2), (2, 0), (3, 2)):
        for bit, name in enumerate(NAMES):
            assert known[out, bit] == (name in drawn[source])
            np.testing.assert_array_equal(read[out, bit], drawn[source].get(name, np.zeros((SIZE, SIZE), bool)))
    assert not read[1].any()
    assert not known[1].any()


def test_images_are_contiguous_aligned_and_the_same_by_every_way(tmp_path):
    count = 20
    given = parts(np.uint16, count)
    write_store(tmp_path / "a.h5", **given)
    store = Store(tmp_path / "a.h5")
    with h5py.File(store.path) as file:
        data = file["images"]
        assert data.chunks is None
        assert data.compression is None
        offset = data.id.get_offset()
        assert offset % 4096 == 0
        np.testing.assert_array_equal(data[:], given["images"])
    raw = np.fromfile(store.path, "<u2", count * SIZE**2, offset=offset).reshape(given["images"].shape)
    np.testing.assert_array_equal(raw, given["images"])
    np.testing.assert_array_equal(store.images, given["images"])
    assert isinstance(store.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.images[0, 0, 0] = 1


def test_rows_left_out_take_their_boxes_and_masks_along(tmp_path):
    given = parts()
    keep = np.array([True, False, False, True, True])
    drawn, masks = some_masks([0, 2, 4])
    write_store(tmp_path / "a.h5", **given, masks=masks, keep=keep)
    store = Store(tmp_path / "a.h5")
    assert store.column("image_id").tolist() == ["i0", "i3", "i4"]
    np.testing.assert_array_equal(store.images, given["images"][keep])
    np.testing.assert_array_equal(store.geometry, given["geometry"][keep])
    frames_equal(store.table, given["table"][keep])
    assert store.boxes["image_id"].tolist() == ["i3"]
    np.testing.assert_array_equal(store.mask_rows(), [0, 2])
    read, known = store.masks([2])
    np.testing.assert_array_equal(known[0], [name in drawn[2] for name in NAMES])
    for bit, name in enumerate(NAMES):
        np.testing.assert_array_equal(read[0, bit], drawn[2].get(name, np.zeros((SIZE, SIZE), bool)))


def test_blocks_do_not_lose_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("cxrmonai.data.store.BLOCK_BYTES", 2 * SIZE**2 + 1)
    given = parts(count=11)
    keep = np.arange(11) % 4 != 1
    for name, kept in (("all", None), ("some", keep)):
        write_store(tmp_path / f"{name}.h5", **given, keep=kept)
        expected = given["images"] if kept is None else given["images"][kept]
        np.testing.assert_array_equal(Store(tmp_path / f"{name}.h5").images, expected)


def test_all_32_mask_bits(tmp_path):
    names = [f"m{k}" for k in range(32)]
    masks = {name: np.eye(SIZE, k=k - 16, dtype=bool) for k, name in enumerate(names) if k != 5}
    bits = pack_bits(masks, names, SIZE)
    annotated = np.array([0xFFFFFFFF ^ (1 << 5)], np.uint32)
    write_store(tmp_path / "a.h5", **parts(mask_names=names), masks=(np.array([3]), annotated, bits[None]))
    read, known = Store(tmp_path / "a.h5").masks([3])
    for k, name in enumerate(names):
        assert known[0, k] == (k != 5)
        np.testing.assert_array_equal(read[0, k], masks.get(name, np.zeros((SIZE, SIZE), bool)))
    with pytest.raises(CxrError, match="32 at most"):
        write_store(tmp_path / "b.h5", **parts(mask_names=[*names, "one more"]))


def test_without_labels_boxes_masks(tmp_path):
    given = parts()
    table = given["table"].drop(columns=given["class_names"])
    write_store(
        tmp_path / "a.h5",
        images=given["images"],
        geometry=given["geometry"],
        table=table,
        class_names=[],
        source="folder",
    )
    store = Store(tmp_path / "a.h5")
    assert store.labels.shape == (COUNT, 0)
    assert store.boxes.shape == (0, 6)
    assert store.boxes["x"].dtype == float
    assert store.skipped.shape == (0, 2)
    assert store.masks([0, 1])[0].shape == (2, 0, SIZE, SIZE)
    frames_equal(store.table, table)


def test_rows_of_splits(tmp_path):
    write_store(tmp_path / "a.h5", **parts())
    store = Store(tmp_path / "a.h5")
    assert store.rows().tolist() == store.rows("all").tolist() == [0, 1, 2, 3, 4]
    assert store.rows("val").tolist() == [3]
    assert store.rows(["test", "train"]).tolist() == [0, 1, 2, 4]
    with pytest.raises(CxrError, match="no image is in the split dev"):
        store.rows("dev")
    with pytest.raises(CxrError, match="no column 'weight'"):
        store.column("weight")


def test_a_store_pickles_small_and_reads_on(tmp_path):
    given = parts(count=200)
    write_store(tmp_path / "a.h5", **given)
    store = Store(tmp_path / "a.h5")
    assert (store.images[3] == given["images"][3]).all()
    assert len(store.table) == 200
    data = pickle.dumps(store)
    assert len(data) < 4000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.images[7], given["images"][7])
    store.close()
    assert "images" not in store.__dict__
    np.testing.assert_array_equal(store.images[7], given["images"][7])


def test_opening_reads_nothing_but_attributes(tmp_path, monkeypatch):
    write_store(tmp_path / "a.h5", **parts())
    monkeypatch.setattr(np, "memmap", lambda *_, **__: pytest.fail("mapped the images"))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("read a data set"))
    store = Store(tmp_path / "a.h5")
    assert len(store) == COUNT
    assert not {"images", "table", "labels", "geometry", "boxes", "skipped"} & set(store.__dict__)


def test_a_store_of_terabytes_opens_and_maps(tmp_path):
    """Images far over memory: 16 million of them, in a sparse file."""
    write_store(tmp_path / "a.h5", **parts())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["images"]
        file.create_dataset("images", shape=(2**24, 256, 256), dtype="u1")
        file["images"][2**24 - 1, 255, 255] = 77
    store = Store(tmp_path / "a.h5")
    assert len(store) == 2**24
    assert store.images[2**24 - 1, 255, 255] == 77
    assert store.path.stat().st_blocks * 512 < 10 * 2**20


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def chunked(file):
    data = file["images"][:]
    del file["images"]
    file.create_dataset("images", data=data, chunks=(1, SIZE, SIZE))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda file: file.attrs.update(format_version=FORMAT_VERSION + 1), "upgrade cxrmonai"),
        (lambda file: file.attrs.update(format="other"), "not a cxrmonai store"),
        (lambda file: file.attrs.pop("format"), "not a cxrmonai store"),
        (chunked, "not contiguous"),
    ],
)
def test_another_format_is_refused(tmp_path, change, word):
    write_store(tmp_path / "a.h5", **parts())
    spoil(tmp_path / "a.h5", change)
    with pytest.raises(CxrError, match=word) as caught:
        Store(tmp_path / "a.h5")
    assert str(tmp_path / "a.h5") in str(caught.value)


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("patient,age\n")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "folder.h5").mkdir()
    write_store(tmp_path / "cut.h5", **parts())
    (tmp_path / "cut.h5").write_bytes((tmp_path / "cut.h5").read_bytes()[:-100])
    for name in ("text.h5", "empty.h5", "folder.h5", "cut.h5"):
        with pytest.raises(CxrError, match=f"{name}: not a store"):
            Store(tmp_path / name)
    with pytest.raises(CxrError, match="no such file"):
        Store(tmp_path / "absent.h5")


def test_parts_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    for changes in ({"geometry": parts()["geometry"][:-1]}, {"table": parts()["table"][:-1]}, {"keep": [True]}):
        with pytest.raises(CxrError, match="do not fit together"):
            write_store(tmp_path / "a.h5", **parts(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    (tmp_path / "a.h5").write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    given = parts(count=200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(CxrError, match="is the disk full") as caught:
            write_store(tmp_path / "a.h5", **given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).startswith(f"{tmp_path / 'a.h5'}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_text() == "before"


def test_description_counts_and_names_no_patient(tmp_path):
    given = parts()
    write_store(tmp_path / "a.h5", **given, masks=some_masks([0, 2])[1])
    text = describe(Store(tmp_path / "a.h5"))
    assert "5 radiographs of 24×24 px uint8" in text
    assert "SYNTHETIC" not in text
    assert "train: 3 images of 2 patients" in text
    present, absent = ((given["table"]["Mass"] == value).sum() for value in (1, 0))
    assert f"Mass  {present:>7}  {absent:>7}  {0:>9}  {0:>7}  {2:>5}" in text
    assert "masks of Lungs, Herz, Räume for 2 images" in text
    assert "skipped ü.png: the file is empty" in text
    assert "p0" not in text
