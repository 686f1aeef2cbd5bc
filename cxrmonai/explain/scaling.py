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


def resized(maps: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(B, K, h, w) → (B, K, *shape), bilinear, with anti-aliasing where they shrink."""
    shrinks = shape[0] < maps.shape[2] or shape[1] < maps.shape[3]
    return F.interpolate(maps, size=shape, mode="bilinear", align_corners=False, antialias=shrinks)
