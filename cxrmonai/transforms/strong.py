"""Strong augmentation of grey images, in the manner of RandAugment (Cubuk et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from cxrmonai.errors import CxrError
from cxrmonai.transforms.batch import equalize, gaussian_blur, sample

LARGEST = 10  # magnitude


def brightness(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Shifts the grey level, by 0.3 at most."""
    return images + _column(0.3 * strength, images)


def contrast(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Widens or narrows the spread about the mean, by 60 % at most."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * _column(1 + 0.6 * strength, images)


def gamma(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Raises to a power from 1/2 to 2."""
    return images.clamp(0, 1) ** _column(2.0**strength, images)


def sharpness(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Adds or takes away fine structure, up to as much again as there is."""
    smooth = gaussian_blur(images, np.full(len(images), 1.0), 3.0)
    return images + (images - smooth) * _column(strength, images)


def posterise(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Leaves as few as 8 grey levels."""
    levels = _column(2.0 ** np.round(8 - 5 * np.abs(strength)) - 1, images)
    return (images.clamp(0, 1) * levels).round() / levels


def histogram(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Moves towards the equalised image."""
    share = _column(np.abs(strength), images)
    return images + share * (equalize(images) - images)


def rotation(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Turns, by 30° at most."""
    angle = np.deg2rad(30 * strength)
    cos, sin, zero = np.cos(angle), np.sin(angle), 0 * angle
    return _moved(images, [[cos, -sin, zero], [sin, cos, zero]])


def shear(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Shears along rows, by 0.3 at most."""
    zero = 0 * strength
    return _moved(images, [[1 + zero, 0.3 * strength, zero], [zero, 1 + zero, zero]])


def shift_across(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Shifts left or right, by 15 % of the edge at most."""
    zero = 0 * strength
    return _moved(images, [[1 + zero, zero, 0.3 * strength], [zero, 1 + zero, zero]])


def shift_along(images: torch.Tensor, strength: np.ndarray) -> torch.Tensor:
    """Shifts up or down, by 15 % of the edge at most."""
    zero = 0 * strength
    return _moved(images, [[1 + zero, zero, zero], [zero, 1 + zero, 0.3 * strength]])


Operation = Callable[[torch.Tensor, np.ndarray], torch.Tensor]
OPERATIONS: tuple[Operation, ...] = (
    brightness, contrast, gamma, sharpness, posterise, histogram, rotation, shear, shift_across, shift_along,
)  # fmt: skip


class BatchRandAugmentd(RandomizableTransform, MapTransform):
    """Applies a few operations to each image, drawn per sample from `OPERATIONS`, each in either direction.

    They are RandAugment's that make sense for a radiograph: none that inverts, and none of colour.

    Args:
        keys: of the batch.
        count: operations an image, drawn with replacement.
        magnitude: 0 (nothing) to 10 (the most).

    Raises:
        CxrError: a number out of range.
    """

    def __init__(self, keys: KeysCollection, count: int = 2, magnitude: float = 10) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if count < 1 or not 0 <= magnitude <= LARGEST:
            raise CxrError(f"count {count}, magnitude {magnitude}: must be at least 1, and 0 to {LARGEST}")
        self.count, self.magnitude = count, magnitude
        self.chosen = np.zeros((count, 0), np.int64)
        self.strength = np.zeros((count, 0))

    def randomize(self, images: int) -> None:
        """Draws `chosen` (count, images), numbers of operations, and `strength`, −1 to 1, of each."""
        shape = (self.count, images)
        self.chosen = self.R.randint(len(OPERATIONS), size=shape)
        sign = np.where(self.R.uniform(size=shape) < 0.5, -1.0, 1.0)
        self.strength = sign * self.magnitude / LARGEST

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(B, 1, S, S) float 0–1 → the same."""
        out = dict(data)
        self.randomize(len(out[self.first_key(out)]))
        for key in self.key_iterator(out):
            images = out[key].clone()
            for chosen, strength in zip(self.chosen, self.strength, strict=True):
                for number in np.unique(chosen):
                    members = np.flatnonzero(chosen == number)
                    index = torch.from_numpy(members).to(images.device)
                    images[index] = OPERATIONS[number](images[index], strength[members]).clamp_(0, 1)
            out[key] = images
        return out


def _column(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values)).to(images.device, images.dtype).view(-1, 1, 1, 1)


def _moved(images: torch.Tensor, rows: list[list[np.ndarray]]) -> torch.Tensor:
    theta = np.ascontiguousarray(np.moveaxis(np.array(rows), 2, 0), np.float32)
    return sample(images, theta, images.shape[-1])
