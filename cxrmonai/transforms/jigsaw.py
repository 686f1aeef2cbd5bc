"""An image in nine shuffled pieces (Noroozi and Favaro, 2016, as PIRL uses it)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from cxrmonai.errors import CxrError

GRID = 3
CROP, CELL, PIECE, INPUT = 255, 85, 64, 224  # pixels, as published


def jigsaw_edge(image_size: int) -> int:
    """Edge in pixels of the crop that is cut up: 255 for images of 224 pixels, in proportion for others."""
    return GRID * round(CROP / INPUT * image_size / GRID)


class BatchJigsawd(RandomizableTransform, MapTransform):
    """Cuts each square into 3×3 cells, takes a piece at a random place of each cell, and shuffles the nine.

    A piece measures 64/85 of its cell, so that edges do not give away which pieces are neighbours.

    Args:
        keys: of the batch.

    Raises:
        CxrError: in a call: a square too small for nine cells of two pixels.
    """

    def __init__(self, keys: KeysCollection) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.order = np.zeros((0, GRID * GRID), np.int64)
        self.places = np.zeros((2, 0, GRID * GRID), np.int64)

    def randomize(self, count: int, slack: int) -> None:
        """Draws `order` (count, 9), the cell that comes at each position, and `places` (2, count, 9) in the cells."""
        self.order = self.R.uniform(size=(count, GRID * GRID)).argsort(1)
        self.places = self.R.randint(0, slack + 1, size=(2, count, GRID * GRID))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(B, 1, E, E) → (9·B, 1, p, p), the pieces of an image in a row; p is 64/85 of E/3."""
        out = dict(data)
        for key in self.key_iterator(out):
            images = out[key]
            cell = images.shape[-1] // GRID
            edge = round(cell * PIECE / CELL)
            if edge < 2:
                raise CxrError(f"images of {images.shape[-1]} pixels are too small for a jigsaw; raise image_size")
            self.randomize(len(images), cell - edge)
            device = images.device
            row, column = np.divmod(self.order, GRID)
            inside = torch.arange(edge, device=device)
            tops = torch.from_numpy(row * cell + self.places[0]).to(device)
            lefts = torch.from_numpy(column * cell + self.places[1]).to(device)
            rows = (tops[..., None] + inside)[..., None]
            columns = (lefts[..., None] + inside)[:, :, None, :]
            members = torch.arange(len(images), device=device)[:, None, None, None]
            out[key] = images[:, 0][members, rows, columns].flatten(0, 1)[:, None]
        return out
