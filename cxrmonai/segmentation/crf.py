"""Refinement of masks by a fully connected conditional random field, for all findings of an image at once.

The model is that of Krähenbühl and Koltun (NeurIPS 2011) with two labels, a Potts penalty, a Gaussian kernel of place
and a bilateral kernel of place and colour, both normalised symmetrically, as `pydensecrf2` has it. Radiographs are
grey: the colour distance of a grey level repeated in three channels is √3 times that of the level, and the bilateral
kernel has three dimensions in place of five. It is evaluated on a grid of coarse places and levels, which
serves all masks of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError

LEVELS = 256
USUAL_EDGE = 320
STEP = 0.7  # of the grid, in standard deviations of the bilateral kernel
REACH = 4.0  # standard deviations after which a Gaussian is taken for 0
BLOCK = 40  # rows that one product of a banded matrix makes: they stay in the processor's cache


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
    return _each(images, masks, settings, lambda share: share > 0.5)


def probability(images: torch.Tensor, masks: torch.Tensor, settings: CrfSettings | None = None) -> torch.Tensor:
    """(B, K, H, W) float32, the mean field's probability of being inside; arguments as of `refine`."""
    return _each(images, masks, settings, lambda share: share)


@torch.no_grad()
def _each(
    images: torch.Tensor,
    masks: torch.Tensor,
    settings: CrfSettings | None,
    answer: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """(B, K, H, W), what is made of the (P, K) probabilities of each image."""
    settings = settings or CrfSettings()
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise CxrError(f"images of type {images.dtype} and shape {tuple(images.shape)}: must be uint8, (B, H, W)")
    if masks.dtype != torch.bool or masks.ndim != 4 or (len(masks), *masks.shape[2:]) != tuple(images.shape):
        raise CxrError(f"masks of type {masks.dtype} and shape {tuple(masks.shape)}: must be bool, (B, K, H, W)")
    lattice = _lattice(*images.shape[1:], settings, images.device)
    found = [answer(_mean_field(*pair, settings, lattice)).t() for pair in zip(images, masks, strict=True)]
    return torch.stack(found).reshape(masks.shape) if found else answer(masks.float())


def _mean_field(image: torch.Tensor, masks: torch.Tensor, settings: CrfSettings, lattice: _Lattice) -> torch.Tensor:
    """(P, K) probabilities of being inside.

    Two labels need one number a pixel, the log odds: energy + Σ compat · (2 · message − message of ones).

    Pixels come first and masks last, (P, K), so that a pixel's masks lie together in memory.
    """
    field = _Messages(image, lattice)
    both = torch.zeros(image.numel(), 1, device=image.device)
    field.add(torch.ones_like(both), both, both)
    energy = math.log(settings.gt_prob / (1 - settings.gt_prob))
    given = masks.flatten(1).t().contiguous()
    base = torch.where(given, energy, -energy).sub_(both / 2)
    share = torch.where(given, settings.gt_prob, 1 - settings.gt_prob)
    for _ in range(settings.iterations):
        field.add(share, base, share, odds=True)
    return share


class _Lattice:
    """What all images of one size share: the Gaussian kernel of place, and where each pixel lies on the grid."""

    def __init__(self, height: int, width: int, settings: CrfSettings, device: torch.device) -> None:
        self.height, self.width = height, width
        pooled = max(1, int(settings.gaussian_sxy))
        self.rows, self.columns = (_smoother(edge, settings.gaussian_sxy, pooled, device) for edge in (height, width))
        self.row_bands, self.column_bands = list(_bands(self.rows)), list(_bands(self.columns))
        across = torch.arange(width, device=device) // pooled * self.rows.shape[1]
        square = (torch.arange(height, device=device)[:, None] // pooled + across).flatten()
        self.parts = square.argsort(stable=True).int()
        ends = square.bincount().cumsum(0).int()
        self.part_ends = torch.cat([ends.new_zeros(1), ends])
        self.rows *= 2 * settings.gaussian_compat
        self.factor = 2 * settings.bilateral_compat
        step = settings.bilateral_sxy * settings.widening * STEP
        (top, down), (left, right) = (_places(edge, step, device) for edge in (height, width))
        self.shape = (int(top[-1]) + 2, int(left[-1]) + 2)
        level_sigma = settings.bilateral_srgb / math.sqrt(3)
        self.level_step = 2 ** max(0, int(math.log2(max(1.0, STEP * level_sigma))))
        self.levels = LEVELS // self.level_step
        corners = [(y, x) for y in (0, 1) for x in (0, 1)]
        cells = [(top + y)[:, None] * self.shape[1] + (left + x) for y, x in corners]
        weights = [(down if y else 1 - down)[:, None] * (right if x else 1 - right) for y, x in corners]
        self.cells = (torch.stack(cells, dim=2) * self.levels).int().view(-1, 4)
        self.weights = torch.stack(weights, dim=2).view(-1, 4)
        self.bags = torch.arange(0, 4 * height * width + 1, 4, dtype=torch.int32, device=device)
        # Splatting and slicing widen a kernel: linearly by a third of the squared step together, and by rounding to
        # one of s levels by (s² − 1) / 6.
        self.blurs = [_gaussian(edge, math.sqrt(1 / STEP**2 - 1 / 3), device) for edge in self.shape]
        level_sigma = math.sqrt(level_sigma**2 - (self.level_step**2 - 1) / 6) / self.level_step
        self.level_blur = _gaussian(self.levels, level_sigma, device)
        self.level_bands = list(_bands(self.level_blur))

    def smooth(self, values: torch.Tensor) -> torch.Tensor:
        """(P, C) → (H', W·C), summed in squares of pixels, and smoothed along the columns."""
        sums = _sums(values, self.parts, self.part_ends).view(self.columns.shape[1], -1)
        made = sums.new_empty(self.width, sums.shape[1])
        for one, end, first, last in self.column_bands:
            torch.mm(self.columns[one:end, first:last], sums[first:last], out=made[one:end])
        made = made.view(self.width, -1, values.shape[1]).transpose(0, 1)
        return made.reshape(len(made), -1)


@lru_cache(maxsize=4)
def _lattice(height: int, width: int, settings: CrfSettings, device: torch.device) -> _Lattice:
    return _Lattice(height, width, settings, device)


class _Messages:
    """Both kernels over one image, weighted and normalised symmetrically.

    The bilateral one is splat and sliced on a grid `STEP` standard deviations apart (Chen, Paris and Durand, SIGGRAPH
    2007), linearly in place and to the nearest of its levels in intensity. To splat is to sum, for each cell, the
    pixels that it touches, and to slice, for each pixel, four cells: both are weighted sums of rows of a table, which
    PyTorch's `embedding_bag` does several times faster than its sparse matrices.
    """

    def __init__(self, image: torch.Tensor, lattice: _Lattice) -> None:
        self.lattice = lattice
        levels = (image // lattice.level_step).view(-1, 1)
        self.cells = (lattice.cells + levels).view(-1)
        count = lattice.shape[0] * lattice.shape[1] * lattice.levels
        order = _stable_order(self.cells, count)
        self.pixels = (order >> 2).int()
        self.ends = torch.zeros(count + 1, dtype=torch.int32, device=image.device)
        self.ends[1:] = torch.bincount(self.cells, minlength=count).cumsum(0)
        slices = lattice.weights.view(-1)
        self.splats = slices[order]
        grid = self._grid(torch.ones(image.numel(), 1, device=image.device))
        norm = _sums(grid, self.cells, lattice.bags, slices).clamp_min_(1e-20).rsqrt_()
        slices = (lattice.weights * norm).view(-1)
        self.splats = slices[order]
        self.slices = slices * lattice.factor

    def _grid(self, values: torch.Tensor) -> torch.Tensor:
        """(P, C) → (cells, C), splat and blurred."""
        (rows, columns), levels, channels = self.lattice.shape, self.lattice.levels, values.shape[1]
        grid = _sums(values, self.pixels, self.ends, self.splats)
        grid = self.lattice.blurs[0] @ grid.view(rows, -1)
        grid = torch.matmul(self.lattice.blurs[1], grid.view(rows, columns, -1)).view(-1, levels, channels)
        blurred = torch.empty_like(grid)
        for one, end, first, last in self.lattice.level_bands:
            band = self.lattice.level_blur[None, one:end, first:last].expand(len(grid), -1, -1)
            blurred[:, one:end] = torch.bmm(band, grid[:, first:last])
        return blurred.view(-1, channels)

    def add(self, values: torch.Tensor, base: torch.Tensor, out: torch.Tensor, odds: bool = False) -> None:
        """Writes (P, C) base + 2 Σ compat · message of (P, C) values, or the share of these log odds, to `out`.

        `out` may be the values or the base.
        """
        lattice, width = self.lattice, self.lattice.width
        grid, smooth = self._grid(values), lattice.smooth(values)
        for one, end, first, last in lattice.row_bands:
            some = slice(one * width, end * width)
            ends = slice(4 * some.start, 4 * some.stop)
            part = _sums(grid, self.cells[ends], lattice.bags[: some.stop - some.start + 1], self.slices[ends])
            part += base[some]
            part.view(end - one, -1).addmm_(lattice.rows[one:end, first:last], smooth[first:last])
            if odds:
                torch.sigmoid(part, out=out[some])
            else:
                out[some] = part


def _sums(
    table: torch.Tensor, rows: torch.Tensor, bags: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
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


def _smoother(edge: int, sigma: float, pooled: int, device: torch.device) -> torch.Tensor:
    """(E, E / pooled) the Gaussian of one axis for sums of `pooled` pixels, normalised symmetrically.

    The sums are smoothed and put between linearly; both widen the kernel, which is made narrower by as much.
    """
    cells = -(-edge // pooled)
    place = (torch.arange(edge, dtype=torch.float32, device=device) - (pooled - 1) / 2) / pooled
    beyond = place - place.floor()
    widened = (1 - 1 / pooled**2) / 12 + float((beyond * (1 - beyond))[:pooled].mean())
    place = place.clamp(0, cells - 1)
    between = (1 - (place[:, None] - torch.arange(cells, device=device)).abs()).clamp_min_(0)
    kernel = between @ _gaussian(cells, math.sqrt((sigma / pooled) ** 2 - widened), device)
    count = torch.full((cells,), float(pooled), device=device)
    count[-1] = edge - pooled * (cells - 1)
    norm = (kernel @ count).rsqrt()
    return (
        norm[:, None] * kernel * norm[(torch.arange(cells, device=device) * pooled + pooled // 2).clamp(max=edge - 1)]
    )


def _bands(matrix: torch.Tensor) -> Iterator[tuple[int, int, int, int]]:
    """Rows of a matrix, from and to, and the columns from and to in which they are not 0."""
    for start in range(0, len(matrix), BLOCK):
        columns = matrix[start : start + BLOCK].any(dim=0).nonzero()
        yield start, min(len(matrix), start + BLOCK), int(columns[0]), int(columns[-1]) + 1


__all__ = ["CrfSettings", "probability", "refine"]
