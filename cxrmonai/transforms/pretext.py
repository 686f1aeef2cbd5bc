"""What pretext tasks do to a batch: turn and shift it, hide patches of it, or keep it as the picture to be restored.

Each sets `label` to a dictionary of what the network is asked, made from the transform alone. They come after the
images are in 0–1 and before they are normalised.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from cxrmonai.errors import CxrError
from cxrmonai.transforms.batch import Batch

LABEL = "label"
HIDDEN_GREY = 0.5  # 0 for a network that sees (x − 0.5) / 0.25
MASKS = ("fixed", "dynamic")
CLASSES = (4, 3, 3)  # of the turn and of the shifts along both axes
STEPS = (0, -1, 1)  # of a shift, in the order of its classes


class BatchRandRotateShiftd(RandomizableTransform, MapTransform):
    """Turns each image by 0, 90, 180 or 270° and shifts it along each axis by nothing, back or forth.

    Turns are exact (no resampling); shifts move whole pixels in over a reflected border. `label` becomes `rotation`
    (B,), the number of quarter turns counter-clockwise, and `shift_x`, `shift_y` (B,): 0 for none, 1 for left or up, 2
    for right or down, in the turned image.

    Args:
        keys: of the batch; all are moved alike.
        shift: length of a shift, relative to the edge (56 of 512 pixels in the XAI toolbox).
        seed: where given, what is drawn for an image is a function of it and of the batch's `index` alone, not of
            ranks, batches or what was drawn before.

    Raises:
        CxrError: a shift that is not above 0 and below 1; in use: it is less than a pixel.
    """

    def __init__(self, keys: KeysCollection, shift: float = 56 / 512, seed: int | None = None) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if not 0 < shift < 1:
            raise CxrError(f"shift {shift}: must be above 0 and below 1, a share of the image's edge")
        self.shift, self.seed = shift, seed
        self.drawn = np.zeros((3, 0), np.int64)

    def randomize(self, count: int, index: Sequence[int] = ()) -> None:
        """Draws `drawn` (3, count): the classes of rotation, horizontal and vertical shift."""
        if self.seed is None:
            self.drawn = np.stack([self.R.randint(classes, size=count) for classes in CLASSES]).astype(np.int64)
        else:
            self.drawn = np.array([np.random.default_rng([self.seed, k]).integers(CLASSES) for k in index]).T

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, S, S) float → the same."""
        out = dict(data)
        images = out[self.first_key(out)]
        self.randomize(len(images), () if self.seed is None else out["index"].tolist())
        for key in self.key_iterator(out):
            out[key] = shifted(turned(out[key], self.drawn[0]), *self.drawn[1:], self.shift)
        rotation, shift_x, shift_y = torch.from_numpy(self.drawn).to(images.device)
        out[LABEL] = {"rotation": rotation, "shift_x": shift_x, "shift_y": shift_y}
        return out


def turned(images: torch.Tensor, quarters: np.ndarray) -> torch.Tensor:
    """Turns each of (B, C, S, S) squares by its number of quarter turns counter-clockwise, (B,) of 0 to 3."""
    result = images.clone()
    for number in (1, 2, 3):
        chosen = torch.from_numpy(np.flatnonzero(quarters == number)).to(images.device)
        if len(chosen):
            result[chosen] = images[chosen].rot90(number, (2, 3))
    return result


def shifted(images: torch.Tensor, horizontal: np.ndarray, vertical: np.ndarray, shift: float) -> torch.Tensor:
    """Shifts each image by whole pixels over a reflected border.

    Args:
        images: (B, C, S, S).
        horizontal: (B,) classes, places in `STEPS`; 2 moves what is seen to the right.
        vertical: likewise; 2 moves it down.
        shift: relative to the edge.

    Raises:
        CxrError: the shift is less than a pixel.
    """
    size = images.shape[-1]
    pixels = round(shift * size)
    if not 0 < pixels < size:
        raise CxrError(f"shift {shift} is {pixels} pixels of {size}; give a larger --shift or --image_size")
    padded = F.pad(images, [pixels] * 4, mode="reflect")
    result = torch.empty_like(images)
    for x in range(3):
        for y in range(3):
            chosen = torch.from_numpy(np.flatnonzero((horizontal == x) & (vertical == y))).to(images.device)
            left, top = pixels - STEPS[x] * pixels, pixels - STEPS[y] * pixels
            if len(chosen):
                result[chosen] = padded[chosen, :, top : top + size, left : left + size]
    return result


