"""Bringing maps to 0–1 and to size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

ROUNDING = 1e-6  # relative spread below which a map counts as constant: that of float32 sums


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Min-max scales each map: (…, H, W) → (…, H, W) in 0–1, the largest value to 1; a constant map becomes zero."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    constant = span <= ROUNDING * torch.maximum(low.abs(), high.abs())
    return torch.where(constant, torch.zeros_like(maps), (maps - low) / span.masked_fill(constant, 1))


def resized(maps: torch.Tensor, shape: tuple[int, int], offset: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Brings maps to a size: (B, K, h, w) → (B, K, *shape), bilinear, with anti-aliasing where they shrink.

    Args:
        maps: of cells that lie side by side and fill the image.
        shape: rows and columns.
        offset: how far down and to the right of its cell's middle each value belongs, as a part of the image's edges.
            Neighbouring cells then see almost the same, and the maps are smoothed by a cell first (1, 2, 1), so that
            the highest place is the middle of a high region and no cell that stands out by a hair.
    """
    if offset != (0.0, 0.0):
        maps = _smoothed(maps)
        down, right = (2 * part for part in offset)  # the grid's coordinates run from -1 to 1
        moved = torch.tensor([[1, 0, -right], [0, 1, -down]], dtype=maps.dtype, device=maps.device)
        grid = F.affine_grid(moved.expand(len(maps), 2, 3), [len(maps), 1, *shape], align_corners=False)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    shrinks = shape[0] < maps.shape[2] or shape[1] < maps.shape[3]
    return F.interpolate(maps, size=shape, mode="bilinear", align_corners=False, antialias=shrinks)


def _smoothed(maps: torch.Tensor) -> torch.Tensor:
    ones = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 2, stride=1)
    return F.avg_pool2d(ones, 2, stride=1)
