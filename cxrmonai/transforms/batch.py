"""Augmentation of a whole batch on its device, with parameters drawn per sample.

These are MONAI dictionary transforms whose values are batches: `image` is (B, 1, H, W). They are composed, seeded
(`Compose.set_random_state`) and listed in a config as any others. All randomness comes from `self.R`, so that a seed
fixes the result on every device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.errors import CxrError

Batch = Mapping[Hashable, Any]
Range = Sequence[float]


class BatchRepeatd(MapTransform):
    """Repeats a batch along its first axis: view 1 of all samples, then view 2 of all samples, and so on.

    Args:
        keys: of the batch.
        times: number of views.
    """

    def __init__(self, keys: KeysCollection, times: int = 2) -> None:
        super().__init__(keys)
        self.times = times

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, …) → (times · B, …)."""
        out = dict(data)
        for key in self.key_iterator(out):
            value = out[key]
            out[key] = value.repeat(self.times, *([1] * (value.ndim - 1)))
        return out


class BatchScaleIntensityd(MapTransform):
    """Brings stored pixels to float32 in 0–1 by their type's range; floats pass."""

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) uint8 or uint16 → float32."""
        out = dict(data)
        for key in self.key_iterator(out):
            value = out[key]
            if value.dtype == torch.uint8:
                out[key] = value.to(torch.float32).mul_(1 / 255)
            elif value.dtype == torch.uint16:
                out[key] = value.to(torch.float32).mul_(1 / 65535)
            elif not value.is_floating_point():
                raise CxrError(f"images of type {value.dtype} have no known range; store them as uint8 or uint16")
        return out


class BatchEqualizeHistogramd(MapTransform):
    """Equalises each image's histogram of 256 grey levels; black padding (level 0) stays black and is not counted."""

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float 0–1 → float 0–1."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = equalize(out[key])
        return out


def equalize(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) float 0–1, histogram-equalised; a constant image stays as it is."""
    count = len(images)
    levels = (images.clamp(0, 1) * 255).round_().long().flatten(1)
    offset = torch.arange(count, device=images.device)[:, None] * 256
    histogram = torch.bincount((levels + offset).flatten(), minlength=256 * count).view(count, 256)
    histogram[:, 0] = 0
    cumulated = histogram.cumsum(1)
    total = cumulated[:, -1:]
    lowest = histogram.gather(1, (histogram > 0).long().argmax(1, keepdim=True))
    spread = (total - lowest).clamp_min(1)
    table = ((cumulated - lowest).clamp_min(0) / spread).to(images.dtype)
    # The lowest level that occurs becomes black in the textbook; one step above keeps it apart from the padding.
    table = torch.where(cumulated > 0, (1 + 254 * table) / 255, torch.zeros_like(table))
    table[:, 0] = 0
    equalized = table.gather(1, levels).view_as(images)
    return torch.where((total > lowest).view(-1, 1, 1, 1), equalized, images)


class BatchNormalized(MapTransform):
    """Subtracts a mean and divides by a standard deviation, the same for all images.

    Args:
        keys: of the batch.
        mean: in units of the 0–1 range; of each channel of the result, all of which hold the same grey image, if there
            are several.
        std: likewise.
    """

    def __init__(self, keys: KeysCollection, mean: float | Range = 0.5, std: float | Range = 0.25) -> None:
        super().__init__(keys)
        self.mean, self.std = (np.ravel(value).tolist() for value in (mean, std))

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float → (B, C, H, W) float."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = normalize(out[key], self.mean, self.std)
        return out


def normalize(images: torch.Tensor, mean: Range, std: Range) -> torch.Tensor:
    """(B, 1, H, W) float → (B, C, H, W), the same image on each channel less its mean, divided by its deviation."""
    if len(mean) == 1:
        return (images - mean[0]).mul_(1 / std[0])
    return (images - images.new_tensor(mean)[:, None, None]).mul_(1 / images.new_tensor(std)[:, None, None])


class BatchResized(MapTransform):
    """Resizes squares to another size, with anti-aliasing where they shrink; none is done at the right size.

    Args:
        keys: of the batch.
        size: edge in pixels.
        mask_keys: of masks to be resized alike, see `data.masks.MASK_UNKNOWN`.
    """

    def __init__(self, keys: KeysCollection, size: int, mask_keys: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.size, self.mask_keys = size, tuple(mask_keys)

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float → (B, 1, size, size); masks (B, K, H, W) uint8 → (B, K, size, size)."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = resize(out[key], self.size)
        for key in self.mask_keys:
            out[key] = _as_masks(resize(_mask_parts(out[key]), self.size))
        return out


def _mask_parts(masks: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) uint8 masks → (B, 2 K, H, W) float: how much of a pixel is inside, and how much is known."""
    return torch.cat([masks == 1, masks != MASK_UNKNOWN], dim=1).float()


