"""Heatmaps of a data set in one HDF5 file.

Layout, format version 1:

- `maps` (N, K, S, S) uint8 (0–255) or float16 (0–1), one chunk for each image and class, gzip; S is the store's edge,
  so that the store's `geometry` holds for the maps.
- `rows` (N,) of the images in the store, -1 for images of files; `image_ids` (N,); `probability` (N, K) float32.
- attributes: `format`, `format_version`, `tool_version`, `class_names`, `size`, `method`, `data_file`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import torch

from cxrmonai._version import __version__
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path

FORMAT = "cxrmonai-heatmaps"
FORMAT_VERSION = 1
DTYPES = ("uint8", "float16")
_TEXT = h5py.string_dtype("utf-8")


class HeatmapWriter(AbstractContextManager):
    """Writes heatmaps batch by batch, under a temporary name that is changed when the block ends without an error.

    Args:
        path: of the file.
        class_names: (K,).
        size: edge S of the maps in pixels.
        method: that made them.
        data_file: the store that `rows` belong to.
        dtype: `uint8` (steps of 1/255) or `float16`.

    Raises:
        CxrError: unknown dtype, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str],
        size: int,
        method: str,
        data_file: str | os.PathLike[str],
        dtype: str = "uint8",
    ) -> None:
        if dtype not in DTYPES:
            raise CxrError(f"dtype '{dtype}': known are {', '.join(DTYPES)}")
        self.path, self.class_names, self.size, self.dtype = Path(path), list(class_names), size, dtype
        self.method, self.data_file = method, str(data_file)
        self._stack = ExitStack()

    def __enter__(self) -> HeatmapWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        file = self._file = self._stack.enter_context(h5py.File(temporary, "w", locking=False))
        count = len(self.class_names)
        shape, chunk = (count, self.size, self.size), (1, 1, self.size, self.size)
        file.create_dataset(
            "maps", (0, *shape), self.dtype, maxshape=(None, *shape), chunks=chunk, compression="gzip", shuffle=True
        )
        file.create_dataset("rows", (0,), np.int64, maxshape=(None,))
        file.create_dataset("image_ids", (0,), _TEXT, maxshape=(None,))
        file.create_dataset("probability", (0, count), np.float32, maxshape=(None, count))
        file.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "tool_version": __version__,
                "class_names": json.dumps(self.class_names),
                "size": self.size,
                "method": self.method,
                "data_file": self.data_file,
            }
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def add(
        self,
        rows: Sequence[int] | np.ndarray | torch.Tensor,
        image_ids: Sequence[str],
        maps: np.ndarray | torch.Tensor,
        probability: np.ndarray | torch.Tensor,
    ) -> None:
        """Appends images.

        Args:
            rows: (B,) in the store.
            image_ids: (B,).
            maps: (B, K, S, S), 0–1.
            probability: (B, K) of each class.

        Raises:
            CxrError: the parts do not fit together, or values are not in 0–1.
        """
        maps, probability = _array(maps), _array(probability)
        shape = (len(image_ids), len(self.class_names), self.size, self.size)
        if maps.shape != shape or len(rows) != shape[0] or probability.shape != shape[:2]:
            raise CxrError(f"{self.path}: maps of shape {maps.shape}, where {shape} fit")
        if maps.size and not (maps.min() >= 0 and maps.max() <= 1):
            raise CxrError(f"{self.path}: maps must lie in 0–1")
        stored = np.round(255 * maps).astype(np.uint8) if self.dtype == "uint8" else maps.astype(np.float16)
        for name, values in (
            ("maps", stored),
            ("rows", _array(rows)),
            ("image_ids", np.array(image_ids, object)),
            ("probability", probability),
        ):
            data = self._file[name]
            start = len(data)
            data.resize(start + shape[0], axis=0)
            data[start:] = values


def _array(values: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


class Heatmaps:
    """Heatmaps of a file; the maps are read when asked for.

    Args:
        path: of the file.

    Attributes:
        class_names: (K,).
        image_ids: (N,) list.
        rows: (N,) in the store that they were made from.
        size: edge S in pixels.
        method: that made them.
        data_file: path of that store, as it was given.
        probability: (N, K) float32.

    Raises:
        CxrError: the file is missing, holds no heatmaps, or is of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as file:
            attributes = dict(file.attrs)
            if attributes.get("format") != FORMAT:
                raise CxrError(f"{self.path}: holds no heatmaps; make some with the bundle cam_localization")
            if int(attributes["format_version"]) > FORMAT_VERSION:
                raise CxrError(f"{self.path}: heatmaps of a newer format; upgrade cxrmonai, or make them anew")
            self.rows = file["rows"][:]
            self.image_ids: list[str] = file["image_ids"].asstr()[:].tolist()
            self.probability = file["probability"][:]
        self.class_names: list[str] = json.loads(attributes["class_names"])
        self.size, self.method = int(attributes["size"]), str(attributes["method"])
        self.data_file = str(attributes["data_file"])

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise CxrError(f"{self.path}: no such file; make it with the bundle cam_localization")
        try:
            return h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise CxrError(f"{self.path}: not a readable HDF5 file") from error

    def __len__(self) -> int:
        return len(self.image_ids)

    def maps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n, K, S, S) float32 0–1 of the images at these places of `image_ids`."""
        with self._open() as file:
            data = file["maps"]
            found = [data[int(place)] for place in places]
            stored = np.stack(found) if found else np.empty((0, *data.shape[1:]), data.dtype)
        return stored.astype(np.float32) / np.float32(255) if stored.dtype == np.uint8 else stored.astype(np.float32)