class BatchPictured(MapTransform):
    """Keeps the image as the picture that a network shall give back.

    `label` becomes `picture` (B, 1, S, S) in 0–1, `weight` of the same shape, 1 where the picture is not 0 (padding
    is), and `findings` (B, C), the labels that were there.
    """

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """The image passes unchanged."""
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            out[LABEL] = {"picture": picture, "weight": (picture > 0).to(picture.dtype), "findings": out[LABEL]}
        return out


class BatchMaskd(MapTransform):
    """Hides square patches under mid-grey; the network shall tell what was there.

    `label` becomes `picture` (B, 1, S, S) in 0–1 and `weight`, 1 in the hidden patches. Which patches are hidden is a
    function of the seed and the batch's `key` (a hash of the image id, see `data.keyed`), and for `dynamic` masks also
    of the epoch; not of ranks, batches or what was drawn before.

    Args:
        keys: of the batch, one key.
        patch: edge of a patch in pixels, which must divide the image's.
        ratio: share of the patches that is hidden, above 0 and below 1.
        mask: `fixed`, one mask for an image id for good; or `dynamic`, a new one every few epochs.
        every: epochs that a dynamic mask lasts.
        seed: of the masks.

    Raises:
        CxrError: a word or number out of range; in use: patches do not fill the image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch: int,
        ratio: float = 0.6,
        mask: str = "dynamic",
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(keys)
        if mask not in MASKS:
            raise CxrError(f"mask '{mask}': known are {', '.join(MASKS)}")
        if not 0 < ratio < 1:
            raise CxrError(f"mask_ratio {ratio}: must be above 0 and below 1")
        if patch < 1 or every < 1:
            raise CxrError(f"mask_patch {patch} and mask_every {every}: must be at least 1")
        self.patch, self.ratio, self.mask, self.every, self.seed = patch, ratio, mask, every, seed
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 1, whose masks come next."""
        self.epoch = epoch

    def masks(self, keys: torch.Tensor, size: int) -> torch.Tensor:
        """(B,) keys → (B, 1, size, size) bool, true where hidden."""
        edge, rest = divmod(size, self.patch)
        if rest or edge < 2:
            raise CxrError(f"mask_patch {self.patch} does not divide images of {size} pixels into patches; mend either")
        hidden = min(max(1, round(self.ratio * edge * edge)), edge * edge - 1)
        turn = (self.epoch - 1) // self.every if self.mask == "dynamic" else -1
        noise = hash_places(keys, edge * edge, (self.seed, turn))
        chosen = torch.zeros(noise.shape, dtype=torch.bool, device=keys.device)
        chosen.scatter_(1, noise.argsort(dim=1)[:, :hidden], True)
        small = chosen.view(-1, 1, edge, edge)
        return small.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def __call__(self, data: Batch) -> dict[Hashable, Any]:
        """(B, 1, S, S) float 0–1 → the same, with patches hidden."""
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            mask = self.masks(out["key"], picture.shape[-1])
            out[key] = torch.where(mask, HIDDEN_GREY, picture)
            out[LABEL] = {"picture": picture, "weight": mask.to(picture.dtype)}
        return out


def hash_places(keys: torch.Tensor, count: int, salt: tuple[int, int]) -> torch.Tensor:
    """A number for each key and place, as good as random (the finaliser of SplitMix64; Steele, Lea and Flood, 2014).

    Args:
        keys: (B,) int64.
        count: of places.
        salt: other numbers, other results.

    Returns:
        (B, count) int64.
    """
    places = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    mixed = keys
    for number in salt:
        mixed = _mix(mixed + _signed(0x9E3779B97F4A7C15 * (2 * number + 3)))
    return _mix(mixed[:, None] + places * _signed(0x9E3779B97F4A7C15))


def _mix(values: torch.Tensor) -> torch.Tensor:
    values = (values ^ _right(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _right(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _right(values, 31)


def _right(values: torch.Tensor, places: int) -> torch.Tensor:
    """A shift to the right that brings in zeros."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """A number modulo 2⁶⁴ as int64 has it."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number
