"""Masks from maps: thresholds, gates, draws, and mask files both ways."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from cxrmonai.data.mask_file import MaskFileWriter, read_mask_file
from cxrmonai.data.mask_store import MaskStore, MaskStoreWriter
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.segmentation.pseudo_labels import (
    draw_subset,
    masks_of_maps,
    present,
    read_into_store,
    write_mask_file,
)


def maps(seed=0, shape=(2, 3, 24, 24)):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_otsu_is_that_of_each_map():
    given = maps()
    found = masks_of_maps(given)
    levels = np.round(given[1, 2] * 255).astype(np.uint8)
    np.testing.assert_array_equal(found[1, 2], levels > threshold_otsu(levels))


def test_thresholds_are_one_or_one_a_class():
    given = maps()
    np.testing.assert_array_equal(masks_of_maps(given, 0.3), given > np.float32(0.3))
    limits = np.array([0.2, 0.5, 0.9], np.float32)
    np.testing.assert_array_equal(masks_of_maps(given, limits), given > limits[:, None, None])


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rule", ["otsu", 0.3])
def test_a_constant_map_gives_an_empty_mask(value, rule):
    assert not masks_of_maps(np.full((1, 2, 8, 8), value, np.float32), rule).any()


def test_outlines_are_filled_on_request():
    given = np.zeros((1, 1, 16, 16), np.float32)
    given[..., 3:12, 3:12] = 1
    given[..., 5:9, 5:9] = 0
    assert masks_of_maps(given, 0.5).sum() == 81 - 16
    assert masks_of_maps(given, 0.5, fill=True).sum() == 81


def test_gates():
    labels = np.array([[1, 0, -1, np.nan]])
    probability = np.array([[0.2, 0.9, 0.5, 0.4]])
    assert present("label", labels, probability).tolist() == [[True, False, False, False]]
    assert present("probability", labels, probability).tolist() == [[False, True, True, False]]
    assert present("probability", labels, probability, [0.1, 1, 1, 0.1]).tolist() == [[True, False, False, True]]
    assert present("none", labels, probability).all()


def test_draws_are_seeded_and_of_images_with_a_finding():
    there = np.random.default_rng(0).random((60, 3)) > 0.7
    chosen = draw_subset(there, 10, seed=1)
    assert len(set(chosen)) == 10
    assert there[chosen].any(axis=1).all()
    np.testing.assert_array_equal(chosen, draw_subset(there, 10, seed=1))
    assert chosen.tolist() != draw_subset(there, 10, seed=2).tolist()
    each = draw_subset(there, 5, per="finding")
    assert (there[each].sum(axis=0) >= 5).all()
    assert len(each) <= 15
    np.testing.assert_array_equal(draw_subset(there, None), np.flatnonzero(there.any(axis=1)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: masks_of_maps(maps(), "mean"), "rule 'mean'"),
        (lambda: masks_of_maps(maps(), [0.1, 0.2]), "2 thresholds for 3 classes"),
        (lambda: present("labels", np.zeros((1, 1)), np.zeros((1, 1))), "known are label, probability, none"),
        (lambda: draw_subset(np.ones((3, 1), bool), 0), "at least 1"),
        (lambda: draw_subset(np.ones((3, 1), bool), 1, per="patient"), "known are image, finding"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(CxrError, match=words):
        call()


def test_mask_files_both_ways(small_phantom, tmp_path):
    store = open_store(small_phantom)
    rows, names = [0, 5, 9], ["Mass", "Pleural Effusion"]
    values = np.zeros((3, 2, store.size, store.size), np.uint8)
    values[:, 0, 10:30, 8:40] = 1
    ids = store.column("image_id")
    with MaskStoreWriter(tmp_path / "a.h5", names, store.size) as writer:
        writer.add(rows, ids[rows], values)
    write_mask_file(tmp_path / "a.json", MaskStore(tmp_path / "a.h5"), store)
    content = read_mask_file(tmp_path / "a.json")
    np.testing.assert_array_equal(content[ids[5]]["Mass"], values[1, 0] == 1)
    assert not content[ids[5]]["Pleural Effusion"].any()
    assert read_into_store(tmp_path / "b.h5", tmp_path / "a.json", store, ["mass", "Effusion"]) == 3
    back = MaskStore(tmp_path / "b.h5")
    np.testing.assert_array_equal(back.get(back.places_of(rows)), values)


def test_mask_files_that_do_not_fit_are_refused(small_phantom, tmp_path):
    store = open_store(small_phantom)
    image_id = store.column("image_id")[0]

    def written(name, shape):
        path = tmp_path / f"{name}_{shape[0]}.json"
        with MaskFileWriter(path) as writer:
            writer.add(name, {"Mass": np.zeros(shape, bool)})
        return path

    for path, names, words in (
        (written(image_id, (10, 12)), ["Mass"], "a mask of 12×10 for an image of 64×64"),
        (written(image_id, (64, 64)), ["Nodule"], "Nodule"),
        (written("another", (64, 64)), ["Mass"], "none of its images"),
    ):
        with pytest.raises(CxrError, match=words):
            read_into_store(tmp_path / "a.h5", path, store, names)
    assert not (tmp_path / "a.h5").exists()
