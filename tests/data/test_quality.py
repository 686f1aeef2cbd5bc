"""A look at a store: what is planted is found, and nothing else."""

from __future__ import annotations

from itertools import combinations

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmonai.data.geometry import letterbox, letterbox_geometry
from cxrmonai.data.quality import CopyGroup, Findings, inspect
from cxrmonai.data.quality import neighbours as neighbours_module
from cxrmonai.data.quality.copies import group_copies
from cxrmonai.data.quality.inspection import is_frontal
from cxrmonai.data.quality.neighbours import LIMIT, near_pairs
from cxrmonai.data.quality.polarity import looks_inverted
from cxrmonai.data.quality.thumbnails import agreement, equalised, hashes, negated, signatures, thumbnail
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import Store, write_store
from cxrmonai.data.table import make_table

SIZE = 128


def resized(image):
    return cv2.resize(cv2.resize(image, (90, 90), interpolation=cv2.INTER_AREA), (SIZE, SIZE))


def jpeg(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)


def gamma(image, power=1.25):
    return np.rint(255 * (image / 255) ** power).astype(np.uint8)


def brighter(image):
    return np.clip(image.astype(int) + 15, 0, 255).astype(np.uint8)


def negative(image):
    return 255 - image


CHANGES = {"resized": resized, "jpeg": jpeg, "gamma": gamma, "brighter": brighter,
           "all": lambda image: jpeg(gamma(resized(image), 0.85))}  # fmt: skip


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """(N, 128, 128) different phantoms, some of one patient."""
    from cxrmonai.data.phantom_store import write_phantom

    path = tmp_path_factory.mktemp("phantom") / "phantom.h5"
    write_phantom(path, patients=16, size=SIZE, seed=3, progress=False)
    with h5py.File(path) as file:
        return file["images"][:]


@pytest.fixture
def make_store(tmp_path):
    def make(images, geometry=None, **columns):
        count = len(images)
        numbers = [str(k) for k in range(count)]
        given = {"image": numbers, "image_id": numbers, "patient_id": [f"patient-{k}" for k in numbers], **columns}
        if geometry is None:
            geometry = np.tile(letterbox_geometry(*images.shape[1:], images.shape[1]), (count, 1))
        write_store(
            tmp_path / "a.h5", images=images, geometry=geometry, table=make_table(given), class_names=[], source="test"
        )
        return Store(tmp_path / "a.h5")

    return make


def test_a_clean_store_has_no_findings(radiographs, make_store):
    found = inspect(make_store(radiographs), progress=False)
    assert found == Findings(images=len(radiographs))
    assert found.warnings() == []


def test_each_kind_of_copy_is_found_and_no_other(radiographs, make_store):
    count = len(radiographs)
    copies = [change(radiographs[3 * k]) for k, change in enumerate(CHANGES.values())]
    found = inspect(make_store(np.concatenate([radiographs, copies])), progress=False)
    assert [group.rows for group in found.copies] == [(3 * k, count + k) for k in range(len(copies))]
    assert found.blank == found.inverted == ()


def test_copies_of_copies_are_one_group(radiographs, make_store):
    count = len(radiographs)
    more = [radiographs[7], jpeg(radiographs[7]), gamma(radiographs[7]), radiographs[7], jpeg(radiographs[7])]
    found = inspect(make_store(np.concatenate([radiographs, more])), progress=False)
    assert [group.rows for group in found.copies] == [(7, *range(count, count + 5))]


def test_a_radiograph_and_its_negative_are_copies(radiographs, make_store):
    count = len(radiographs)
    found = inspect(make_store(np.concatenate([radiographs, [negative(jpeg(radiographs[4]))]])), progress=False)
    assert [group.rows for group in found.copies] == [(4, count)]
    assert found.inverted == (count,)


