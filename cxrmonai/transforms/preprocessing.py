"""What an encoder expects of its input, and how a batch is brought to it on its device."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform

from cxrmonai.data.geometry import letterbox_shape
from cxrmonai.errors import CxrError
from cxrmonai.transforms.batch import BatchScaleIntensityd, normalize

FITS = ("letterbox", "crop")
STEPS = ("crop", "resize")
INTERPOLATIONS = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """From grey images to an encoder's input; the defaults are those of our own encoders.

    Attributes:
        image_size: edge of the input in pixels.
        fit: how an image becomes a square: `letterbox` (longest side to `fit_size`, zero-padded on both sides) or
            `crop` (shorter side to `fit_size`, centre kept). A square image is the same by either.
        fit_size: edge of that square; 0 for `image_size`.
        then: how the square becomes `image_size` where that differs: `crop` (centre) or `resize`.
        interpolation: of every resize, without aliasing: `area` (averages by whole factors, else as `bilinear`),
            `bilinear` or `bicubic`.
        mean: subtracted from each channel, in units of the 0–1 range; its length is the number of channels, all of
            which hold the same grey image.
        std: divides each channel, likewise.

    Raises:
        CxrError: a value is not one of those.
    """

    image_size: int
    fit: str = "letterbox"
    fit_size: int = 0
    then: str = "crop"
    interpolation: str = "area"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        for name, known in (("fit", FITS), ("then", STEPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise CxrError(f"{name} '{getattr(self, name)}': known are {', '.join(known)}")
        if self.image_size < 1 or self.fit_size < 0:
            raise CxrError(f"image_size {self.image_size}, fit_size {self.fit_size}: must be pixels, at least 1")
        if self.then == "crop" and 0 < self.fit_size < self.image_size:
            raise CxrError(f"image_size {self.image_size} cannot be cropped from {self.fit_size} pixels")
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise CxrError(f"mean {self.mean}, std {self.std}: must be as many numbers, the latter above 0")

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return len(self.mean)

    @property
    def square(self) -> int:
        """Edge in pixels of the square that an image is fitted to at first."""
        return self.fit_size or self.image_size

    @property
    def share(self) -> float:
        """Part of that square's edge that is seen, in its centre; 1 where nothing is cropped."""
        return self.image_size / self.square if self.then == "crop" else 1.0

    def at(self, image_size: int) -> Preprocessing:
        """The same for another size of the input: the same part of an image is seen, in other pixels."""
        return replace(self, image_size=image_size, fit_size=round(self.fit_size * image_size / self.image_size))

    def as_dict(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)

    def __str__(self) -> str:
        edge = self.square
        fit = {
            "letterbox": f"longest side to {edge} px, zero-padded to a square",
            "crop": f"shorter side to {edge} px, centre square",
        }[self.fit]
        steps = [fit]
        if edge != self.image_size:
            last = {"crop": "centre crop of", "resize": f"{self.interpolation} resize to"}[self.then]
            steps.append(f"{last} {self.image_size} px")
        steps.append(f"{self.channels} channel{'s of the same grey' if self.channels > 1 else ''}")
        steps.append(f"mean {_listed(self.mean)}, std {_listed(self.std)} (grey 0–1)")
        return "; ".join(steps)


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.6g}" for value in (values if len(set(values)) > 1 else values[:1]))


def preprocess(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Brings a batch of grey images to an encoder's input, on the batch's device.

    Args:
        images: (B, 1, H, W), uint8, uint16, or float in 0–1; images of a store are squares already, so that `fit` only
            resizes them.
        preprocessing: what the encoder expects.

    Returns:
        (B, C, S, S) float for `channels` C and `image_size` S.

    Raises:
        CxrError: the images have several channels, or a type without a known range.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise CxrError(f"images of shape {tuple(images.shape)}: must be (B, 1, H, W), one grey channel each")
    images = BatchScaleIntensityd("image")({"image": images})["image"]
    edge = preprocessing.square
    fit = _letterboxed if preprocessing.fit == "letterbox" else _cropped
    images = fit(images, edge, preprocessing.interpolation)
    if edge != preprocessing.image_size:
        size = preprocessing.image_size
        crops = preprocessing.then == "crop"
        images = _centre(images, size) if crops else _resized(images, (size, size), preprocessing.interpolation)
    return normalize(images, preprocessing.mean, preprocessing.std)


class PreprocessBatchd(MapTransform):
    """Brings a batch to an encoder's input, see `preprocess`.

    Args:
        keys: of the batch.
        preprocessing: what the encoder expects, such as `networks.preprocessing(path)`.
    """

    def __init__(self, keys: KeysCollection, preprocessing: Preprocessing) -> None:
        super().__init__(keys)
        self.preprocessing = preprocessing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(B, 1, H, W) → (B, C, S, S) float."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = preprocess(out[key], self.preprocessing)
        return out


class BatchSeenPartd(MapTransform):
    """Cuts square images to the part that a network sees: what `preprocess` keeps, not yet resized nor normalised.

    Random crops of a training are drawn inside that part, so that things have the size that they have in evaluation.

    Args:
        keys: of the batch.
        preprocessing: what the encoder expects.
    """

    def __init__(self, keys: KeysCollection, preprocessing: Preprocessing) -> None:
        super().__init__(keys)
        self.share = preprocessing.share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(B, 1, S, S) → (B, 1, s, s)."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = _centre(out[key], round(out[key].shape[-1] * self.share))
        return out


def _letterboxed(images: torch.Tensor, edge: int, interpolation: str) -> torch.Tensor:
    rows, columns = letterbox_shape(*images.shape[-2:], edge)
    images = _resized(images, (rows, columns), interpolation)
    top, left = (edge - rows) // 2, (edge - columns) // 2
    return F.pad(images, (left, edge - columns - left, top, edge - rows - top))


def _cropped(images: torch.Tensor, edge: int, interpolation: str) -> torch.Tensor:
    height, width = images.shape[-2:]
    shorter = min(height, width)
    shape = (edge * height // shorter, edge * width // shorter)  # rounded as torchvision does
    return _centre(_resized(images, shape, interpolation), edge)


def _centre(images: torch.Tensor, edge: int) -> torch.Tensor:
    top, left = (round((length - edge) / 2) for length in images.shape[-2:])  # rounded as torchvision does
    return images[..., top : top + edge, left : left + edge]


def _resized(images: torch.Tensor, shape: tuple[int, int], interpolation: str) -> torch.Tensor:
    height, width = images.shape[-2:]
    if (height, width) == shape:
        return images
    if interpolation == "area" and height % shape[0] == 0 and width % shape[1] == 0:
        return F.avg_pool2d(images, (height // shape[0], width // shape[1]))
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    return F.interpolate(images, size=shape, mode=mode, align_corners=False, antialias=True)
