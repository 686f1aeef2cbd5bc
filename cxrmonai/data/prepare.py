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
from cxrmonai.data.phantom_folder import PREFIX
from cxrmonai.data.pseudonyms import pseudonymise
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.store import FORMAT_VERSION, write_store
from cxrmonai.data.table import validate_table
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json, write_text
from cxrmonai.processes import available_cores
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
    shard: tuple[int, int] | None = None,
    key: bytes | None = None,
    crosswalk: str | os.PathLike[str] | None = None,
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
        shard: (i, N) packs only the i-th of N parts, from 1 on, for `merging.merge` to put together.
        key: secret that image, patient and study ids are hashed with; see `pseudonyms`. A private collection gets
            numbers in their place without one. In both cases the store holds no file names.
        crosswalk: CSV file for the table of ids and pseudonyms.

    Returns:
        What was made. Images that could not be read are listed there and in the store; the others do not shift.

    Raises:
        CxrError: an argument is out of range, `out` exists or cannot be written, another run is at work on it, or no
            image could be read.
    """
    out = Path(out)
    _check_arguments(collection, out, size, depth, workers, overwrite)
    if collection.private or key is not None:
        collection, ids = pseudonymise(collection, key)
        if crosswalk is not None:
            write_text(crosswalk, ids.to_csv(index=False), private=True)
    elif crosswalk is not None:
        raise CxrError(f"--crosswalk {crosswalk}: the ids are stored as they are; give --key_file to have them hashed")
    mask_names = tuple(sorted(collection.masks["finding"].unique()))
    options: dict[str, Any] = {"size": size, "depth": depth, "notes": collection.notes}
    if shard is not None:
        options["shard"] = {"part": shard[0], "of": shard[1], "whole": fingerprint(collection, options, mask_names)}
        collection = part(collection, *shard)
    roots = collection.root if isinstance(collection.root, dict) else {"": collection.root}
    folder = out.with_name(out.name + ".partial")
    task = Task(
        {name: os.path.abspath(root) for name, root in roots.items()},
        str(folder),
        size,
        depth,
        len(collection.table),
        mask_names,
    )
    with _work_folder(task, collection) as resumed:
        todo = np.flatnonzero(task.arrays("r")["status"] == TODO)
        failures = _fill(task, collection, todo, workers, progress)
        prepared = _assemble(task, collection, out, failures, options, progress)
        shutil.rmtree(folder)
    return replace(prepared, resumed=resumed)


def part(collection: Collection, number: int, of: int) -> Collection:
    """The images of one of several parts of a collection, in order; the parts together are the whole.

    Args:
        collection: the whole.
        number: of the part, from 1 on.
        of: how many parts there are.

    Raises:
        CxrError: there is no such part, or there are more parts than images.
    """
    if not 1 <= number <= of:
        raise CxrError(f"--shard {number}/{of}: the part must be a number from 1 to {of}")
    count = len(collection.table)
    if of > count:
        raise CxrError(f"--shard {number}/{of}: there are only {count} images; use fewer parts")
    start, stop = count * (number - 1) // of, count * number // of
    table = collection.table.iloc[start:stop].reset_index(drop=True)

    def side(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["image_id"].isin(table["image_id"])].reset_index(drop=True)

    skipped = collection.skipped if number == 1 else collection.skipped.iloc[:0]
    return replace(collection, table=table, boxes=side(collection.boxes), masks=side(collection.masks), skipped=skipped)


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
    for name, root in (collection.root if isinstance(collection.root, dict) else {}).items():
        if not name or "/" in name:
            raise CxrError(f"'{name}' ({root}): the name of a source cannot be empty or hold a slash")
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
        made_of = [task.size, task.depth, dict(task.roots)]
        plan = {
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint(collection, made_of, task.mask_names),
        }
        if _read_plan(folder) != plan:
            _start_afresh(task, plan, collection.masks["image_id"].nunique())
        for half in folder.glob(".store.h5.*"):
            half.unlink()
        status = task.arrays()["status"]
        status[status == SKIPPED] = TODO  # a file that failed may have been mended since
        yield int((status == DONE).sum())


def fingerprint(collection: Collection, options: Any, mask_names: Sequence[str]) -> str:
    """A digest of all that a collection and options say, without reading an image."""
    digest = hashlib.sha256(json.dumps([options, mask_names], sort_keys=True).encode())
    for frame in (collection.table, collection.boxes, collection.masks, collection.skipped):
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


class _Rows:
    """Makes rows to do out of a collection, a chunk at a time, so that they never stand in memory together."""

    def __init__(self, collection: Collection) -> None:
        table = collection.table
        self._images, self._ids = table["image"].to_numpy(), table["image_id"].to_numpy()
        self._pairs = {
            name: table[[f"{name}{end}" for end in ends]].to_numpy(float) if f"{name}{ends[0]}" in table else None
            for name, ends in (("original_", ("height", "width")), ("spacing_", ("y", "x")))
        }
        masks = collection.masks
        self._masks = masks[["finding", "path", "rle"]].fillna("").to_numpy(object)
        self._of_image = masks.groupby("image_id", sort=False).indices

    def chunks(self, indices: np.ndarray, step: int) -> Iterator[list[Row]]:
        """Rows of the table, `step` at a time."""
        for start in range(0, len(indices), step):
            yield [self._row(int(k)) for k in indices[start : start + step]]

    def _row(self, k: int) -> Row:
        masks = tuple(tuple(map(str, self._masks[m])) for m in self._of_image.get(self._ids[k], ()))
        return Row(k, self._images[k], self._pair("original_", k), self._pair("spacing_", k), masks)

    def _pair(self, name: str, k: int) -> tuple[float, float] | None:
        values = self._pairs[name]
        if values is None or np.isnan(values[k]).any():
            return None
        pair = float(values[k, 0]), float(values[k, 1])
        return pair if min(pair) > 0 else (np.nan, np.nan)


def _fill(task: Task, collection: Collection, todo: np.ndarray, workers: int | None, progress: bool) -> pd.DataFrame:
    """Does the rows and returns those that failed, as `row` and `reason`."""
    workers = available_cores() if workers is None else workers
    bar = progress_bar("prepare", task.count, "img", progress, initial=task.count - len(todo))
    step = max(1, min(64, len(todo) // (4 * max(1, workers))))
    workers = min(workers, -(-len(todo) // step))
    failures: list[tuple[int, str]] = []
    with bar:
        for count, failed in pack(task, _Rows(collection).chunks(todo, step), workers):
            failures += failed
            bar.update(count)
    return pd.DataFrame(sorted(failures), columns=["row", "reason"])


def _assemble(
    task: Task,
    collection: Collection,
    out: Path,
    failures: pd.DataFrame,
    options: dict[str, Any],
    progress: bool,
) -> Prepared:
    arrays = task.arrays("r")
    keep = arrays["status"] == DONE
    failed = {"image": collection.table["image"].to_numpy()[failures["row"].astype(int)], "reason": failures["reason"]}
    skipped = pd.concat([collection.skipped, pd.DataFrame(failed)], ignore_index=True).astype(object)
    if not keep.any():
        image, reason = skipped.iloc[0]
        raise CxrError(f"none of the {task.count} images could be read; the first, {image}: {reason}")
    masks = None
    if task.mask_names:
        rows = np.flatnonzero(arrays["annotated"])
        masks = (rows, arrays["annotated"][rows], _Picked(arrays["bits"], rows))
    table, listed = _without_paths(collection, skipped) if collection.private else (collection.table, skipped)
    names = (Path(image).name for image in collection.table["image"].to_numpy()[keep])
    whole = Path(task.folder) / "store.h5"  # in the work folder, where a killed run's half is cleared away
    write_store(
        whole,
        images=arrays["images"],
        geometry=arrays["geometry"],
        table=table,
        class_names=collection.class_names,
        source=collection.name,
        boxes=collection.boxes,
        masks=masks,
        mask_names=task.mask_names,
        skipped=listed,
        keep=keep,
        synthetic=any(name.startswith(PREFIX) for name in names),
        options=options,
        progress=progress,
    )
    whole.replace(out)
    return Prepared(out, int(keep.sum()), skipped, 0)


def _without_paths(collection: Collection, skipped: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table and the skipped files as a store keeps them that shall not tell file names."""
    ids = dict(collection.table[["image", "image_id"]].itertuples(index=False))
    of_skipped = collection.masks["image_id"].isin(skipped["image"].map(ids))
    paths = [path for path in collection.masks.loc[of_skipped, "path"] if path]
    reasons = []
    for image, reason in skipped.itertuples(index=False):
        for path in sorted((image, *paths), key=len, reverse=True):
            reason = reason.replace(path, "the file")
        reasons.append(reason)
    listed = pd.DataFrame({"image": skipped["image"].map(ids).fillna("no radiograph"), "reason": reasons})
    return collection.table.assign(image=collection.table["image_id"]), listed.astype(object)


class _Picked:
    """Some rows of a memory map, fetched one at a time, so that they never stand in memory together."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self._array, self._rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __getitem__(self, k: int) -> np.ndarray:
        return self._array[self._rows[k]]
