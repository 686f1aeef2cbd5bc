"""Images with masks to learn from: drawn by experts, made by a machine, or both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from cxrmonai import distributed
from cxrmonai.data.dataset import StoreDataset, StoredMasks, mask_places
from cxrmonai.data.geometry import content_window
from cxrmonai.data.mask_store import MaskStore
from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.data.splits import fold_splits
from cxrmonai.data.store import Store, open_store
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError

SUPERVISIONS = ("full", "weak", "semi")
KEPT_BYTES = 2**30


class SegmentationDataset(StoreDataset):
    """Images of a store with masks: `mask` is (B, K, S, S) uint8 of 0, 1 and `masks.MASK_UNKNOWN`.

    Unknown are masks that were not drawn, what a pseudo-mask leaves open, and the padding that made the image a square.
    An image with an expert's mask and a pseudo-mask is there twice.

    Args:
        path: of the store.
        classes: names of masks, in any spelling, as a list or `A,B`.
        split: `train`, `val`, `test` or `all`.
        supervision: `full`, masks of the store alone; `weak`, pseudo-masks alone; `semi`, both.
        expert_masks: how many masks of the store are used of each class: all (`None`), or so many of those that are
            not empty, drawn by seed. Empty ones are then known in the images that were drawn, since whoever draws one
            mask sees what is absent; a mask that is there and was not drawn is unknown.
        pseudo_masks: a mask store (`data.mask_store`) of the same images.
        seed: of that draw, and of the folds.
        fold: which turn of a cross-validation, see `splits.fold_splits`.
        folds: of the cross-validation; 0 takes the store's own split.
        keep_masks: whether the experts' masks are held in memory, see `StoredMasks`; by default where they are small.
        need_masks: whether images without any mask of the classes are left out.

    Attributes:
        from_expert: (N,) bool, whose masks each item has: those of experts come first.

    Raises:
        CxrError: an unknown word or class, no mask to learn from, or pseudo-masks of another store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        classes: str | Sequence[str],
        split: str = "train",
        supervision: str = "full",
        expert_masks: int | None = None,
        pseudo_masks: str | os.PathLike[str] | None = None,
        seed: int = 0,
        fold: int = 0,
        folds: int = 0,
        keep_masks: bool | None = None,
        need_masks: bool = True,
    ) -> None:
        if supervision not in SUPERVISIONS:
            raise CxrError(f"supervision '{supervision}': known are {', '.join(SUPERVISIONS)}")
        store, names = Store(path), name_list(classes)
        rows = split_rows(store, split, fold, folds, seed)
        expert, known = np.zeros(0, np.int64), np.zeros((0, len(names)), bool)
        if supervision != "weak":
            known = _expert_masks(store, names, rows, expert_masks, seed)
            kept = known.any(axis=1) | (not need_masks)
            if not kept.any():
                raise CxrError(
                    f"{path}: no image of the split {split} has a mask of {', '.join(names)}; "
                    "name other classes, or a split whose images have masks of them"
                )
            expert, known = rows[kept], known[kept]
        self._pseudo, pseudo = None, np.zeros(0, np.int64)
        if supervision != "full":
            self._pseudo, pseudo = _pseudo_rows(store, names, rows, pseudo_masks, split)
        super().__init__(path, rows=np.concatenate([expert, pseudo]))
        self.mask_names = names
        self.from_expert = np.arange(len(self.rows)) < len(expert)
        self._known = known
        if keep_masks is None:
            keep_masks = len(expert) * store.size**2 * len(store.mask_names) / 8 < KEPT_BYTES
        self._experts = StoredMasks(store, expert, names, keep_masks) if len(expert) else None

    @cached_property
    def expert_counts(self) -> np.ndarray:
        """(K,) how many masks of the store that are not empty are used of each class."""
        if self._experts is None:
            return np.zeros(len(self.mask_names), int)
        rows, bits = self._experts.rows, self._experts.bits
        present = np.stack([_present(self.store, rows, int(bit)) for bit in bits], axis=1)
        return (present & self._known).sum(axis=0)

    def weights(self, strong_weight: float) -> np.ndarray | None:
        """How often each item is drawn where both kinds are there, see `dataset.EpochSampler`; else `None`.

        Each draw is from the expert's masks with probability `strong_weight`, whatever the sizes of the two sets, and
        then any of them alike; an epoch draws as many as there are items.

        Args:
            strong_weight: 0 to 1.

        Raises:
            CxrError: a number out of range.
        """
        if not 0 <= strong_weight <= 1:
            raise CxrError(f"strong_weight {strong_weight}: must be from 0 to 1")
        experts = int(self.from_expert.sum())
        if not 0 < experts < len(self):
            return None
        return np.where(self.from_expert, strong_weight / experts, (1 - strong_weight) / (len(self) - experts))

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch as of `StoreDataset`; `mask` as above, and `mask_known` (B, K), whether anything of it is known."""
        places = np.asarray(indices, np.int64)
        batch = super().__getitems__(indices)
        device = batch["image"].device
        masks = np.empty((len(places), len(self.mask_names), *[self.store.size] * 2), np.uint8)
        drawn = self.from_expert[places]
        if drawn.any():
            found, known = self._experts.get(places[drawn])
            found[~(known & self._known[places[drawn]])] = MASK_UNKNOWN
            masks[drawn] = found
        if not drawn.all():
            store, order = self._pseudo
            masks[~drawn] = store.get(store.places_of(self.rows[places[~drawn]]))[:, order]
        for mask, row in zip(masks, self.rows[places], strict=True):
            rows, columns = content_window(self.store.geometry[row])
            mask[:, : rows.start] = mask[:, rows.stop :] = MASK_UNKNOWN
            mask[:, :, : columns.start] = mask[:, :, columns.stop :] = MASK_UNKNOWN
        known = (masks != MASK_UNKNOWN).any(axis=(2, 3))
        batch["mask"], batch["mask_known"] = torch.from_numpy(masks).to(device), torch.from_numpy(known).to(device)
        return batch


def choose_masks(data_file: str | os.PathLike[str], classes: str | Sequence[str] | None) -> list[str]:
    """What to segment in a store: the classes named, or else its findings that have masks, or else all its masks.

    Raises:
        CxrError: the store has no masks, or none of such a name.
    """
    store, names = open_store(data_file), name_list(classes)
    if not names and store.mask_names:
        findings = [name for name in store.mask_names if name in store.class_names]
        return findings or list(store.mask_names)
    mask_places(store, names or ["any"])
    return names


def split_rows(store: Store, split: str, fold: int = 0, folds: int = 0, seed: int = 0) -> np.ndarray:
    """Row numbers of a split: the store's own, or that of one turn of a cross-validation.

    Raises:
        CxrError: see `Store.rows` and `splits.fold_splits`.
    """
    if not folds or split == "all":
        return store.rows(split)
    return np.flatnonzero(fold_splits(store.column("patient_id"), fold, folds, seed) == split)


def _present(store: Store, rows: np.ndarray, bit: int) -> np.ndarray:
    """(N,) bool, whether the mask of a name is drawn and not empty in each of the rows."""
    present = np.zeros(len(rows), bool)
    for start in range(0, len(rows), 64):
        some = slice(start, start + 64)
        bits, drawn = store.mask_images(rows[some])
        present[some] = ((bits.astype(np.uint32) >> bit) & 1).any(axis=(1, 2)) & ((drawn >> bit) & 1 == 1)
    return present


def _expert_masks(store: Store, names: list[str], rows: np.ndarray, number: int | None, seed: int) -> np.ndarray:
    """(N, K) bool: which masks of the store are used for some rows."""
    bits = np.array(mask_places(store, names), np.uint32)
    flags = store.mask_flags_of(rows)
    known = (flags[:, None] >> bits) & 1 == 1
    if number is not None:
        if number < 1:
            raise CxrError(f"expert_masks {number}: must be at least 1; for none, set supervision to weak")
        present = np.stack([_present(store, rows, int(bit)) for bit in bits], axis=1)
        few = [f"{count} of {name}" for name, count in zip(names, present.sum(axis=0), strict=True) if count < number]
        if few:
            distributed.note(f"fewer than {number} masks to draw from: {', '.join(few)}")
        random, drawn = np.random.default_rng(seed), np.zeros_like(present)
        for k in range(len(names)):
            drawn[random.permutation(np.flatnonzero(present[:, k]))[:number], k] = True
        known &= drawn.any(axis=1)[:, None] & (drawn | ~present)
    return known


def _pseudo_rows(
    store: Store, names: list[str], rows: np.ndarray, path: str | os.PathLike[str] | None, split: str
) -> tuple[tuple[MaskStore, list[int]], np.ndarray]:
    """The mask store with the places of the classes in it, and the rows that it has."""
    if path is None:
        raise CxrError("pseudo_masks is missing: name the file of pseudo-masks, or set supervision to full")
    masks = MaskStore(path)
    try:
        order = match_classes(names, masks.names)
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error
    if masks.size != store.size:
        raise CxrError(
            f"{path}: masks of {masks.size} pixels do not fit a store of {store.size}; make them from this store"
        )
    kept = rows[masks.places_of(rows) >= 0]
    if not len(kept):
        raise CxrError(
            f"{path}: holds no pseudo-mask of an image of the split {split}; "
            "make it anew with bundles/irnet/configs/propagate.json --images_of all"
        )
    masks.check_ids(kept, store.column("image_id")[kept])
    return (masks, order), kept


__all__ = ["SUPERVISIONS", "SegmentationDataset", "choose_masks", "split_rows"]
