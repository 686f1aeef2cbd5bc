"""Embeddings of earlier steps, which a contrastive loss tells a query from.

Both memories hold vectors of unit length in float32, are the same on all ranks, and are part of a checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError

MEMORIES = ("queue", "bank")


class KeyQueue(nn.Module):
    """The newest keys, first in, first out (He et al., MoCo, 2020).

    It begins with random directions. Each key carries the row of its image, so that a query's own older keys are not
    held against it; on small data sets they would be there all the time.

    Args:
        size: number of keys.
        feature_size: length of a key.
    """

    def __init__(self, size: int, feature_size: int) -> None:
        super().__init__()
        self.register_buffer("keys", _directions(size, feature_size))
        self.register_buffer("rows", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def contrast(self, rows: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What queries of images `rows` are compared with.

        Args:
            rows: (B,) of the images.
            keys: (B, D) of these images.

        Returns:
            (B, D) positives: the keys; (K, D) negatives; (B, K) bool: which of them are the image's own.
        """
        return keys, self.keys, self.rows == rows[:, None]

    @torch.no_grad()
    def update(self, rows: torch.Tensor, keys: torch.Tensor) -> None:
        """Puts the keys of all ranks in the place of the oldest ones.

        Args:
            rows: (B,) of this rank's images.
            keys: (B, D), any length.
        """
        size = len(self.keys)
        rows, keys = everyones(rows)[-size:], everyones(_unit(keys, self.keys))[-size:]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places] = keys
        self.rows[places] = rows
        self.place.copy_((self.place + len(keys)) % size)


class InstanceBank(nn.Module):
    """One embedding per training image, moved whenever the image is seen (Wu et al., 2018; PIRL, 2020).

    It begins with random directions.

    Args:
        rows: (N,) of the training images in the store.
        feature_size: length of an embedding.
        mix: share of the old embedding that stays.
        negatives: drawn from the bank for each step; 0, or as many as there are, takes all.
    """

    def __init__(self, rows: Sequence[int], feature_size: int, mix: float = 0.5, negatives: int = 0) -> None:
        super().__init__()
        rows = torch.as_tensor(rows)
        self.mix, self.negatives = mix, negatives
        self.register_buffer("embeddings", _directions(len(rows), feature_size))
        place = torch.full((int(rows.max()) + 1,), -1)
        place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place)

    def contrast(self, rows: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `KeyQueue.contrast`, but the positives are what the bank holds of the images; `keys` are not used."""
        own, count = self.place[rows], len(self.embeddings)
        drawn = torch.arange(count, device=own.device)
        if 0 < self.negatives < count:
            drawn = torch.randperm(count, device=own.device)[: self.negatives]
        return self.embeddings[own], self.embeddings[drawn], drawn == own[:, None]

    @torch.no_grad()
    def update(self, rows: torch.Tensor, keys: torch.Tensor) -> None:
        """Moves the embeddings of all ranks' images towards these, and back to unit length.

        Args:
            rows: (B,) of this rank's images.
            keys: (B, D), any length.
        """
        own = self.place[everyones(rows)]
        keys = everyones(_unit(keys, self.embeddings))
        self.embeddings[own] = F.normalize(self.mix * self.embeddings[own] + (1 - self.mix) * keys, dim=1)


def _directions(count: int, size: int) -> torch.Tensor:
    """Random vectors of unit length (count, size), the same on every rank and in every run."""
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(0)), dim=1)


def _unit(keys: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.normalize(keys.to(like.dtype), dim=1)


def everyones(values: torch.Tensor) -> torch.Tensor:
    """(B, …) of each rank → (R·B, …) in the order in which one rank would have had them, see `EpochSampler`."""
    return distributed.gather(values).transpose(0, 1).flatten(0, 1)


def make_memories(
    kind: str,
    rows: Sequence[int],
    feature_size: int,
    count: int = 1,
    queue_size: int = 4096,
    mix: float = 0.5,
    negatives: int = 4096,
) -> nn.ModuleList:
    """The memories of a method.

    Args:
        kind: `queue` or `bank`.
        rows: (N,) of the training images in the store.
        feature_size: length of an embedding.
        count: one for each kind of query.
        queue_size: of a queue; shortened to N, with a note, since longer ones hold an image several times.
        mix: of a bank.
        negatives: of a bank.

    Raises:
        CxrError: unknown kind, or a single training image.
    """
    if kind not in MEMORIES:
        raise CxrError(f"memory '{kind}': known are {', '.join(MEMORIES)}")
    if len(rows) < 2:
        raise CxrError("data_file: has one training image, which can be told from no other; prepare more")
    if kind == "bank":
        return nn.ModuleList(InstanceBank(rows, feature_size, mix, negatives) for _ in range(count))
    if queue_size > len(rows) and distributed.rank() == 0:
        print(f"note: queue_size {queue_size} is cut to {len(rows)}, the number of training images", file=sys.stderr)
    return nn.ModuleList(KeyQueue(min(queue_size, len(rows)), feature_size) for _ in range(count))
