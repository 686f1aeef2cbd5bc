"""Jigsaw, high-pass and strong views."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cxrmonai.errors import CxrError
from cxrmonai.transforms import BatchHighPassd, BatchJigsawd, BatchRandAugmentd, jigsaw_edge
from cxrmonai.transforms.strong import OPERATIONS


def test_jigsaw_measures_are_in_proportion_to_the_published_ones():
    assert jigsaw_edge(224) == 255
    assert [jigsaw_edge(size) % 3 for size in (32, 64, 96, 320)] == [0] * 4
    pieces = BatchJigsawd("image")({"image": torch.zeros(2, 1, 255, 255)})["image"]
    assert pieces.shape == (18, 1, 64, 64)


def test_pieces_are_cut_from_their_cells_and_shuffled():
    edge, cell, piece = 51, 17, 13  # 64/85 of 17 is 12.8
    rows, columns = np.mgrid[:edge, :edge]
    images = torch.from_numpy(np.stack([1000 * k + rows * edge + columns for k in range(3)]))[:, None].float()
    transform = BatchJigsawd("image")
    transform.set_random_state(0)
    pieces = transform({"image": images})["image"]
    assert pieces.shape == (27, 1, piece, piece)
    places = set()
    for k in range(3):
        assert sorted(transform.order[k]) == list(range(9))
        for position in range(9):
            found = pieces[9 * k + position, 0].numpy()
            row, column = divmod(int(found[0, 0]) - 1000 * k, edge)
            np.testing.assert_array_equal(found, images[k, 0, row : row + piece, column : column + piece])
            number = transform.order[k, position]
            assert (row // cell, column // cell) == divmod(number, 3)
            assert ((row + piece - 1) // cell, (column + piece - 1) // cell) == divmod(number, 3)
            places.add((row % cell, column % cell))
    assert len(places) > 5
    assert len({tuple(order) for order in transform.order}) == 3


def test_every_order_and_place_occurs_as_often():
    transform = BatchJigsawd("image")
    transform.set_random_state(1)
    transform.randomize(9000, 4)
    for position in range(9):
        np.testing.assert_allclose(np.bincount(transform.order[:, position]), 1000, atol=130)
    np.testing.assert_allclose(np.bincount(transform.places.ravel()), transform.places.size / 5, rtol=0.05)


def test_jigsaw_too_small():
    with pytest.raises(CxrError, match="too small for a jigsaw"):
        BatchJigsawd("image")({"image": torch.zeros(1, 1, 5, 5)})


def test_high_pass_filters_one_view_alone():
    images = torch.rand(6, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    out = BatchHighPassd("image", sigma=1.5, gain=2.0)({"image": images})["image"]
    torch.testing.assert_close(out[:3], images[:3])
    for given, found in zip(images[3:], out[3:], strict=True):
        smooth = gaussian_filter(given[0].numpy().astype(float), 1.5, mode="mirror", radius=5)
        np.testing.assert_allclose(found[0], np.clip(0.5 + 2 * (given[0] - smooth), 0, 1), atol=1e-5)
    flat = BatchHighPassd("image", sigma=1.5)({"image": torch.full((2, 1, 24, 24), 0.7)})["image"]
    torch.testing.assert_close(flat[1], torch.full((1, 24, 24), 0.5))
    with pytest.raises(CxrError, match="sigma 0"):
        BatchHighPassd("image", sigma=0)


def test_strong_views_are_drawn_per_sample_and_stay_in_range():
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(40, 1, 1, 1)
    transform = BatchRandAugmentd("image")
    transform.set_random_state(3)
    out = transform({"image": images})["image"]
    assert out.min() >= 0
    assert out.max() <= 1
    assert len({tuple(each.flatten().tolist()) for each in out}) > 20
    assert {int(number) for number in transform.chosen.ravel()} == set(range(len(OPERATIONS)))
    transform.set_random_state(3)
    assert torch.equal(transform({"image": images})["image"], out)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_strength_is_what_changes_an_image(operation):
    blob = torch.zeros(2, 1, 32, 32)
    blob[:, :, 8:20, 10:26] = torch.linspace(0.2, 0.8, 16)
    nothing, much, other = (operation(blob, np.full(2, strength)) for strength in (0.0, 1.0, -1.0))
    torch.testing.assert_close(nothing, blob, rtol=0, atol=0.51 / 255)  # posterise rounds to 8 bits
    assert (much - blob).abs().mean() > 1e-3
    if operation.__name__ not in ("posterise", "histogram"):
        assert (much - other).abs().mean() > 1e-3


def test_strong_faults():
    with pytest.raises(CxrError, match="magnitude 11"):
        BatchRandAugmentd("image", magnitude=11)