def _as_masks(parts: torch.Tensor) -> torch.Tensor:
    """What `_mask_parts` became → uint8 masks: inside from a half on, unknown where less than a half is known."""
    inside, known = parts.chunk(2, dim=1)
    return torch.where(known >= 0.5, (inside >= 0.5).to(torch.uint8), MASK_UNKNOWN)


class BatchMaskTargetd(MapTransform):
    """Makes the target of a pixel-wise loss from masks.

    Args:
        keys: of masks (B, K, H, W) uint8, see `data.masks.MASK_UNKNOWN`.
        target: key that gets the target.
    """

    def __init__(self, keys: KeysCollection = "mask", target: str = "label") -> None:
        super().__init__(keys)
        self.target = target

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """Masks → (B, K, H, W) float32 of 0, 1 and NaN (unknown)."""
        out = dict(data)
        for key in self.key_iterator(out):
            masks = out[key]
            out[self.target] = masks.float().masked_fill_(masks == MASK_UNKNOWN, torch.nan)
        return out


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 1, H, W) float → (B, 1, size, size); area averaging by whole factors, else anti-aliased bilinear."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if height == width and height % size == 0:
        return F.avg_pool2d(images, height // size)
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


class BatchRandGeometryd(RandomizableTransform, MapTransform):
    """Random resized crop, rotation, shift and flip in one bilinear resampling, drawn per sample.

    The crop follows SimCLR (Chen et al., 2020) and Inception: an area drawn from `scale`, an aspect drawn from
    `ratio` (moved towards a square where so large a crop would not fit), a place drawn inside the image. Where a crop
    holds more pixels than the output, it is sampled from a pyramid of area averages, so that nothing aliases. Outside
    the image is 0.

    Args:
        keys: of the batch; all are moved alike.
        size: edge of the output in pixels.
        scale: range of the crop's area, relative to the image.
        ratio: range of the crop's width over its height, drawn on a log scale.
        rotate: largest rotation, in degrees, either way.
        shift: largest shift beyond the crop's place, relative to the image, on either axis.
        flip_prob: probability of a left-right flip.
        mask_keys: of masks to be moved alike, see `data.masks.MASK_UNKNOWN`; outside the image they are unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        scale: Range = (0.3, 1.0),
        ratio: Range = (3 / 4, 4 / 3),
        rotate: float = 10.0,
        shift: float = 0.0,
        flip_prob: float = 0.5,
        mask_keys: Sequence[str] = (),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        for label, span in (("scale", scale), ("ratio", ratio)):
            if not isinstance(span, Sequence) or len(span) != 2 or not 0 < span[0] <= span[1]:
                raise CxrError(f"{label} {span}: must be two numbers above 0, the smaller first, such as [0.5, 1.0]")
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)
        self.rotate, self.shift, self.flip_prob = rotate, shift, flip_prob
        self.mask_keys = tuple(mask_keys)
        self.theta = np.zeros((0, 2, 3), np.float32)

    def randomize(self, count: int) -> None:
        """Draws `theta` (count, 2, 3): output → input in units where the image spans −1 to 1."""
        area = self.R.uniform(*self.scale, size=count)
        fit = max(1.0, self.scale[1]) / area
        aspect = np.clip(np.exp(self.R.uniform(*np.log(self.ratio), size=count)), 1 / fit, fit)
        width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
        x = self.R.uniform(-1, 1, size=count) * np.abs(1 - width)
        y = self.R.uniform(-1, 1, size=count) * np.abs(1 - height)
        if self.shift:
            x += self.R.uniform(-2 * self.shift, 2 * self.shift, size=count)
            y += self.R.uniform(-2 * self.shift, 2 * self.shift, size=count)
        angle = np.deg2rad(self.R.uniform(-self.rotate, self.rotate, size=count))
        sign = np.where(self.R.uniform(size=count) < self.flip_prob, -1.0, 1.0)
        cos, sin = np.cos(angle), np.sin(angle)
        theta = [[cos * width * sign, -sin * height, x], [sin * width * sign, cos * height, y]]
        self.theta = np.ascontiguousarray(np.moveaxis(np.array(theta), 2, 0), np.float32)

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float → (B, 1, size, size); masks (B, K, H, W) uint8 → (B, K, size, size)."""
        out = dict(data)
        self.randomize(len(out[self.first_key(out)]))
        for key in self.key_iterator(out):
            out[key] = sample(out[key], self.theta, self.size)
        for key in self.mask_keys:
            out[key] = _as_masks(sample(_mask_parts(out[key]), self.theta, self.size))
        return out


def sample(images: torch.Tensor, theta: np.ndarray, size: int) -> torch.Tensor:
    """Resamples each image by its own affine map, from a pyramid of area averages.

    Args:
        images: (B, C, H, W) float.
        theta: (B, 2, 3) output → input, in units where the image spans −1 to 1.
        size: edge of the output in pixels.

    Returns:
        (B, C, size, size).
    """
    shrink = np.sqrt(np.abs(np.linalg.det(theta[:, :, :2]))) * min(images.shape[-2:]) / size
    deepest = max(0, int(np.log2(max(1, min(images.shape[-2:]) // 8))))
    level = np.clip(np.floor(np.log2(np.maximum(shrink, 1e-6)) + 0.5), 0, deepest).astype(int)
    result = images.new_empty((len(images), images.shape[1], size, size))
    for depth in np.unique(level):
        members = np.flatnonzero(level == depth)
        index = None if len(members) == len(images) else torch.from_numpy(members).to(images.device)
        part = images if index is None else images[index]
        edge = 2 ** int(depth)
        if depth:
            part = F.avg_pool2d(part, edge, ceil_mode=True)
        # the last squares of the pyramid may reach over the image's end, which then lies at less than 1
        end = np.divide(images.shape[:1:-1], part.shape[:1:-1])[:, None] / edge
        matrix = theta[members] * end
        matrix[:, :, 2:] += end - 1
        matrix = torch.from_numpy(matrix).to(part.device, part.dtype)
        warped = warp(part, matrix, size)
        if index is None:
            return warped
        result[index] = warped
    return result


def warp(images: torch.Tensor, matrices: torch.Tensor, size: int) -> torch.Tensor:
    """Resamples each image by its own affine map, as `F.affine_grid` and `F.grid_sample` do, in half their time.

    Args:
        images: (B, C, H, W) float.
        matrices: (B, 2, 3) output → input, in units where the image spans −1 to 1.
        size: edge of the output in pixels.

    Returns:
        (B, C, size, size).
    """
    places = (2 * torch.arange(size, dtype=matrices.dtype, device=matrices.device) + 1) / size - 1
    columns = (matrices[:, :, 0, None] * places)[:, :, None, :]
    rows = (matrices[:, :, 1, None] * places + matrices[:, :, 2:])[:, :, :, None]
    result = images.new_empty((len(images), images.shape[1], size, size))
    few = 16 if images.device.type == "cpu" else len(images)  # so few grids stay in a CPU's cache
    for start in range(0, len(images), few):
        some = slice(start, start + few)
        grid = (columns[some] + rows[some]).permute(0, 2, 3, 1)
        result[some] = F.grid_sample(images[some], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return result


class BatchRandIntensityd(RandomizableTransform, MapTransform):
    """Random brightness, contrast and gamma, drawn per sample; the result is clipped to 0–1.

    Args:
        keys: of the batch.
        brightness: largest shift of the grey level.
        contrast: largest relative change of the spread about the image's mean.
        gamma: largest exponent; drawn on a log scale between its inverse and itself.
        prob: probability that a sample is changed at all.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float = 0.2,
        contrast: float = 0.4,
        gamma: float = 1.0,
        prob: float = 0.8,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.brightness, self.contrast, self.gamma = brightness, contrast, gamma
        self.factors = np.zeros((3, 0), np.float32)

    def randomize(self, count: int) -> None:
        """Draws `factors` (3, count): contrast, brightness and gamma."""
        chosen = self.R.uniform(size=count) < self.prob
        contrast = 1 + self.R.uniform(-self.contrast, self.contrast, size=count)
        brightness = self.R.uniform(-self.brightness, self.brightness, size=count)
        gamma = np.exp(self.R.uniform(-1, 1, size=count) * np.log(self.gamma))
        self.factors = np.where(chosen, [contrast, brightness, gamma], [[1], [0], [1]]).astype(np.float32)

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float 0–1 → the same."""
        out = dict(data)
        self.randomize(len(out[self.first_key(out)]))
        for key in self.key_iterator(out):
            images = out[key]
            factors = torch.from_numpy(self.factors).to(images.device, images.dtype)
            contrast, brightness, gamma = factors[:, :, None, None, None]
            if self.gamma != 1:
                images = images.clamp(0, 1) ** gamma
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            out[key] = torch.addcmul(mean * (1 - contrast) + brightness, images, contrast).clamp_(0, 1)
        return out


class BatchRandBlurd(RandomizableTransform, MapTransform):
    """Gaussian blur with a width drawn per sample.

    Args:
        keys: of the batch.
        sigma: range of the standard deviation, in pixels.
        prob: probability that a sample is blurred.
    """

    def __init__(self, keys: KeysCollection, sigma: Range = (0.1, 1.5), prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.sigma_range = tuple(sigma)
        self.sigma = np.zeros(0)
        self.chosen = np.zeros(0, np.int64)

    def randomize(self, count: int) -> None:
        """Draws which samples are `chosen`, and a `sigma` for each of those."""
        self.chosen = np.flatnonzero(self.R.uniform(size=count) < self.prob)
        self.sigma = self.R.uniform(*self.sigma_range, size=count)[self.chosen]

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, H, W) float → the same."""
        out = dict(data)
        self.randomize(len(out[self.first_key(out)]))
        if len(self.chosen) == 0:
            return out
        for key in self.key_iterator(out):
            images = out[key].clone()
            index = torch.from_numpy(self.chosen).to(images.device)
            images[index] = gaussian_blur(images[index], self.sigma, 3 * self.sigma_range[1])
            out[key] = images
        return out


def gaussian_blur(images: torch.Tensor, sigma: np.ndarray, radius: float) -> torch.Tensor:
    """Blurs each image by its own Gaussian, edges reflected.

    Args:
        images: (B, 1, H, W) float.
        sigma: (B,) standard deviations in pixels.
        radius: of the kernels in pixels, the same for all.

    Returns:
        (B, 1, H, W).
    """
    reach = max(1, min(int(np.ceil(radius)), min(images.shape[-2:]) - 1))
    offsets = np.arange(-reach, reach + 1)
    kernels = np.exp(-0.5 * (offsets / np.maximum(sigma, 1e-3)[:, None]) ** 2)
    kernels = torch.from_numpy(kernels / kernels.sum(1, keepdims=True)).to(images.device, images.dtype)
    count = len(images)
    padded = F.pad(images, [reach] * 4, mode="reflect").transpose(0, 1)
    rows = F.conv2d(padded, kernels[:, None, None, :], groups=count)
    return F.conv2d(rows, kernels[:, None, :, None], groups=count).transpose(0, 1)
