"""The random walk against the dense matrix it stands for."""

from __future__ import annotations

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.losses.affinity import neighbour_affinity
from cxrmonai.segmentation.propagation import WalkSettings, propagate, spread_maps


def dense(maps, edge, settings):
    """(K, h, w) and (h, w): the transition matrix over all pixels, squared."""
    height, width = edge.shape
    affinity, offsets = neighbour_affinity(edge[None].double(), settings.radius)
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for n, (y, x) in enumerate(offsets.tolist()):
        for r in range(height):
            for c in range(width):
                if 0 <= r + y < height and 0 <= c + x < width:
                    matrix[r * width + c, (r + y) * width + c + x] = affinity[0, n, r, c]
    assert torch.equal(matrix, matrix.t())
    walk = matrix**settings.beta
    walk = walk / walk.sum(dim=0, keepdim=True)
    for _ in range(settings.doublings):
        walk = walk @ walk
    return ((maps * (1 - edge)).double().flatten(1) @ walk).view(maps.shape)


@pytest.mark.parametrize(
    "settings", [WalkSettings(), WalkSettings(5, 10, 8), WalkSettings(3, 5, 3, 0.6), WalkSettings(2, 1, 0)]
)
def test_walk_equals_the_dense_matrix_for_all_images_and_findings(settings):
    torch.manual_seed(0)
    maps, edge = torch.rand(2, 3, 9, 12), torch.rand(2, 9, 12)
    found = propagate(maps, edge, settings)
    for k in range(2):
        expected = dense(maps[k], edge[k], settings)
        torch.testing.assert_close(found[k].double(), expected, rtol=2e-4, atol=1e-6)


def test_a_wall_keeps_a_walk_on_its_side():
    maps, edge = torch.zeros(1, 1, 16, 16), torch.zeros(1, 16, 16)
    maps[..., 8, 3], edge[..., 8] = 1, 1
    spread = propagate(maps, edge)
    assert spread[..., :8].sum() > 0.5
    assert spread[..., 9:].abs().max() < 1e-6


def test_spread_maps_reach_one_and_empty_maps_stay_empty():
    torch.manual_seed(0)
    maps = torch.rand(1, 3, 32, 32)
    maps[:, 1] = 0
    spread = spread_maps(maps, torch.rand(1, 8, 8), WalkSettings(radius=3, doublings=2))
    assert spread.shape == maps.shape
    assert spread.amax(dim=(2, 3)).tolist() == [[1.0, 0.0, 1.0]]
    assert torch.isfinite(spread).all()


def test_settings_out_of_range_are_refused():
    for wrong in ({"radius": 1}, {"beta": 0}, {"doublings": -1}, {"threshold": 1}):
        with pytest.raises(CxrError):
            WalkSettings(**wrong)
