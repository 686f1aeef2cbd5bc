"""The store: one HDF5 file per data set and size.

Layout, format version 1:

- `images` (N, S, S) uint8 or uint16, contiguous and uncompressed, so that it is also memory-mapped; rows first, as
  seen.
- `geometry` (N, 8) float64, columns as in `geometry.GEOMETRY_COLUMNS`.
- `table/…` one data set per column, `labels` (N, C) float32 with 1, 0, -1 and NaN.
- `boxes/…` one data set per column of `table.BOX_COLUMNS` (and whatever more a source brings), in original pixels.
- `masks`, where there are any: `rows` (K,) of the images that are annotated, `annotated` (K,) and `bits` (K, S, S), one
  bit per name, compressed per image. A name whose `annotated` bit is off is unknown in that image, not absent.
- `skipped/…`: `image` and `reason` of the files that could not be read.
- attributes: `format`, `format_version`, `tool_version`, `source`, `size`, `resize`, `class_names`, `mask_names`,
  `synthetic`, `options`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from cxrmonai._version import __version__
from cxrmonai.data.geometry import GEOMETRY_COLUMNS
from cxrmonai.data.table import BOX_COLUMNS, validate_table
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path
from cxrmonai.progress import progress_bar

FORMAT = "cxrmonai-store"
FORMAT_VERSION = 1
RESIZE_RULE = "letterbox: aspect kept, centred, zero-padded, area resampling"
BLOCK_BYTES = 64 * 2**20
PAGE = 4096


class Store(AbstractContextManager):
    """An open store. Nothing but the attributes is read until it is asked for; pickling reopens by path.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        size: edge of the square images in pixels.
        class_names: findings, in the order of `labels`.
        mask_names: names of the masks, in the order of `masks()`.
        source: where the images came from.
        synthetic: whether they are generated.
        options: how the store was made.

    Raises:
        CxrError: the file is missing, no store, or of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as file:
            attributes = dict(file.attrs)
            _check_format(self.path, attributes)
            images = file["images"]
            self._shape = tuple(images.shape)
            self._dtype = images.dtype
            self._offset = images.id.get_offset()
            if self._offset is None:
                raise CxrError(f"{self.path}: the images are not contiguous (repacked?); prepare the store anew")
            self._has_masks = "masks" in file
            self.columns: list[str] = json.loads(file["table"].attrs["columns"])
        self.size = int(attributes["size"])
        self.class_names: list[str] = json.loads(attributes["class_names"])
        self.mask_names: list[str] = json.loads(attributes["mask_names"])
        self.source = str(attributes["source"])
        self.synthetic = bool(attributes["synthetic"])
        self.resize = str(attributes["resize"])
        self.tool_version = str(attributes["tool_version"])
        self.options: dict[str, Any] = json.loads(attributes["options"])

    def _open(self) -> h5py.File:
        if not self.path.exists():
            raise CxrError(f"{self.path}: no such file; make it with `python -m cxrmonai prepare` or `… phantom`")
        try:
            return h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise CxrError(f"{self.path}: not a store (not a readable HDF5 file)") from error

    def __len__(self) -> int:
        return self._shape[0]

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the memory map; the store may be used again and then maps anew."""
        self.__dict__.pop("images", None)

    def __getstate__(self) -> dict[str, Any]:
        lazy = ("images", "table", "labels", "geometry", "boxes", "skipped", "_mask_places")
        return {key: value for key, value in self.__dict__.items() if key not in lazy}

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return self._dtype

    @cached_property
    def images(self) -> np.memmap:
        """(N, S, S) memory map, read-only; opened at first use in each process."""
        return np.memmap(self.path, dtype=self._dtype, mode="r", offset=self._offset, shape=self._shape)

    def column(self, name: str) -> np.ndarray:
        """(N,) one column of the table, without the others.

        Raises:
            CxrError: there is no such column.
        """
        if name not in self.columns:
            raise CxrError(f"{self.path}: no column '{name}'; it has {', '.join(self.columns)}")
        with self._open() as file:
            return _read_column(file["table"][name])

    @cached_property
    def table(self) -> pd.DataFrame:
        """(N rows) the table, findings included."""
        with self._open() as file:
            table = _read_frame(file["table"])
        labels = pd.DataFrame(self.labels, columns=self.class_names, index=table.index)
        return pd.concat([table, labels], axis=1)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N, C) float32: 1, 0, -1 (uncertain) or NaN (unknown)."""
        with self._open() as file:
            return file["labels"][:]

    @cached_property
    def geometry(self) -> np.ndarray:
        """(N, 8) float64; columns as in `geometry.GEOMETRY_COLUMNS`."""
        with self._open() as file:
            return file["geometry"][:]

    @cached_property
    def boxes(self) -> pd.DataFrame:
        """Boxes in original pixels: `image_id`, `finding`, `x`, `y`, `w`, `h`."""
        with self._open() as file:
            return _read_frame(file["boxes"])

    @cached_property
    def skipped(self) -> pd.DataFrame:
        """Files that could not be read: `image`, `reason`."""
        with self._open() as file:
            return _read_frame(file["skipped"])

    def rows(self, split: str | Sequence[str] | None = None) -> np.ndarray:
        """Row numbers of a split, of several, or of all (`None` or `all`).

        Raises:
            CxrError: no image is in that split.
        """
        if split is None or split == "all":
            return np.arange(len(self))
        wanted = [split] if isinstance(split, str) else list(split)
        rows = np.flatnonzero(np.isin(self.column("split"), wanted))
        if len(rows) == 0:
            raise CxrError(f"{self.path}: no image is in the split {' or '.join(wanted)}")
        return rows

    def masks(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Masks of some images.

        Args:
            rows: (B,) row numbers.

        Returns:
            (B, M, S, S) bool masks, and (B, M) bool: whether that mask was drawn for that image.
        """
        bits, annotated = self.mask_images(rows)
        powers = (1 << np.arange(len(self.mask_names), dtype=np.uint32))[None, :]
        masks = (bits[:, None] & powers[..., None, None]) != 0
        return masks, (annotated[:, None] & powers) != 0

    def mask_images(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Masks of some images as they are stored, one bit a name; 0 for an image without masks.

        Args:
            rows: (B,) row numbers.

        Returns:
            (B, S, S) uint8, uint16 or uint32 bits, and (B,) uint32 bits of the names that were drawn.
        """
        if not self._has_masks:
            return np.zeros((len(rows), self.size, self.size), np.uint8), np.zeros(len(rows), np.uint32)
        annotated = self.mask_flags_of(rows)
        found = self._mask_places[0].get_indexer(np.asarray(rows, np.int64))
        with self._open() as file:
            data = file["masks"]["bits"]
            bits = np.zeros((len(rows), self.size, self.size), data.dtype)
            for out in np.flatnonzero(annotated):
                data.read_direct(bits, np.s_[found[out]], np.s_[out])
        return bits, annotated

    def mask_flags_of(self, rows: Sequence[int]) -> np.ndarray:
        """(B,) uint32: which names were drawn for some images, one bit a name; 0 for an image without masks."""
        places, flags = self._mask_places
        if len(places) == 0:
            return np.zeros(len(rows), np.uint32)
        found = places.get_indexer(np.asarray(rows, np.int64))
        return np.where(found >= 0, flags[found], 0).astype(np.uint32)

    @cached_property
    def _mask_places(self) -> tuple[pd.Index, np.ndarray]:
        flags = self.mask_flags() if self._has_masks else np.zeros(0, np.uint32)
        return pd.Index(self.mask_rows()), flags

    def mask_flags(self) -> np.ndarray:
        """(K,) uint32: which names were drawn for each image that has masks, one bit a name."""
        with self._open() as file:
            return file["masks"]["annotated"][:]

    def mask_bits(self, place: int) -> np.ndarray:
        """(S, S) the masks of the image at that place of `mask_rows()`, one bit a name."""
        with self._open() as file:
            return file["masks"]["bits"][place]

    def mask_rows(self) -> np.ndarray:
        """(K,) row numbers of the images that have masks."""
        if not self._has_masks:
            return np.zeros(0, np.int64)
        with self._open() as file:
            return file["masks"]["rows"][:]


def open_store(path: str | os.PathLike[str]) -> Store:
    """Opens a store; see `Store`."""
    return Store(path)


def write_store(
    path: str | os.PathLike[str],
    *,
    images: np.ndarray,
    geometry: np.ndarray,
    table: pd.DataFrame,
    class_names: Sequence[str],
    source: str,
    boxes: pd.DataFrame | None = None,
    masks: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    mask_names: Sequence[str] = (),
    skipped: pd.DataFrame | None = None,
    keep: np.ndarray | None = None,
    synthetic: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> None:
    """Writes a store under a temporary name and renames it when it is whole.

    Args:
        path: of the file.
        images: (N, S, S) uint8 or uint16, an array or a memory map; read block by block.
        geometry: (N, 8).
        table: N rows, as `table.validate_table` has it.
        class_names: the findings among its columns, in order.
        source: where the images came from.
        boxes: columns of `table.BOX_COLUMNS`, and what more there is; written in the order of the images.
        masks: rows (K,) of `images`, annotated bits (K,) and bit images (K, S, S), see `packing.pack_bits`.
        mask_names: order of the bits.
        skipped: `image` and `reason`.
        keep: (N,) bool; rows that are written. All by default. Boxes and masks of the others are left out.
        synthetic: whether the images are generated.
        options: how the store was made, for the record; JSON types.
        progress: whether to show a progress bar.

    Raises:
        CxrError: the parts do not fit together, or the file cannot be written.
    """
    keep = np.ones(len(images), bool) if keep is None else np.asarray(keep, bool)
    if not len(images) == len(geometry) == len(table) == len(keep):
        raise CxrError(f"{len(images)} images, {len(geometry)} geometries and {len(table)} rows do not fit together")
    table = table[keep].reset_index(drop=True)
    validate_table(table, class_names)
    if len(mask_names) > 32:
        raise CxrError(f"{len(mask_names)} mask names; a store holds 32 at most")
    boxes = pd.DataFrame(columns=list(BOX_COLUMNS)) if boxes is None else boxes
    row_of = pd.Index(table["image_id"]).get_indexer(boxes["image_id"])
    order = np.argsort(row_of, kind="stable")
    boxes = boxes.iloc[order[row_of[order] >= 0]].astype(dict.fromkeys("xywh", float))
    skipped = pd.DataFrame(columns=["image", "reason"]) if skipped is None else skipped
    with atomic_path(path) as temporary, create_file(temporary, path) as file:
        _write_images(file, images, keep, progress)
        file.create_dataset("geometry", data=np.asarray(geometry, np.float64)[keep])
        file["geometry"].attrs["columns"] = json.dumps(GEOMETRY_COLUMNS)
        _write_frame(file.create_group("table"), table[[name for name in table if name not in class_names]])
        labels = table[list(class_names)].to_numpy(np.float32)
        file.create_dataset("labels", data=labels, **_compression(labels))
        _write_frame(file.create_group("boxes"), boxes)
        _write_frame(file.create_group("skipped"), skipped)
        if masks is not None:
            _write_masks(file.create_group("masks"), *masks, keep, len(mask_names))
        file.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "tool_version": __version__,
                "source": source,
                "size": images.shape[1],
                "resize": RESIZE_RULE,
                "class_names": json.dumps(list(class_names)),
                "mask_names": json.dumps(list(mask_names)),
                "synthetic": synthetic,
                "options": json.dumps(dict(options or {}), sort_keys=True),
            }
        )


