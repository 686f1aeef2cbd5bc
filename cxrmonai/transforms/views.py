"""Several random views of one image by per-sample MONAI transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import Compose, Randomizable, Transform


class Viewsd(Randomizable, Transform):
    """Applies a random transform to an image once for each view, drawing anew each time.

    MONAI's random dictionary transforms give all their keys the same draw, so that two keys would be the same view
    twice.

    Args:
        transform: of an item with the one key `image`.
        names: keys that the views get.
    """

    def __init__(self, transform: Compose, names: Sequence[str] = ("view_1", "view_2")) -> None:
        self.transform, self.names = transform, tuple(names)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Viewsd:
        """Seeds the transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Item with `image` → the item with one more key per view."""
        return {**data, **{name: self.transform({"image": data["image"]})["image"] for name in self.names}}
