"""Images to begin a synthesis with."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.explain.pixels import PixelClassifier, some_rows
from cxrmonai.transforms.batch import gaussian_blur, resize

STARTS = ("gaussian", "image", "noise")


class GaussianImages:
    """The normal distribution with the mean and the covariance of some images, which are made smaller before.

    A draw is the mean plus the images' deviations from it, weighted by independent standard normal numbers over
    √(N − 1). Its covariance is exactly that of the sample, of rank N − 1 at most, and no matrix of pixels by pixels is
    made or decomposed.

    Args:
        batches: of images (B, 1, S, S), 0–1, N ≥ 2 in all.
        shrink: how many times smaller the images become, 1 or more.
    """

    def __init__(self, batches: Iterable[torch.Tensor], shrink: int = 4) -> None:
        if shrink < 1:
            raise CxrError(f"shrink {shrink}: must be 1 or more")
        parts = []
        for images in batches:
            self.size = images.shape[-1]
            parts.append(resize(images, max(1, self.size // shrink)).cpu())
        small = torch.cat(parts) if parts else torch.zeros(0, 1, 1, 1)
        if len(small) < 2:
            raise CxrError(f"{len(small)} images are too few to fit a Gaussian to; give 2 or more")
        self.mean = small.mean(dim=0)
        self.deviations = (small - self.mean).flatten(1)

    def draw(self, count: int, seed: int = 0, blur: float = 0.0) -> torch.Tensor:
        """Draws images and brings them back to size.

        Args:
            count: how many.
            seed: the same seed draws the same.
            blur: standard deviation of a Gaussian blur of the small image, in its pixels; 0 for none.

        Returns:
            (count, 1, S, S), bilinear from the small ones, clipped to 0–1.
        """
        number = len(self.deviations)
        weights = torch.randn(count, number, generator=torch.Generator().manual_seed(seed)) / (number - 1) ** 0.5
        small = self.mean + (weights @ self.deviations).view(count, *self.mean.shape)
        if blur > 0:
            small = gaussian_blur(small, np.full(count, blur), 3 * blur)
        return F.interpolate(small, size=self.size, mode="bilinear", align_corners=False).clamp_(0, 1)


def start_images(
    classifier: PixelClassifier,
    data_file: str | os.PathLike[str],
    start: str = "gaussian",
    count: int = 1,
    seed: int = 0,
    split: str = "all",
    limit: int = 1000,
    shrink: int = 4,
    blur: float = 0.0,
    image_id: str | None = None,
    row: int | None = None,
) -> torch.Tensor:
    """Images to begin with.

    Args:
        classifier: whose input they become.
        data_file: the store.
        start: `gaussian`, drawn from the Gaussian fitted to the store's images; `image`, one of its images; or
            `noise`, uniform in 0–1 in each pixel.
        count: how many are drawn; an image is one.
        seed: of the draws.
        split: which images the Gaussian is fitted to.
        limit: most images it is fitted to.
        shrink: see `GaussianImages`.
        blur: see `GaussianImages.draw`.
        image_id: of the image for `image`.
        row: of the image in the store, in place of its id.

    Returns:
        (count, 1, S, S), 0–1, on the classifier's device.

    Raises:
        CxrError: an unknown start, or an image that is not there.
    """
    if start not in STARTS:
        raise CxrError(f"start '{start}': known are {', '.join(STARTS)}")
    if start == "image":
        return next(classifier.batches(data_file, np.array([image_row(data_file, image_id, row)])))
    if image_id is not None or row is not None:
        raise CxrError(f"image_id and row name an image of the store, but start is {start}; give --start image as well")
    if start == "noise":
        shape = next(classifier.batches(data_file, np.zeros(1, int))).shape[1:]
        return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).to(classifier.device)
    rows = some_rows(data_file, split, limit, seed)
    fitted = GaussianImages(classifier.batches(data_file, rows), shrink)
    return fitted.draw(count, seed, blur).to(classifier.device)


def image_row(data_file: str | os.PathLike[str], image_id: str | None, row: int | None) -> int:
    """The row of an image that is named by its id or its row.

    Raises:
        CxrError: both are given or none is, or there is no such image.
    """
    store = open_store(data_file)
    if (image_id is None) == (row is None):
        raise CxrError("start image: name the image with --image_id or, in place of that, with --row")
    if row is not None:
        if not 0 <= row < len(store):
            raise CxrError(f"row {row}: {data_file} has the rows 0 to {len(store) - 1}")
        return int(row)
    places = np.flatnonzero(store.column("image_id") == str(image_id))
    if not len(places):
        raise CxrError(f"{data_file}: no image '{image_id}'")
    return int(places[0])
