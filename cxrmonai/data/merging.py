"""Stores that were prepared in parts, put together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.store import Store, write_store
from cxrmonai.errors import CxrError

_SHARD = re.compile(r"(\d+)/(\d+)")


def parse_shard(text: str) -> tuple[int, int]:
    """Part and number of parts from `i/N`.

    Raises:
        CxrError: the text is something else, or i is not within 1 to N.
    """
    match = _SHARD.fullmatch(str(text))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise CxrError(f"--shard {text}: must be i/N, such as 1/4, with i from 1 to N")
    return int(match[1]), int(match[2])


def part_path(out: str | os.PathLike[str], number: int, of: int) -> Path:
    """Where a part of the store `out` is written: `NAME.part-i-of-N.h5`."""
    out = Path(out)
    return out.with_name(f"{out.stem}.part-{number}-of-{of}{out.suffix}")


def find_parts(out: str | os.PathLike[str]) -> list[Path]:
    """The parts of the store `out` that lie beside it.

    Raises:
        CxrError: there is none, or there are parts of two divisions.
    """
    out = Path(out)
    pattern = re.compile(re.escape(out.stem) + r"\.part-(\d+)-of-(\d+)" + re.escape(out.suffix))
    matches = [pattern.fullmatch(path.name) for path in sorted(out.parent.glob("*"))]
    found = {(int(match[2]), int(match[1])): out.with_name(match[0]) for match in matches if match}
    if not found:
        raise CxrError(f"{out}: no {part_path(out, 1, 4).name} or the like beside it; make parts with --shard i/N")
    divisions = sorted({of for of, _ in found})
    if len(divisions) > 1:
        raise CxrError(
            f"{out}: parts of {divisions[0]} and of {divisions[1]} lie here; remove those that are not wanted"
        )
    return [found[key] for key in sorted(found)]


def merge(
    parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], overwrite: bool = False, progress: bool = True
) -> Store:
    """Puts the parts of a store together; the result is the store that one run would have made.

    Args:
        parts: stores made with `--shard`, in any order.
        out: the store to write.
        overwrite: whether an existing `out` may be replaced.
        progress: whether to show a progress bar.

    Returns:
        The whole store.

    Raises:
        CxrError: a part is missing, given twice, or of another division, or `out` exists.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise CxrError(f"{out}: exists already; give another --out, or --overwrite to replace it")
    stores = _in_order([Store(part) for part in parts])
    first, starts = stores[0], np.cumsum([0, *(len(store) for store in stores)])
    options = {key: value for key, value in first.options.items() if key != "shard"}
    masks = None
    if first.mask_names:
        rows = [store.mask_rows() + start for store, start in zip(stores, starts, strict=False)]
        masks = (np.concatenate(rows), np.concatenate([store.mask_flags() for store in stores]), _Bits(stores))
    write_store(
        out,
        images=_Images(stores, starts),
        geometry=np.concatenate([store.geometry for store in stores]),
        table=pd.concat([store.table for store in stores], ignore_index=True),
        class_names=first.class_names,
        source=first.source,
        boxes=_concat([store.boxes for store in stores]),
        masks=masks,
        mask_names=first.mask_names,
        skipped=_concat([store.skipped for store in stores]),
        synthetic=any(store.synthetic for store in stores),
        options=options,
        progress=progress,
    )
    return Store(out)


def _in_order(stores: list[Store]) -> list[Store]:
    for store in stores:
        if "shard" not in store.options:
            raise CxrError(f"{store.path}: is no part of a store; only what --shard made can be merged")
    shards = [store.options["shard"] for store in stores]
    for store, shard in zip(stores, shards, strict=True):
        if (shard["of"], shard["whole"]) != (shards[0]["of"], shards[0]["whole"]):
            raise CxrError(
                f"{store.path}: is a part of another whole than {stores[0].path} (other options, or the data changed "
                "between the runs); prepare it anew"
            )
    numbers = [shard["part"] for shard in shards]
    twice = [number for number in numbers if numbers.count(number) > 1]
    missing = sorted(set(range(1, shards[0]["of"] + 1)) - set(numbers))
    if twice or missing:
        fault = f"part {twice[0]} is given twice" if twice else f"part(s) {', '.join(map(str, missing))} are missing"
        raise CxrError(f"{stores[0].path}: one of {shards[0]['of']} parts; {fault}")
    return [stores[numbers.index(number)] for number in sorted(numbers)]


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


class _Images:
    """The images of several stores as one array; what is asked for is fetched, and no more."""

    def __init__(self, stores: Sequence[Store], starts: np.ndarray) -> None:
        self._stores, self._starts = stores, starts
        self.shape = (int(starts[-1]), *stores[0].images.shape[1:])
        self.dtype = stores[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | int) -> np.ndarray:
        if not isinstance(rows, slice):
            return self[rows : rows + 1][0]
        places = np.arange(*rows.indices(len(self)))
        of = np.searchsorted(self._starts, places, side="right") - 1
        pieces = [self._stores[k].images[places[of == k] - self._starts[k]] for k in np.unique(of)]
        return np.concatenate(pieces)


class _Bits:
    """The masks of several stores as one array, read one at a time."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._of = [(store, k) for store in stores for k in range(len(store.mask_rows()))]
        self.shape = (len(self._of), stores[0].size, stores[0].size)

    def __getitem__(self, k: int) -> np.ndarray:
        store, place = self._of[k]
        return store.mask_bits(place)
