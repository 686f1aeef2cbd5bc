"""Reading images into the raw arrays of a store in the making: what the processes of `prepare` do.

This module imports no pandas and no HDF5, so that a process is at work soon after it starts.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrmonai.data.geometry import GEOMETRY_COLUMNS, letterbox, letterbox_geometry, same_aspect
from cxrmonai.data.masks import decode_rle
from cxrmonai.data.reading import read_image, to_store_pixels
from cxrmonai.errors import CxrError
from cxrmonai.processes import follow_parent

TODO, DONE, SKIPPED = 0, 1, 2
CHUNKS_AHEAD = 4


@dataclass(frozen=True)
class Task:
    """What a worker needs to know about the whole.

    Attributes:
        roots: folders that paths are relative to, absolute, by the first part of a path; one folder alone stands under
            the empty name.
        folder: where the raw arrays lie.
        size: edge of the square images in pixels.
        depth: 8 or 16 bits.
        count: rows in all.
        mask_names: order of the bits of a mask.
    """

    roots: Mapping[str, str]
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
        image: path below the root, or below the root that its first part names.
        original: (height, width) of the frame of boxes, where it is not the file's own.
        spacing: (row, column) pixel spacing of that frame in mm, where it is known.
        masks: name, path and run lengths of each, one of the last two filled.
    """

    index: int
    image: str
    original: tuple[float, float] | None
    spacing: tuple[float, float] | None
    masks: tuple[tuple[str, str, str], ...]


def pack(task: Task, chunks: Iterable[list[Row]], workers: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Does chunks of rows, and yields for each how many there were and which failed why, in no order.

    Chunks are taken from the iterable as processes become free, so that they never stand in memory together.

    Args:
        task: the whole; its arrays exist.
        chunks: of rows.
        workers: processes; 0 or 1 works in this one.

    Raises:
        CxrError: a process died.
    """
    if workers <= 1:
        _start_worker(task)
        for chunk in chunks:
            yield _do_chunk(chunk)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(task,))
    waiting = iter(chunks)
    try:
        running = {pool.submit(_do_chunk, chunk) for chunk in islice(waiting, CHUNKS_AHEAD * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_do_chunk, chunk) for chunk in islice(waiting, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise CxrError(
            "a worker process died (out of memory?); run the same command again to go on from here"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Task, dict[str, np.memmap]] | None = None


def _start_process(task: Task) -> None:
    follow_parent()
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
            failed.append((row.index, _without_roots(task, row.image, str(error))))
            arrays["status"][row.index] = SKIPPED
    return len(rows), failed


def _without_roots(task: Task, image: str, reason: str) -> str:
    """The reason as the store keeps it: the same on every machine, and without the file's name at its beginning."""
    for name, root in task.roots.items():
        reason = reason.replace(root.rstrip(os.sep) + os.sep, f"{name}/" if name else "")
    return reason.removeprefix(f"{image}: ")


def _do_row(task: Task, arrays: dict[str, np.memmap], row: Row) -> np.ndarray:
    raw = read_image(_inside(task.roots, row.image))
    geometry = letterbox_geometry(*raw.pixels.shape, task.size, row.original, row.spacing or raw.spacing)
    if row.masks:
        masks = _masks(task, row, raw.pixels.shape)
        arrays["bits"][row.index] = pack_bits(masks, task.mask_names, task.size)
        arrays["annotated"][row.index] = sum(1 << task.mask_names.index(name) for name in masks)
    arrays["geometry"][row.index] = geometry
    arrays["images"][row.index] = to_store_pixels(raw.pixels, task.size, task.depth)
    return raw.pixels


def _inside(roots: Mapping[str, str], path: str) -> str:
    name, below = ("", path) if "" in roots else path.split("/", 1)
    root = roots[name]
    full = os.path.normpath(os.path.join(root, below))
    if not full.startswith(root.rstrip(os.sep) + os.sep):
        raise CxrError(f"{path}: lies outside of {root}; move it below the root, or give another --root")
    return full


def _masks(task: Task, row: Row, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    # United as they are drawn and resized afterwards: two halves that touch would leave a seam.
    drawn: dict[tuple[str, tuple[int, int]], np.ndarray] = {}
    for name, path, rle in row.masks:
        mask = _mask(_inside(task.roots, path), shape) if path else _drawn(rle, shape)
        before = drawn.get((name, mask.shape))
        drawn[name, mask.shape] = mask if before is None else np.maximum(before, mask)
    masks: dict[str, np.ndarray] = {}
    for (name, _), mask in drawn.items():
        masks[name] = masks.get(name, False) | (letterbox(mask, task.size) >= 128)
    return masks


def _mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    pixels = read_image(path).pixels
    # A lossy file blurs the edge between 0 and 255 and speckles the background.
    mask = (pixels > (127 if path.lower().endswith((".jpg", ".jpeg")) else 0)).astype(np.uint8) * 255
    return _of_aspect(mask, shape, path)


def _drawn(rle: str, shape: tuple[int, int]) -> np.ndarray:
    return _of_aspect(decode_rle(rle).astype(np.uint8) * 255, shape, "run lengths")


def _of_aspect(mask: np.ndarray, shape: tuple[int, int], origin: str) -> np.ndarray:
    if not same_aspect(shape, mask.shape):
        raise CxrError(
            f"{origin}: the mask is {mask.shape[1]}×{mask.shape[0]} and its image {shape[1]}×{shape[0]}, another aspect"
        )
    return mask


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