def test_padding_does_not_count(radiographs, make_store):
    """The same narrow radiograph, whether small in its file or large, lies in the middle of the store's square."""
    narrow = radiographs[5][:, 20:110]
    images = np.stack([letterbox(image, SIZE) for image in (narrow, cv2.resize(narrow, (60, 85)), radiographs[0])])
    geometry = np.stack([letterbox_geometry(*shape, SIZE) for shape in ((128, 90), (85, 60), (128, 128))])
    found = inspect(make_store(images, geometry), progress=False)
    assert [group.rows for group in found.copies] == [(0, 1)]


def test_groups_say_what_they_cross(radiographs, make_store):
    base = radiographs[:4]
    store = make_store(
        np.concatenate([base, base]),
        patient_id=["a", "b", "c", "d", "a", "x", "c", "d"],
        split=["train", "train", "train", "", "train", "train", "test", "val"],
        source=["one", "one", "one", "one", "two", "one", "two", "one"],
    )
    assert inspect(store, progress=False).copies == (
        CopyGroup((2, 6), same_patient=True, splits=("test", "train"), sources=("one", "two")),
        CopyGroup((0, 4), same_patient=True, splits=("train",), sources=("one", "two")),
        CopyGroup((1, 5), same_patient=False, splits=("train",), sources=("one",)),
        CopyGroup((3, 7), same_patient=True, splits=("val",), sources=("one",)),
    )
    groups = inspect(store, progress=False).copies
    assert [group.across_splits for group in groups] == [True, False, False, False]
    assert [group.across_sources for group in groups] == [True, True, False, False]


