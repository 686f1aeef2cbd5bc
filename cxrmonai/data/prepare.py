"""From a collection to a store: several processes, resumable, nothing shifted.

Work in progress lies in `OUT.partial/`: raw arrays that the processes map and fill row by row, one status byte per
row. A run that was killed goes on from there, and tries again what could not be read. When every row is done the store
is assembled under a temporary name and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrmonai.data.packing import DONE, SKIPPED, TODO, Row, Task, pack
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.store import FORMAT_VERSION, write_store
from cxrmonai.data.table import validate_table
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json
from cxrmonai.progress import progress_bar

MIN_SIZE, MAX_SIZE = 16, 8192


@dataclass(frozen=True)
class Prepared:
    """What a run of `prepare` made.

    Attributes:
        path: of the store.
        written: images in it.
        skipped: `image` and `reason` of those that could not be read.
        resumed: images that an earlier, interrupted run had done.
    """

    path: Path
    written: int
    skipped: pd.DataFrame
    resumed: int


def prepare(
    collection: Collection,
    out: str | os.PathLike[str],
    size: int = 256,
    workers: int | None = None,
    depth: int = 8,
    overwrite: bool = False,
    progress: bool = True,
) -> Prepared:
    """Reads every image of a collection once and packs all into a store.

    Args:
        collection: what to pack.
        out: the store to write, `NAME.h5`.
        size: edge of the square images in pixels.
        workers: processes; as many as there are cores by default, 0 or 1 works in this one.
        depth: 8 or 16 bits a pixel.
        overwrite: whether an existing `out` may be replaced.
        progress: whether to show a progress bar.

    Returns:
        What was made. Images that could not be read are listed there and in the store; the others do not shift.

    Raises:
        CxrError: an argument is out of range, `out` exists or cannot be written, another run is at work on it, or no
            image could be read.
    """
    out = Path(out)
    _check_arguments(collection, out, size, depth, workers, overwrite)
    mask_names = tuple(sorted(collection.masks["finding"].unique()))
    folder = out.with_name(out.name + ".partial")
    task = Task(os.path.abspath(collection.root), str(folder), size, depth, len(collection.table), mask_names)
    with _work_folder(task, collection) as resumed:
        todo = np.flatnonzero(task.arrays("r")["status"] == TODO)
        failures = _fill(task, _rows(collection, todo), workers, progress)
        prepared = _assemble(task, collection, out, failures)
        shutil.rmtree(folder)
    return replace(prepared, resumed=resumed)


def _check_arguments(
    collection: Collection, out: Path, size: int, depth: int, workers: int | None, overwrite: bool
) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or not MIN_SIZE <= size <= MAX_SIZE:
        raise CxrError(f"--size {size}: must be a whole number from {MIN_SIZE} to {MAX_SIZE}")
    if depth not in (8, 16):
        raise CxrError(f"--depth {depth}: must be 8 or 16")
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise CxrError(f"--workers {workers}: must be 0 or more")
    if out.is_dir():
        raise CxrError(f"{out}: is a folder; name the file to write, such as {out / 'store.h5'}")
    if out.exists() and not overwrite:
        raise CxrError(f"{out}: exists already; give another --out, or --overwrite to replace it")
    validate_table(collection.table, collection.class_names)
    if len(collection.masks["finding"].unique()) > 32:
        raise CxrError("more than 32 mask names; a store holds 32 at most")


@contextmanager
def _work_folder(task: Task, collection: Collection) -> Iterator[int]:
    """Makes or re-enters the folder of a run, locked against a second one; yields the number of rows already done."""
    folder = Path(task.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 - held until the run ends
    except OSError as error:
        raise CxrError(f"{folder.parent}: cannot write here ({error.strerror}); choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CxrError(f"{folder}: another prepare is at work on this store; wait for it, or end it") from error
        plan = {"format_version": FORMAT_VERSION, "fingerprint": _fingerprint(task, collection)}
        if _read_plan(folder) != plan:
            _start_afresh(task, plan, collection.masks["image_id"].nunique())
        for half in folder.glob(".store.h5.*"):
            half.unlink()
        status = task.arrays()["status"]
        status[status == SKIPPED] = TODO  # a file that failed may have been mended since
        yield int((status == DONE).sum())


def _fingerprint(task: Task, collection: Collection) -> str:
    digest = hashlib.sha256(json.dumps([task.size, task.depth, task.mask_names, task.root]).encode())
    for frame in (collection.table, collection.boxes, collection.masks):
        digest.update(" ".join(map(str, frame.columns)).encode())
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _start_afresh(task: Task, plan: dict[str, Any], annotated: int) -> None:
    folder = Path(task.folder)
    for name in ("plan.json", *(path.name for path in folder.glob("*.raw"))):
        (folder / name).unlink(missing_ok=True)
    need = task.size**2 * (2 * task.count * task.depth // 8 + 4 * annotated)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise CxrError(
            f"{folder.parent}: making the store takes {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
        )
    task.arrays("w+")
    write_json(folder / "plan.json", plan)


def _rows(collection: Collection, indices: Sequence[int]) -> list[Row]:
    table = collection.table
    masks: dict[str, list[tuple[str, str]]] = {}
    for image_id, finding, path in collection.masks[["image_id", "finding", "path"]].itertuples(index=False):
        masks.setdefault(image_id, []).append((finding, path))
    pairs = {
        name: table[[f"{name}{end}" for end in ends]].to_numpy(float) if f"{name}{ends[0]}" in table else None
        for name, ends in (("original_", ("height", "width")), ("spacing_", ("y", "x")))
    }
    images, ids = table["image"].to_numpy(), table["image_id"].to_numpy()

    def pair(name: str, k: int) -> tuple[float, float] | None:
        values = pairs[name]
        return None if values is None or np.isnan(values[k]).any() else (float(values[k, 0]), float(values[k, 1]))

    return [
        Row(int(k), images[k], pair("original_", k), pair("spacing_", k), tuple(masks.get(ids[k], ()))) for k in indices
    ]


def _fill(task: Task, rows: list[Row], workers: int | None, progress: bool) -> pd.DataFrame:
    """Does the rows and returns those that failed, as `row` and `reason`."""
    workers = available_cores() if workers is None else workers
    done = task.count - len(rows)
    bar = progress_bar("prepare", task.count, "img", progress, initial=done)
    step = max(1, min(64, len(rows) // (4 * max(1, workers))))
    chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
    failures: list[tuple[int, str]] = []
    with bar:
        for count, failed in pack(task, chunks, workers):
            failures += failed
            bar.update(count)
    return pd.DataFrame(sorted(failures), columns=["row", "reason"])


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _assemble(task: Task, collection: Collection, out: Path, failures: pd.DataFrame) -> Prepared:
    arrays = task.arrays("r")
    keep = arrays["status"] == DONE
    skipped = pd.DataFrame(
        {"image": collection.table["image"].to_numpy()[failures["row"].astype(int)], "reason": failures["reason"]}
    )
    if not keep.any():
        image, reason = skipped.iloc[0]
        raise CxrError(f"none of the {task.count} images could be read; the first, {image}: {reason}")
    masks = None
    if task.mask_names:
        rows = np.flatnonzero(arrays["annotated"])
        masks = (rows, arrays["annotated"][rows], _Rows(arrays["bits"], rows))
    whole = Path(task.folder) / "store.h5"  # in the work folder, where a killed run's half is cleared away
    write_store(
        whole,
        images=arrays["images"],
        geometry=arrays["geometry"],
        table=collection.table,
        class_names=collection.class_names,
        source=collection.name,
        boxes=collection.boxes,
        masks=masks,
        mask_names=task.mask_names,
        skipped=skipped,
        keep=keep,
        options={"size": task.size, "depth": task.depth, "notes": collection.notes},
    )
    whole.replace(out)
    return Prepared(out, int(keep.sum()), skipped, 0)


class _Rows:
    """Some rows of a memory map, fetched one at a time, so that they never stand in memory together."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self._array, self._rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __getitem__(self, k: int) -> np.ndarray:
        return self._array[self._rows[k]]
