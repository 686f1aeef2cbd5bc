"""A mask store: the masks of many images at the store's size, one HDF5 file, one compressed chunk an image.

Layout, format version 1:

- `values` (N, K, S, S) uint8, a chunk (1, K, S, S) of gzip an image: in a store of kind `mask` 1 inside and 0 outside;
  in one of kind `ir` 1 surely inside, 0 surely outside and 255 undecided (Ahn et al., IRN, CVPR 2019).
- `rows` (N,) int64, each image's row in the store of radiographs; `image_ids` (N,) text.
- attributes: `format`, `format_version`, `tool_version`, `names`, `size`, `kind`, `options`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from cxrmonai._version import __version__
from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.data.store import create_file
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path

FORMAT = "cxrmonai-masks"
FORMAT_VERSION = 1
KINDS = {"mask": (0, 1), "ir": (0, 1, MASK_UNKNOWN)}


class MaskStoreWriter(AbstractContextManager):
    """Writes a mask store as masks come; the file appears under its name when the block ends without an error.

    No more is kept in memory than the batch at hand and the images' names.

    Args:
        path: of the file; an existing one is replaced.
        names: (K) of the masks.
        size: edge of the masks in pixels.
        kind: `mask` (values 0 and 1) or `ir` (0, 1 and 255, undecided).
        options: how the masks were made, for the record; JSON types.

    Raises:
        CxrError: on entering: the kind is unknown, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        size: int,
        kind: str = "mask",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise CxrError(f"{path}: no kind of masks is called '{kind}'; choose {' or '.join(KINDS)}")
        if not names:
            raise CxrError(f"{path}: masks need names, one a finding")
        self.path, self.names, self.size, self.kind = Path(path), [str(name) for name in names], int(size), kind
        self.options = dict(options or {})
        self._rows: list[int] = []
        self._seen: set[int] = set()
        self._image_ids: list[str] = []
        self._block = ExitStack()

    def __enter__(self) -> MaskStoreWriter:
        """Begins the file."""
        temporary = self._block.enter_context(atomic_path(self.path))
        self._file = self._block.enter_context(create_file(temporary, self.path, alignment=1))
        shape = (len(self.names), self.size, self.size)
        self._values = self._file.create_dataset(
            "values", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), compression="gzip"
        )
        return self

    def add(self, rows: Sequence[int], image_ids: Sequence[str], values: np.ndarray) -> None:
        """Adds some images.

        Args:
            rows: (B,) rows of the store of radiographs, none of which was added before.
            image_ids: (B,).
            values: (B, K, S, S) uint8, of the kind's values.

        Raises:
            CxrError: the parts do not fit together, a value is not of the kind, a row came before, or the disk is full.
        """
        rows = [int(row) for row in rows]
        shape = (len(rows), len(self.names), self.size, self.size)
        if values.dtype != np.uint8 or values.shape != shape or len(image_ids) != len(rows):
            raise CxrError(
                f"{self.path}: masks are {values.dtype} of shape {values.shape} for {len(image_ids)} images; "
                f"this file takes uint8 of shape {shape}"
            )
        others = {value for image in values for value in np.unique(image).tolist()} - set(KINDS[self.kind])
        if others:
            raise CxrError(f"{self.path}: masks of kind '{self.kind}' have no value {min(others)}")
        again = self._seen.intersection(rows)
        if again or len(set(rows)) < len(rows):
            raise CxrError(f"{self.path}: the masks of row {min(again or rows)} were given twice")
        count = len(self._rows)
        self._values.resize(count + len(rows), axis=0)
        for k, image in enumerate(values):
            self._values[count + k] = image
        self._rows += rows
        self._seen.update(rows)
        self._image_ids += [str(each) for each in image_ids]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        """Ends the file; after an error nothing is left."""
        if kind is None:
            self._file.create_dataset("rows", data=np.array(self._rows, np.int64))
            text = h5py.string_dtype("utf-8")
            self._file.create_dataset("image_ids", data=np.array(self._image_ids, object), dtype=text)
            self._file.attrs.update(
                {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "tool_version": __version__,
                    "names": json.dumps(self.names),
                    "size": self.size,
                    "kind": self.kind,
                    "options": json.dumps(self.options, sort_keys=True),
                }
            )
        return self._block.__exit__(kind, error, trace)


class MaskStore:
    """A mask store that was written; masks are read when they are asked for, and pickling reopens by path.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        names: (K) of the masks.
        size: edge of the masks in pixels.
        kind: `mask` or `ir`.
        options: how the masks were made.

    Raises:
        CxrError: the file is missing, no mask store, or of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as file:
            attributes = dict(file.attrs)
            if attributes.get("format") != FORMAT:
                raise CxrError(f"{self.path}: an HDF5 file, but no mask store; bundles/irnet makes them")
            if int(attributes["format_version"]) > FORMAT_VERSION:
                raise CxrError(f"{self.path}: masks of a newer format than this cxrmonai {__version__}; upgrade it")
            self._count = file["values"].shape[0]
        self.names: list[str] = json.loads(attributes["names"])
        self.size = int(attributes["size"])
        self.kind = str(attributes["kind"])
        self.options: dict[str, Any] = json.loads(attributes["options"])

    def _open(self) -> h5py.File:
        if not self.path.exists():
            raise CxrError(f"{self.path}: no such file; bundles/irnet makes mask stores")
        try:
            return h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise CxrError(f"{self.path}: no mask store (not a readable HDF5 file)") from error

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("rows", "image_ids")}

    @cached_property
    def rows(self) -> np.ndarray:
        """(N,) int64: each image's row in the store of radiographs."""
        with self._open() as file:
            return file["rows"][:]

    @cached_property
    def image_ids(self) -> list[str]:
        """(N) ids of the images."""
        with self._open() as file:
            return file["image_ids"].asstr()[:].tolist()

    def get(self, places: Sequence[int]) -> np.ndarray:
        """(n, K, S, S) uint8: the masks at some places of this file, 0 to N − 1."""
        shape = (len(self.names), self.size, self.size)
        values = np.empty((len(places), *shape), np.uint8)
        with self._open() as file:
            for k, place in enumerate(places):
                values[k] = file["values"][int(place)]
        return values

    def places_of(self, rows: Sequence[int]) -> np.ndarray:
        """(n,) the places of some rows of the store of radiographs; −1 where this file has no masks of a row."""
        return pd.Index(self.rows).get_indexer(np.asarray(rows, np.int64))

    def check_ids(self, rows: Sequence[int], image_ids: Sequence[str]) -> None:
        """Refuses to go on with masks that were made of another store.

        Args:
            rows: (n,) of the store of radiographs.
            image_ids: (n,) of those rows there.

        Raises:
            CxrError: a row's id in this file is another.
        """
        for place, row, image_id in zip(self.places_of(rows), rows, image_ids, strict=True):
            if place >= 0 and self.image_ids[place] != image_id:
                raise CxrError(f"{self.path}: row {row} is another image there; these masks are of another store")


__all__ = ["KINDS", "MaskStore", "MaskStoreWriter"]