@pytest.mark.parametrize("depth", [8, 16])
def test_blank_images_are_found_and_are_no_copies(radiographs, make_store, depth):
    random = np.random.default_rng(0)
    noise = random.integers(120, 124, (SIZE, SIZE)).astype(np.uint8)
    mostly = np.full((SIZE, SIZE), 255, np.uint8)
    mostly[:8, :96] = radiographs[0][:8, :96]
    bars = letterbox(np.full((SIZE, 64), 200, np.uint8), SIZE)
    half = radiographs[1].copy()
    half[: SIZE // 2] = 0
    images = np.stack([np.zeros_like(noise), noise, mostly, bars, np.zeros_like(noise), half, *radiographs[2:6]])
    geometry = np.tile(letterbox_geometry(SIZE, SIZE, SIZE), (len(images), 1))
    geometry[3] = letterbox_geometry(SIZE, 64, SIZE)
    found = inspect(make_store(images if depth == 8 else images.astype(np.uint16) * 257, geometry), progress=False)
    assert found.blank == (0, 1, 2, 3, 4)
    assert found.copies == ()
    assert found.inverted == ()


def test_negatives_are_found_but_in_lateral_views(radiographs, make_store):
    images = radiographs[:12].copy()
    for row in (2, 5, 9):
        images[row] = negative(images[row])
    views = ["PA", "AP", "PA", "LATERAL", "", "LATERAL", "FRONTAL", "PA", "AP", "", "PA", "PA"]
    found = inspect(make_store(images, view=views), progress=False)
    assert found.inverted == (2, 9)
    assert found.unjudged == 2


def test_frontal_views():
    views = pd.Series(["PA", "AP", "ap supine", "", "FRONTAL", "LATERAL", "LL", "OBLIQUE"])
    assert is_frontal(views).tolist() == [True] * 5 + [False] * 3


def test_turned_radiographs_are_not_taken_for_negatives(radiographs):
    upright = [thumbnail(image) for image in radiographs]
    for turns in (1, 2, 3):
        assert not looks_inverted(np.stack([np.rot90(image, turns) for image in upright])).any()
    assert looks_inverted(255 - np.stack(upright)).all()


def test_patients_in_two_splits(radiographs, make_store):
    store = make_store(
        radiographs[:8],
        patient_id=["a", "a", "b", "b", "c", "c", "", ""],
        split=["train", "test", "val", "val", "train", "", "train", "test"],
    )
    found = inspect(store, progress=False)
    assert (found.split_patients, found.split_rows) == (1, (0, 1))


def test_repeated_ids(radiographs, make_store):
    store = make_store(radiographs[:4])
    with h5py.File(store.path, "r+") as file:
        file["table/image_id"][3] = file["table/image_id"][1]
    assert inspect(store, progress=False).repeated_ids == (1, 3)


class Watched:
    """An array that notes which rows are asked for."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __getitem__(self, key):
        self.asked.append(np.arange(len(self.array))[key])
        return self.array[key]


def test_memory_is_bounded_by_blocks(radiographs, make_store, monkeypatch):
    images = np.concatenate([radiographs, radiographs[:1]])
    store = make_store(images)
    expected = inspect(store, progress=False)
    watched = store.__dict__["images"] = Watched(np.array(store.images))
    monkeypatch.setattr("cxrmonai.data.store.BLOCK_BYTES", 4 * (SIZE**2 + 64**2 * 4 * 16))
    assert inspect(store, progress=False) == expected
    sizes = [np.size(rows) for rows in watched.asked]
    assert max(sizes) == 4
    assert np.array_equal(np.concatenate([rows for rows in watched.asked if np.ndim(rows)]), np.arange(len(images)))
    assert sizes.count(1) - (len(images) % 4 == 1) == 2  # only the pair is read again


def random_hashes(seed, count, spread):
    """Some hashes at random, and around each of them others that differ in a few bits."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2, (max(1, count // 4), 256))
    bits = centres[random.integers(0, len(centres), count)]
    flips = random.random((count, 256)) < random.uniform(0, spread, (count, 1))
    return np.packbits(bits ^ flips, axis=1).view(np.uint16)


def distance(first, second):
    return sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(first, second, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), spread=st.floats(0, 0.15), limit=st.integers(0, LIMIT),
    at_once=st.sampled_from([1, 7, 2**20]),
)  # fmt: skip
def test_banded_look_up_equals_brute_force(seed, count, spread, limit, at_once):
    hashes_ = random_hashes(seed, count, spread)
    expected = {pair for pair in combinations(range(count), 2) if distance(*hashes_[list(pair)]) <= limit}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours_module, "CANDIDATES", at_once)
        found = [tuple(sorted(pair)) for parts in near_pairs(hashes_, limit) for pair in zip(*parts, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("limit", [-1, LIMIT + 1])
def test_the_look_up_knows_its_limit(limit):
    with pytest.raises(ValueError, match=f"limit {limit}: pairs are found for 0 to 31 bits"):
        next(near_pairs(np.zeros((2, 16), np.uint16), limit))


def test_equal_hashes_of_different_images_are_told_apart(radiographs):
    """Blocks of one hash: the thumbnails decide."""
    pictures = np.stack([thumbnail(radiographs[k]) for k in (0, 3, 0, 6, 3, 0)])
    same = np.zeros((6, 16), np.uint16)
    groups = group_copies(same, np.arange(10, 16), lambda rows: pictures[rows - 10])
    assert groups == [(10, 12, 15), (11, 14)]


def test_many_copies_cost_as_many_comparisons(radiographs):
    """All pairs of 300 would need each image 299 times."""
    random = np.random.default_rng(0)
    count = 300
    bits = np.zeros((count, 256), np.uint8)
    for row in bits:
        row[random.permutation(256)[:10]] = 1
    read = []

    def load(rows):
        read.append(len(rows))
        return np.repeat(thumbnail(radiographs[0])[None], len(rows), axis=0)

    (group,) = group_copies(np.packbits(bits, axis=1).view(np.uint16), np.arange(count), load)
    assert len(group) == count
    assert sum(read) <= 8 * count


def test_a_negative_has_the_complementary_hash(radiographs):
    pictures = np.stack([thumbnail(image) for image in radiographs[:5]])
    np.testing.assert_array_equal(hashes(255 - pictures), negated(hashes(pictures)))


def test_equalising_undoes_gamma_and_shares_ranks():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(equalised(picture), equalised(picture * 3 + 7), atol=1e-6)
    steps = equalised(np.array([[[0.0, 0.0], [0.0, 1.0]]]))
    np.testing.assert_allclose(steps, [[[0.375, 0.375], [0.375, 0.875]]])


def test_agreement_is_one_with_itself_and_low_with_another(radiographs):
    seen = signatures(np.stack([thumbnail(image) for image in radiographs[:2]]))
    assert agreement(seen, seen) == pytest.approx([1, 1], abs=1e-4)
    assert agreement(seen[:1], seen[1:])[0] < 0.9
    assert agreement(*[signatures(np.zeros((1, 64, 64), np.float32))] * 2) == [0]


def test_warnings():
    found = Findings(
        images=100,
        copies=(
            CopyGroup((3, 17), False, ("test", "train"), ("a", "b")),
            CopyGroup((40, 41), True, ("train",)),
            CopyGroup((50, 51, 52), True),
        ),
        blank=(7,),
        inverted=(1, 2, 3, 4, 5, 6),
        unjudged=9,
        split_patients=2,
        split_rows=(3, 4, 9),
        repeated_ids=(0, 8),
    )
    assert found.warnings() == [
        "3 groups of near-identical images (7 images), 1 group across splits, 1 group across sources, 1 group of "
        "different patient ids: rows 3 and 17; 40 and 41; …; remove the copies or give them one patient id",
        "1 blank image: row 7; remove it",
        "6 images look inverted (bright air, dark bone): rows 1, 2, 3, 4, 5, …; check, and prepare the store with "
        "their grey values reversed",
        "2 patients in more than one split: rows 3, 4 and 9; divide by patient",
        "2 images with an id that another has: rows 0 and 8; give each its own",
    ]


@pytest.mark.parametrize(
    ("groups", "rows"),
    [
        ([(1, 2)], "rows 1 and 2;"),
        ([(1, 2, 3, 4, 5)], "rows 1, 2, 3, 4 and 5;"),
        ([(1, 2, 3, 4, 5, 6)], "rows 1, 2, 3, 4 and 5 …;"),
        ([(1, 2, 3), (4, 5)], "rows 1, 2 and 3; 4 and 5;"),
        ([(1, 2, 3), (4, 5, 6)], "rows 1, 2 and 3; …;"),
        ([(1, 2), (3, 4), (5, 6)], "rows 1 and 2; 3 and 4; …;"),
    ],
)
def test_a_warning_of_copies_names_five_rows_at_most(groups, rows):
    (line,) = Findings(9, copies=tuple(CopyGroup(group, True) for group in groups)).warnings()
    assert f": {rows} remove the copies" in line
    assert "patient" not in line


def test_on_real_radiographs(shared_data, make_store):
    """The originals beside their thumbnails: all pairs, and besides them the one image that ChestX-ray14 has twice."""
    root = shared_data / "nih_sample"
    table = load_source("nih", root, images="images_256").table
    small = [cv2.imread(str(root / name), cv2.IMREAD_GRAYSCALE) for name in table["image"]]
    originals = sorted((root / "images").glob("*.png"))[:24]
    large = [letterbox(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), 256) for path in originals]
    row_of = {image_id: row for row, image_id in enumerate(table["image_id"])}
    pairs = [(row_of[path.stem], len(small) + k) for k, path in enumerate(originals)]
    twice = (row_of["00002658_001"], row_of["00002658_002"])
    negatives = np.random.default_rng(0).permutation(len(small))[:60]
    images = np.stack([*small, *large])
    images[negatives] = 255 - images[negatives]
    found = inspect(make_store(images), progress=False)
    assert {group.rows for group in found.copies} == {*pairs, twice}
    assert len(set(found.inverted) & set(negatives)) >= 0.95 * len(negatives)
    assert len(set(found.inverted) - set(negatives)) <= 0.01 * len(images)
    assert found.blank == ()
