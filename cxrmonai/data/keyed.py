"""A data set whose batches carry a number for each image id, so that what is drawn for an image can stay with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch

from cxrmonai.data.dataset import StoreDataset


def image_keys(image_ids: Sequence[str]) -> np.ndarray:
    """(N,) int64, a hash of each image id: the same in every store, row and process."""
    digests = b"".join(blake2b(str(name).encode(), digest_size=8).digest() for name in image_ids)
    return np.frombuffer(digests, np.int64)


class KeyedDataset(StoreDataset):
    """Images whose batches also hold `key` (B,) int64, see `image_keys`.

    Args:
        path, split, device: see `StoreDataset`.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str | Sequence[str], device: str | torch.device | None = None
    ) -> None:
        super().__init__(path, split, device=device)
        self._keys = torch.from_numpy(image_keys(self.store.column("image_id")[self.rows]).copy())

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of `StoreDataset`, with `key`."""
        places = torch.from_numpy(np.asarray(indices, np.int64))
        return {**super().__getitems__(indices), "key": self._keys[places]}
