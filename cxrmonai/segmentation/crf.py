"""Refinement of masks by a fully connected conditional random field, for all findings of an image at once.

The model is that of Krähenbühl and Koltun (NeurIPS 2011) with two labels, a Potts penalty, a Gaussian kernel of place
and a bilateral kernel of place and colour, both normalised symmetrically, as `pydensecrf2` has it. Radiographs are
grey: the colour distance of a grey level repeated in three channels is √3 times that of the level, and the bilateral
kernel has three dimensions in place of five. It is evaluated on a grid of coarse places and all 256 levels, which
serves all masks of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError

LEVELS = 256
USUAL_EDGE = 320
STEP = 0.7  # of the grid, in standard deviations of the bilateral kernel's place
REACH = 4.0  # standard deviations after which a Gaussian is taken for 0
BLOCK = 40  # rows that one product of a banded matrix makes
CHUNK_BYTES = 2**19  # of values that are moved at once, so that they stay in the processor's cache


@dataclass(frozen=True)
class CrfSettings:
    """Of a dense CRF; the defaults are those of IRN and CheXseg.

    Attributes:
        gt_prob: how sure the given labels are, above 0.5 and below 1; the unary energy is −log of it.
        gaussian_sxy: standard deviation of the Gaussian kernel in pixels.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation in pixels of the bilateral kernel's place.
        bilateral_srgb: standard deviation of its colour, in levels of 0–255 of an image with three equal channels.
        bilateral_compat: its weight.
        iterations: of the mean field.
        widening: factor on `bilateral_sxy`. The lattice that `pydensecrf2` filters on acts like a kernel about 4 %
            wider than it is told; 1 gives the model as written.

    Raises:
        CxrError: a number out of range.
    """

    gt_prob: float = 0.7
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    iterations: int = 10
    widening: float = 1.04

    def __post_init__(self) -> None:
        if not 0.5 < self.gt_prob < 1:
            raise CxrError(f"gt_prob {self.gt_prob}: must be above 0.5 and below 1")
        if min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb, self.widening) <= 0 or self.iterations < 0:
            raise CxrError("the CRF's widths must be above 0, and its iterations not below 0")

    def at(self, size: int) -> CrfSettings:
        """For images of another edge than the 320 pixels that the defaults are meant for: widths in proportion."""
        factor = size / USUAL_EDGE
        return replace(
            self, gaussian_sxy=max(1.0, self.gaussian_sxy * factor), bilateral_sxy=self.bilateral_sxy * factor
        )


def refine(images: torch.Tensor, masks: torch.Tensor, settings: CrfSettings | None = None) -> torch.Tensor:
    """Refines masks along the edges of their images.

    Args:
        images: (B, H, W) uint8.
        masks: (B, K, H, W) bool, on the same device; which pixels are taken for inside.
        settings: of the CRF.

    Returns:
        (B, K, H, W) bool.

    Raises:
        CxrError: the shapes or types do not fit.
    """
    return probability(images, masks, settings) > 0.5


def probability(images: torch.Tensor, masks: torch.Tensor, settings: CrfSettings | None = None) -> torch.Tensor:
    """(B, K, H, W) float32, the mean field's probability of being inside; arguments as of `refine`."""
    settings = settings or CrfSettings()
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise CxrError(f"images of type {images.dtype} and shape {tuple(images.shape)}: must be uint8, (B, H, W)")
    if masks.dtype != torch.bool or masks.ndim != 4 or (len(masks), *masks.shape[2:]) != tuple(images.shape):
        raise CxrError(f"masks of type {masks.dtype} and shape {tuple(masks.shape)}: must be bool, (B, K, H, W)")
    out = torch.empty(masks.shape, dtype=torch.float32, device=masks.device)
    with torch.no_grad():
        lattice = _Lattice(*images.shape[1:], settings, images.device)
        for k, image in enumerate(images):
            out[k] = _mean_field(image, masks[k], settings, lattice)
    return out


