"""From a file to a network's input, one image at a time: what inference needs and a store spares."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from cxrmonai.data.reading import read_image, to_store_pixels


class LoadRadiographd(MapTransform):
    """Reads a file as `data.reading.read_image` does: grey, rows first, as seen; MONAI's LoadImage gives the transpose.

    The path stays under `<key>_path`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Path → (H, W) array in the file's own type.

        Raises:
            CxrError: the file cannot be read.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            out[f"{key}_path"] = str(out[key])
            out[key] = read_image(out[key]).pixels
        return out


class Letterboxd(MapTransform):
    """Fits an image into a square exactly as `prepare` does; its own height and width stay under `<key>_shape`.

    Args:
        keys: of arrays (H, W).
        size: edge in pixels.
    """

    def __init__(self, keys: KeysCollection, size: int) -> None:
        super().__init__(keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(H, W) → (1, size, size) uint8 tensor."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[f"{key}_shape"] = tuple(np.shape(out[key]))
            out[key] = torch.from_numpy(np.ascontiguousarray(to_store_pixels(out[key], self.size)))[None]
        return out