@contextmanager
def create_file(temporary: Path, path: str | os.PathLike[str], alignment: int = PAGE) -> Iterator[h5py.File]:
    """An HDF5 file under its temporary name; a fault of writing becomes a `CxrError` that names `path`.

    Args:
        temporary: the file that is written.
        path: what it will be called.
        alignment: bytes that data sets and chunks of that many and more begin at a multiple of; 1 wastes no room.

    Raises:
        CxrError: on leaving: the file could not be written.
    """
    aligned = {"alignment_threshold": alignment, "alignment_interval": alignment}
    try:
        with h5py.File(temporary, "w", locking=False, track_order=True, **aligned) as file:
            yield file
    except (OSError, RuntimeError) as error:
        # Where writing failed, closing fails as well, with a RuntimeError.
        if not any(isinstance(each, OSError) for each in (error, error.__context__)):
            raise
        raise CxrError(f"{path}: could not be written to its end; is the disk full?") from error


def blocks(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices over `count` rows of about `BLOCK_BYTES` each."""
    step = max(1, BLOCK_BYTES // max(1, bytes_each))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _write_images(file: h5py.File, images: np.ndarray, keep: np.ndarray, progress: bool) -> None:
    kept = np.flatnonzero(keep)
    data = file.create_dataset("images", shape=(len(kept), *images.shape[1:]), dtype=images.dtype)
    everything = len(kept) == len(images)
    with progress_bar("write", len(kept), "img", progress) as bar:
        for block in blocks(len(kept), images[0].nbytes):
            data[block] = images[block] if everything else images[kept[block]]
            bar.update(block.stop - block.start)


def _write_masks(
    group: h5py.Group, rows: np.ndarray, annotated: np.ndarray, bits: np.ndarray, keep: np.ndarray, names: int
) -> None:
    new_row = np.cumsum(keep) - 1
    chosen = np.flatnonzero(keep[rows])
    dtype = np.uint8 if names <= 8 else np.uint16 if names <= 16 else np.uint32
    group.create_dataset("rows", data=new_row[rows[chosen]].astype(np.int64))
    group.create_dataset("annotated", data=annotated[chosen].astype(np.uint32))
    shape = (len(chosen), *bits.shape[1:])
    chunks = (1, *bits.shape[1:]) if len(chosen) else None
    data = group.create_dataset("bits", shape=shape, dtype=dtype, chunks=chunks, **_compression(chosen))
    for out, k in enumerate(chosen):
        data[out] = bits[k]


def _compression(array: np.ndarray) -> dict[str, Any]:
    return {"compression": "gzip", "shuffle": True} if array.size else {}


def _write_frame(group: h5py.Group, frame: pd.DataFrame) -> None:
    group.attrs["columns"] = json.dumps([str(name) for name in frame.columns])
    for name in frame.columns:
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values):
            array = values.to_numpy()
            group.create_dataset(str(name), data=array, **_compression(array))
            continue
        encoded = np.array([str(value).encode() for value in values], dtype=bytes)
        if encoded.dtype.itemsize == 0 or len(encoded) == 0:
            encoded = encoded.astype("S1")
        kind = h5py.string_dtype("utf-8", encoded.dtype.itemsize)
        group.create_dataset(str(name), data=encoded.astype(kind), **_compression(encoded))


def _read_frame(group: h5py.Group) -> pd.DataFrame:
    return pd.DataFrame({name: _read_column(group[name]) for name in json.loads(group.attrs["columns"])})


def _read_column(data: h5py.Dataset) -> np.ndarray:
    values = data[:]
    if values.dtype.kind != "S":
        return values
    decoded = values.astype(str) if _is_ascii(values) else np.char.decode(values, "utf-8")
    return decoded.astype(object)


def _is_ascii(values: np.ndarray) -> bool:
    return values.size == 0 or int(np.ascontiguousarray(values).view(np.uint8).max()) < 128


def _check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    if attributes.get("format") != FORMAT:
        raise CxrError(f"{path}: an HDF5 file, but not a cxrmonai store; make one with `python -m cxrmonai prepare`")
    version = int(attributes["format_version"])
    if version > FORMAT_VERSION:
        raise CxrError(
            f"{path}: store of format {version}, this cxrmonai {__version__} reads up to {FORMAT_VERSION}; "
            "upgrade cxrmonai, or prepare the store anew"
        )


__all__ = ["FORMAT_VERSION", "Store", "blocks", "create_file", "open_store", "write_store"]
