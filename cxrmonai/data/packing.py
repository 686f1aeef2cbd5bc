"""Reading images into the raw arrays of a store in the making: what the processes of `prepare` do.

This module imports no pandas and no HDF5, so that a process is at work soon after it starts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrmonai.data.geometry import GEOMETRY_COLUMNS, letterbox, letterbox_geometry, same_aspect
from cxrmonai.data.reading import read_image, to_store_pixels
from cxrmonai.errors import CxrError

TODO, DONE, SKIPPED = 0, 1, 2


@dataclass(frozen=True)
class Task:
    """What a worker needs to know about the whole.

    Attributes:
        root: folder that paths are relative to, absolute.
        folder: where the raw arrays lie.
        size: edge of the square images in pixels.
        depth: 8 or 16 bits.
        count: rows in all.
        mask_names: order of the bits of a mask.
    """

    root: str
    folder: str
    size: int
    depth: int
    count: int
    mask_names: tuple[str, ...]

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Type of the pixels."""
        return np.uint8 if self.depth == 8 else np.uint16

    def arrays(self, mode: str = "r+") -> dict[str, np.memmap]:
        """Maps the work in progress."""
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "images": ((self.count, self.size, self.size), self.dtype),
            "geometry": ((self.count, len(GEOMETRY_COLUMNS)), np.float64),
            "status": ((self.count,), np.uint8),
        }
        if self.mask_names:
            shapes["bits"] = ((self.count, self.size, self.size), np.uint32)
            shapes["annotated"] = ((self.count,), np.uint32)
        folder = Path(self.folder)
        return {
            name: np.memmap(folder / f"{name}.raw", dtype, mode, shape=shape) for name, (shape, dtype) in shapes.items()
        }


@dataclass(frozen=True)
class Row:
    """One image to do.

    Attributes:
        index: row of the arrays.
        image: path below the root.
        original: (height, width) of the frame of boxes, where it is not the file's own.
        spacing: (row, column) pixel spacing of that frame in mm, where it is known.
        masks: names and paths.
    """

    index: int
    image: str
    original: tuple[float, float] | None
    spacing: tuple[float, float] | None
    masks: tuple[tuple[str, str], ...]


def pack(task: Task, chunks: list[list[Row]], workers: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Does chunks of rows, and yields for each how many there were and which failed why, in no order.

    Args:
        task: the whole; its arrays exist.
        chunks: of rows.
        workers: processes; 0 or 1 works in this one.

    Raises:
        CxrError: a process died.
    """
    if workers <= 1 or len(chunks) <= 1:
        _start_worker(task)
        for chunk in chunks:
            yield _do_chunk(chunk)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_start_process, initargs=(task,))
    try:
        for future in as_completed([pool.submit(_do_chunk, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise CxrError(
            "a worker process died (out of memory?); run the same command again to go on from here"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Task, dict[str, np.memmap]] | None = None


def _start_process(task: Task) -> None:
    """Starts a worker that leaves interrupts to its parent and ends with it, even where that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _start_worker(task)


def _start_worker(task: Task) -> None:
    global _worker
    cv2.setNumThreads(1)
    _worker = (task, task.arrays())


def _do_chunk(rows: list[Row]) -> tuple[int, list[tuple[int, str]]]:
    assert _worker is not None
    task, arrays = _worker
    failed = []
    # The pixels live until the next are decoded: freed at once, their memory would go back to the system each time.
    held = None
    for row in rows:
        try:
            held = _do_row(task, arrays, row)  # noqa: F841
            arrays["status"][row.index] = DONE
        except CxrError as error:
            reason = str(error).replace(task.root + os.sep, "")
            failed.append((row.index, reason.removeprefix(f"{row.image}: ")))
            arrays["status"][row.index] = SKIPPED
    return len(rows), failed


def _do_row(task: Task, arrays: dict[str, np.memmap], row: Row) -> np.ndarray:
    raw = read_image(_inside(task.root, row.image))
    geometry = letterbox_geometry(*raw.pixels.shape, task.size, row.original, row.spacing or raw.spacing)
    if row.masks:
        masks = {name: _read_mask(_inside(task.root, path), raw.pixels.shape, task.size) for name, path in row.masks}
        arrays["bits"][row.index] = pack_bits(masks, task.mask_names, task.size)
        arrays["annotated"][row.index] = sum(1 << task.mask_names.index(name) for name in masks)
    arrays["geometry"][row.index] = geometry
    arrays["images"][row.index] = to_store_pixels(raw.pixels, task.size, task.depth)
    return raw.pixels


def _inside(root: str, path: str) -> str:
    full = os.path.normpath(os.path.join(root, path))
    if not full.startswith(root.rstrip(os.sep) + os.sep):
        raise CxrError(f"{path}: lies outside of {root}; move it below the root, or give another --root")
    return full


def _read_mask(path: str, shape: tuple[int, int], size: int) -> np.ndarray:
    pixels = read_image(path).pixels
    # A lossy file blurs the edge between 0 and 255 and speckles the background.
    mask = (pixels > (127 if path.lower().endswith((".jpg", ".jpeg")) else 0)).astype(np.uint8) * 255
    if not same_aspect(shape, mask.shape):
        raise CxrError(
            f"{path}: the mask is {mask.shape[1]}×{mask.shape[0]} and its image {shape[1]}×{shape[0]}, another aspect"
        )
    return letterbox(mask, size) >= 128


def pack_bits(masks: Mapping[str, np.ndarray], names: Sequence[str], size: int) -> np.ndarray:
    """Packs boolean masks into one image, one bit per name.

    Args:
        masks: name → (size, size) bool; names that are absent count as empty.
        names: order of the bits, at most 32.
        size: edge in pixels.

    Returns:
        (size, size) uint32.
    """
    bits = np.zeros((size, size), np.uint32)
    for k, name in enumerate(names):
        if name in masks:
            bits |= masks[name].astype(np.uint32) << np.uint32(k)
    return bits
