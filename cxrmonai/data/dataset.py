"""Serving a store to PyTorch: whole batches of plain tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrmonai import distributed
from cxrmonai.data.store import Store, blocks
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError


class StoreDataset(Dataset):
    """Images and labels of a store.

    A `DataLoader` whose `collate_fn` is `as_it_is` receives a whole batch from one gather out of the memory map; see
    `store_loader`. The file is opened at first use in each process, so that any start method of workers will do.

    Args:
        path: of the store.
        split: `train`, `val`, `test`, several of them, or `None` for all rows.
        rows: row numbers instead of a split.
        device: where the images shall live as a whole; by default they stay in the file.
        targets: (rows of the store, K) what `label` shall be in place of the store's labels, see `data.tasks`.
        masks: names of masks that batches shall bring, in any spelling.
        keep_masks: whether the masks shall be held in memory, one bit a name, and not be unpacked anew each epoch.

    Attributes:
        store: the store.
        rows: (N,) row numbers in the store, in the order of this data set.

    Raises:
        CxrError: the store cannot be opened, the split is empty, or there is no such mask.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | Sequence[str] | None = None,
        rows: Sequence[int] | None = None,
        device: str | torch.device | None = None,
        targets: np.ndarray | None = None,
        masks: Sequence[str] = (),
        keep_masks: bool = False,
    ) -> None:
        self.store = Store(path)
        self.rows = self.store.rows(split) if rows is None else np.asarray(rows, np.int64)
        self._labels = torch.from_numpy((self.store.labels if targets is None else targets)[self.rows])
        self._index = torch.from_numpy(np.ascontiguousarray(self.rows))
        self._resident: torch.Tensor | None = None
        if device is not None:
            self._resident = self._load(device)
            self._labels, self._index = self._labels.to(device), self._index.to(device)
        self._stored = StoredMasks(self.store, self.rows, masks, keep_masks) if len(masks) else None

    def _load(self, device: str | torch.device) -> torch.Tensor:
        size, dtype = self.store.size, self.store.dtype
        images = torch.empty((len(self), size, size), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
        for block in blocks(len(self), size * size * dtype.itemsize):
            images[block] = torch.from_numpy(self.store.images[self.rows[block]]).to(device)
        return images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One image: `image` (1, S, S), `label` (C,) and `index` (), its row in the store."""
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: `image` (B, 1, S, S) in the store's type, `label` (B, C) float32, `index` (B,) rows in the store.

        With masks also `mask` (B, K, S, S) uint8, 1 inside, and `mask_known` (B, K) bool, whether it was drawn.
        """
        places = np.asarray(indices, np.int64)  # far faster than a tensor of a list
        chosen = torch.from_numpy(places).to(self._labels.device)
        if self._resident is not None:
            images = self._resident.index_select(0, chosen)
        else:
            images = torch.from_numpy(self.store.images[self.rows[places]])
        batch = {
            "image": images.unsqueeze(1),
            "label": self._labels.index_select(0, chosen),
            "index": self._index.index_select(0, chosen),
        }
        if self._stored is None:
            return batch
        masks, known = (torch.from_numpy(array).to(images.device) for array in self._stored.get(places))
        return {**batch, "mask": masks, "mask_known": known}

    @property
    def class_names(self) -> list[str]:
        """Findings, in the order of `label`."""
        return self.store.class_names


class StoredMasks:
    """Some masks of some images of a store.

    Args:
        store: with masks.
        rows: (N,) row numbers of the images.
        names: of the masks, in any spelling.
        keep: whether they are held in memory, one bit a name, and not unpacked anew each time.

    Raises:
        CxrError: there is no such mask.
    """

    def __init__(self, store: Store, rows: np.ndarray, names: Sequence[str], keep: bool = False) -> None:
        self.store, self.rows = store, rows
        self.bits = np.array(mask_places(store, names), np.uint32)
        self._kept = store.mask_images(rows) if keep else None

    def get(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Masks at some places of `rows`: (B, K, S, S) uint8, 1 inside, and (B, K) bool, whether each was drawn."""
        if self._kept is None:
            bits, drawn = self.store.mask_images(self.rows[places])
        else:
            bits, drawn = (array[places] for array in self._kept)
        masks = np.stack([(bits >> bits.dtype.type(bit)) & bits.dtype.type(1) for bit in self.bits], axis=1)
        return masks.astype(np.uint8, copy=False), (drawn[:, None] >> self.bits) & 1 == 1


def mask_places(store: Store, names: Sequence[str]) -> list[int]:
    """Places of masks among those of a store, whatever their publishers call them.

    Raises:
        CxrError: there is no such mask.
    """
    if not names:
        return []
    if not store.mask_names:
        raise CxrError(f"{store.path}: holds no masks; prepare it from a source that brings some (docs/data.md)")
    try:
        return match_classes(names, store.mask_names)
    except CxrError as error:
        raise CxrError(f"{store.path}: masks: {error}") from error


def as_it_is(batch: Any) -> Any:
    """The `collate_fn` for a data set that serves whole batches."""
    return batch


class EpochSampler(Sampler[int]):
    """Row order of an epoch, a function of the seed and the epoch alone, shared out to the ranks.

    With blocks of one row the ranks' batches of size B/R at the same step make up the batch of size B that one rank
    would see; with blocks of B rows each of the ranks' batches is one of those that one rank would see.

    Args:
        length: of the data set.
        shuffle: whether the order is drawn anew each epoch.
        seed: of the draw.
        shard: whether each rank sees its own part; parts are equally long when `even`.
        even: leave out up to R − 1 rows so that every rank has as many.
        weights: (length,) above or equal 0; where given, an epoch draws `length` rows with replacement, each in
            proportion to its weight.
        draws: rows of an epoch in place of `length`: as many whole shuffled orders as it takes, the last cut short, or
            so many draws by weight.
        block: how many rows that follow each other go to one rank together.

    Raises:
        CxrError: there are fewer rows than ranks; weights without `shuffle`, or of another length, or all 0; or draws
            without `shuffle`, or fewer than one for each rank.
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int = 0,
        shard: bool = True,
        even: bool = True,
        weights: Sequence[float] | np.ndarray | None = None,
        draws: int | None = None,
        block: int = 1,
    ) -> None:
        self.length, self.shuffle, self.seed, self.block = length, shuffle, seed, block
        self.draws = length if draws is None else draws
        self.weights = None if weights is None else torch.as_tensor(np.asarray(weights, np.float64))
        if self.weights is not None and (not shuffle or len(self.weights) != length or not self.weights.sum() > 0):
            raise CxrError(f"{len(self.weights)} weights for {length} rows; give one above 0 for each, and shuffle")
        self.ranks = distributed.world_size() if shard else 1
        self.rank = distributed.rank() if self.ranks > 1 else 0
        self.even = even
        self.epoch = 0
        if length < self.ranks:
            raise CxrError(f"{length} images cannot be shared among {self.ranks} ranks; use fewer")
        if self.draws != length and (not shuffle or self.draws < self.ranks):
            raise CxrError(f"{self.draws} draws an epoch: at least one for each of {self.ranks} ranks, and shuffled")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def _order(self) -> torch.Tensor:
        if not self.shuffle:
            order = torch.arange(self.length)
        else:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            if self.weights is None:
                turns = -(-self.draws // self.length)
                order = torch.cat([torch.randperm(self.length, generator=generator) for _ in range(turns)])
            else:  # torch.multinomial takes 2**24 rows at most
                order = torch.searchsorted(
                    self.weights.cumsum(0),
                    torch.rand(self.draws, generator=generator, dtype=torch.float64) * self.weights.sum(),
                    right=True,
                ).clamp_(max=self.length - 1)
        return order[self.places()]

    def places(self, rank: int | None = None) -> np.ndarray:
        """(n,) places in the epoch's order that go to a rank, this one by default; of those that all ranks have."""
        end = self.draws - self.draws % self.ranks if self.even else self.draws
        rank = self.rank if rank is None else rank
        return np.flatnonzero(np.arange(end) // self.block % self.ranks == rank)

    def turns(self) -> list[tuple[int, int]]:
        """For each row in the epoch's order, the rank that it goes to and its place among those of that rank."""
        turns = [(rank, k) for rank in range(self.ranks) for k in range(len(self.places(rank)))]
        return [turns[k] for k in self._from_ranks()]

    def join(self, part: np.ndarray) -> np.ndarray:
        """Puts together what each rank made of its rows; all ranks must call it.

        Args:
            part: (n, …) of this rank's rows, in their order.

        Returns:
            On rank 0 (length, …) in the epoch's order; elsewhere `part`.
        """
        if self.ranks == 1:
            return part
        parts = distributed.collect(part)
        if parts is None:
            return part
        return np.concatenate(parts)[self._from_ranks()]

    def _from_ranks(self) -> np.ndarray:
        """Puts what stands rank after rank into the epoch's order."""
        return np.argsort(np.concatenate([self.places(rank) for rank in range(self.ranks)]))

    def __iter__(self) -> Any:
        return iter(self._order().tolist())

    def __len__(self) -> int:
        return len(self._order())


def store_loader(
    dataset: StoreDataset,
    batch_size: int,
    shuffle: bool = False,
    drop_last: bool = False,
    num_workers: int = 0,
    seed: int = 0,
    shard: bool = True,
    start_method: str | None = None,
    weights: Sequence[float] | np.ndarray | None = None,
    draws: int | None = None,
) -> DataLoader:
    """A loader that fetches whole batches.

    With no workers a batch is one copy out of the memory map, faster than any worker could hand it over; workers pay
    only where something slow is done per image.

    Args:
        dataset: of whole batches.
        batch_size: images a batch on this rank.
        shuffle: a new order each epoch, see `EpochSampler`.
        drop_last: leave out the last batch when it is short, unless it is the only one.
        num_workers: processes.
        seed: of the order.
        shard: share the rows out to the ranks: one by one where every batch has `batch_size` (`shuffle` or
            `drop_last`), else in whole batches, or in smaller blocks where there are too few for all ranks.
        start_method: of the workers: fork, spawn or forkserver.
        weights: how often each row is drawn, see `EpochSampler`.
        draws: rows of an epoch, see `EpochSampler`.

    Returns:
        The loader; its `sampler` is an `EpochSampler`.

    Raises:
        CxrError: workers are asked for a data set that lives on a device.
    """
    if num_workers and dataset._resident is not None:
        raise CxrError("num_workers must be 0 for a data set that lives on the device")
    block = 1
    if shard and not shuffle and not drop_last:
        block = max(1, min(batch_size, len(dataset) // distributed.world_size()))
    sampler = EpochSampler(
        len(dataset), shuffle, seed, shard, even=drop_last, weights=weights, draws=draws, block=block
    )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last and len(sampler) >= batch_size,
        num_workers=num_workers,
        collate_fn=as_it_is,
        pin_memory=torch.cuda.is_available() and dataset._resident is None,
        persistent_workers=num_workers > 0,
        multiprocessing_context=start_method if num_workers else None,
    )
