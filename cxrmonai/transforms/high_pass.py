"""The fine structure of a radiograph as a view of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from cxrmonai.errors import CxrError
from cxrmonai.transforms.batch import gaussian_blur


class BatchHighPassd(MapTransform):
    """Subtracts a Gaussian blur from the images of one view, and centres what is left at 0.5.

    CMC (Tian et al., 2020) sets the channels of a colour image against each other. A radiograph has one; here its
    intensities are set against its fine structure.

    Args:
        keys: of the batch, whose views follow one another along the first axis.
        sigma: of the blur, in pixels.
        gain: multiplies the difference.
        view: number of the view that is filtered, from 0.
        views: how many there are.

    Raises:
        CxrError: a number out of range.
    """

    def __init__(self, keys: KeysCollection, sigma: float, gain: float = 4.0, view: int = 1, views: int = 2) -> None:
        super().__init__(keys)
        if sigma <= 0 or gain <= 0 or not 0 <= view < views:
            raise CxrError(f"sigma {sigma}, gain {gain}, view {view} of {views}: must be above 0, and one of the views")
        self.sigma, self.gain, self.view, self.views = sigma, gain, view, views

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(V·B, 1, H, W) float 0–1 → the same."""
        out = dict(data)
        for key in self.key_iterator(out):
            parts = list(out[key].chunk(self.views))
            images = parts[self.view]
            smooth = gaussian_blur(images, np.full(len(images), self.sigma), 3 * self.sigma)
            parts[self.view] = (0.5 + self.gain * (images - smooth)).clamp_(0, 1)
            out[key] = torch.cat(parts)
        return out