def _mean_field(image: torch.Tensor, masks: torch.Tensor, settings: CrfSettings, lattice: _Lattice) -> torch.Tensor:
    """Two labels need one number a pixel, the log odds: energy + Σ compat · (2 · message − message of ones).

    Pixels come first and masks last, (P, K), so that a pixel's masks lie together in memory.
    """
    grid = _BilateralGrid(image, lattice)
    ones = torch.ones(image.numel(), 1, device=image.device)
    both = settings.bilateral_compat * grid.filter(ones)
    lattice.smooth(ones, torch.empty_like(ones), settings.gaussian_compat, both)
    energy = math.log(settings.gt_prob / (1 - settings.gt_prob))
    odds = torch.where(masks.flatten(1).t(), energy, -energy).contiguous()
    base = odds - both
    share, scratch = torch.empty_like(odds), torch.empty_like(odds)
    for _ in range(settings.iterations):
        torch.sigmoid(odds, out=share)
        torch.add(base, grid.filter(share), alpha=2 * settings.bilateral_compat, out=odds)
        lattice.smooth(share, scratch, 2 * settings.gaussian_compat, odds)
    return torch.sigmoid(odds, out=share).t().reshape(masks.shape)


class _Lattice:
    """What all images of one size share: the Gaussian kernel of place, and where each pixel lies on the grid."""

    def __init__(self, height: int, width: int, settings: CrfSettings, device: torch.device) -> None:
        self.rows, self.columns = (_smoother(edge, settings.gaussian_sxy, device) for edge in (height, width))
        self.reach = math.ceil(REACH * settings.gaussian_sxy)
        step = settings.bilateral_sxy * settings.widening * STEP
        (top, down), (left, right) = (_places(edge, step, device) for edge in (height, width))
        self.shape = (int(top[-1]) + 2, int(left[-1]) + 2)
        corners = [(y, x) for y in (0, 1) for x in (0, 1)]
        cells = [(top + y)[:, None] * self.shape[1] + (left + x) for y, x in corners]
        weights = [(down if y else 1 - down)[:, None] * (right if x else 1 - right) for y, x in corners]
        self.cells = (torch.stack(cells, dim=2) * LEVELS).int().view(-1, 4)
        self.weights = torch.stack(weights, dim=2).view(-1, 4)
        self.bags = torch.arange(0, 4 * height * width + 1, 4, dtype=torch.int32, device=device)
        # Splatting and slicing linearly widen a kernel by a third of the squared step together.
        self.blurs = [_gaussian(edge, math.sqrt(1 / STEP**2 - 1 / 3), device) for edge in self.shape]
        level_sigma = settings.bilateral_srgb / math.sqrt(3)
        self.level_blur = _gaussian(LEVELS, level_sigma, device)
        self.level_reach = math.ceil(REACH * level_sigma)

    def smooth(self, values: torch.Tensor, scratch: torch.Tensor, factor: float, onto: torch.Tensor) -> None:
        """Adds to (P, C) `onto` `factor` times the (P, C) values, smoothed in place; `scratch` is (P, C) to work in."""
        height, width, channels = len(self.rows), len(self.columns), values.shape[1]
        given, kept = (each.view(height, width, channels) for each in (values, scratch))
        step = max(1, CHUNK_BYTES // (4 * width * channels))
        for start in range(0, height, step):
            turned = given[start : start + step].transpose(0, 1).reshape(width, -1)
            done = torch.empty_like(turned)
            for one, end, first, last in _bands(width, self.reach):
                torch.mm(self.columns[one:end, first:last], turned[first:last], out=done[one:end])
            kept[start : start + step] = done.view(width, -1, channels).transpose(0, 1)
        kept, onto = scratch.view(height, -1), onto.view(height, -1)
        for one, end, first, last in _bands(height, self.reach):
            onto[one:end].addmm_(self.rows[one:end, first:last], kept[first:last], alpha=factor)


class _BilateralGrid:
    """A bilateral kernel over one image, normalised symmetrically (Chen, Paris and Durand, SIGGRAPH 2007).

    Place is splat and sliced linearly on a grid `STEP` standard deviations apart; intensity is exact. To splat is to
    sum, for each cell, the pixels that it touches, and to slice, for each pixel, the four cells: both are weighted sums
    of rows of a table, which PyTorch's `embedding_bag` does several times faster than its sparse matrices.
    """

    def __init__(self, image: torch.Tensor, lattice: _Lattice) -> None:
        self.lattice = lattice
        self.cells = (lattice.cells + image.reshape(-1, 1)).view(-1)
        count = lattice.shape[0] * lattice.shape[1] * LEVELS
        order = _stable_order(self.cells, count)
        self.pixels = (order >> 2).int()
        self.ends = torch.zeros(count + 1, dtype=torch.int32, device=image.device)
        self.ends[1:] = torch.bincount(self.cells, minlength=count).cumsum(0)
        self.slices = lattice.weights.view(-1)
        self.splats = self.slices[order]
        norm = self.filter(torch.ones(image.numel(), 1, device=image.device)).clamp_min_(1e-20).rsqrt_()
        self.slices = (lattice.weights * norm).view(-1)
        self.splats = self.slices[order]

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(P, C) → (P, C)."""
        rows, columns = self.lattice.shape
        channels = values.shape[1]
        grid = _sums(values, self.pixels, self.ends, self.splats)
        grid = self.lattice.blurs[0] @ grid.view(rows, -1)
        grid = torch.matmul(self.lattice.blurs[1], grid.view(rows, columns, -1)).view(-1, LEVELS, channels)
        blurred = torch.empty_like(grid)
        for start, end, first, last in _bands(LEVELS, self.lattice.level_reach):
            band = self.lattice.level_blur[None, start:end, first:last].expand(len(grid), -1, -1)
            blurred[:, start:end] = torch.bmm(band, grid[:, first:last])
        return _sums(blurred.view(-1, channels), self.cells, self.lattice.bags, self.slices)


def _sums(table: torch.Tensor, rows: torch.Tensor, bags: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(rows, table, bags, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _stable_order(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """The stable order of numbers below `count`; 16-bit ones are sorted by radix, far faster than by PyTorch."""
    if numbers.device.type == "cpu" and count <= 2**16:
        return torch.from_numpy(np.argsort(numbers.numpy().astype(np.uint16), kind="stable"))
    return numbers.argsort(stable=True)


def _places(edge: int, step: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each pixel of an axis the grid's point before it, and how far it lies beyond, 0–1."""
    place = torch.arange(edge, dtype=torch.float32, device=device) / step
    before = place.floor()
    return before.long(), place - before


def _gaussian(edge: int, sigma: float, device: torch.device) -> torch.Tensor:
    place = torch.arange(edge, dtype=torch.float32, device=device)
    distance = (place[:, None] - place).abs() / sigma
    # Beyond the reach there would be denormal numbers, which slow a product down sevenfold.
    return torch.where(distance <= REACH, torch.exp(-0.5 * distance**2), 0.0)


def _smoother(edge: int, sigma: float, device: torch.device) -> torch.Tensor:
    """(E, E) the Gaussian of one axis, normalised symmetrically."""
    kernel = _gaussian(edge, sigma, device)
    norm = kernel.sum(0).rsqrt()
    return norm[:, None] * kernel * norm


def _bands(edge: int, reach: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows of a matrix, from and to, and the columns from and to that are not 0, `reach` from the diagonal at most."""
    for start in range(0, edge, BLOCK):
        end = min(edge, start + BLOCK)
        yield start, end, max(0, start - reach), min(edge, end + reach)


__all__ = ["CrfSettings", "probability", "refine"]
