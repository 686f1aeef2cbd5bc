"""Helpers that sources share: reading published tables, finding images, drawing splits."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxrmonai.data.reading import image_files
from cxrmonai.data.splits import carve_validation, check_overlap, split_by_patient
from cxrmonai.data.table import BASE_COLUMNS, MASK_COLUMNS
from cxrmonai.errors import CxrError

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a table with every cell as text; blank cells are empty strings. A `.gz` is unpacked on the way.

    Raises:
        CxrError: the file is missing, empty or no table.
    """
    if not path.is_file():
        raise CxrError(f"{path}: no such file; the table is needed")
    try:
        table = _parse(path)
        if not isinstance(table.index, pd.RangeIndex):
            # Every row has more cells than the header; that will do where they are blank (a comma at each line's end).
            extra = [f"extra {k}" for k in range(table.index.nlevels)]
            table = _parse(path, header=0, names=[*table.columns, *extra], index_col=False)
            if (table[extra] != "").to_numpy().any():
                raise CxrError(f"{path}: not a readable CSV table (rows have more cells than the header)")
            table = table.drop(columns=extra)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, *_DAMAGED) as error:
        raise CxrError(f"{path}: not a readable CSV table ({str(error).splitlines()[0]})") from error
    if len(table) == 0:
        raise CxrError(f"{path}: the table has no rows")
    return table


def _parse(path: Path, **options: Any) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, **options)


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Makes sure that the table has these columns.

    Raises:
        CxrError: names the missing ones and those there are.
    """
    missing = [name for name in columns if name not in table]
    if missing:
        raise CxrError(f"{path}: no column '{missing[0]}'; it has {', '.join(map(str, table.columns))}")


def need(root: Path, patterns: str | Sequence[str], where: str) -> Path:
    """Finds a published file.

    Args:
        root: folder of the data set.
        patterns: glob patterns below it, in order of preference; of several matches the last in order is taken.
        where: address it is published at.

    Returns:
        Its path.

    Raises:
        CxrError: there is none; says which and where it is published.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if found:
            return found[-1]
    published = f"; it is published at {where}" if where else ""
    raise CxrError(f"{root}: no {' or '.join(patterns)}{published}")


def named_table(root: Path, name: str) -> Path:
    """The table that an option names, as a path from here or below the root."""
    return Path(str(name)) if Path(str(name)).is_file() else root / str(name)


def keep_present(rows: pd.DataFrame, present: pd.Series, table_file: Path, notes: list[str]) -> pd.DataFrame:
    """Leaves out the rows whose image is not here.

    Args:
        rows: one per image.
        present: (N,) bool: whether its file is here.
        table_file: that the rows are from.
        notes: gets a sentence where rows are left out.

    Returns:
        The rows that are left, numbered anew.

    Raises:
        CxrError: none is left.
    """
    if not present.any():
        raise CxrError(
            f"{table_file}: none of its {len(rows)} images is here; unpack the images beside it as published"
        )
    if not present.all():
        notes.append(f"{int((~present).sum())} of {len(rows)} rows of {table_file.name} have no file here: left out")
    return rows[present.to_numpy()].reset_index(drop=True)


def images_folder(root: Path, named: str | None, published: str = "", where: str = "") -> Path:
    """The folder that holds the images.

    Args:
        root: folder of the data set.
        named: by `--images`, below the root.
        published: where it is by default, below the root.
        where: address the images are published at.

    Raises:
        CxrError: there is no such folder, or it is not below the root.
    """
    folder = root / str(named or published)
    if not folder.is_dir():
        source = f"; they are published at {where}" if where else ""
        raise CxrError(
            f"{folder}: no such folder; unpack the images as published, or name their folder with --images{source}"
        )
    if not Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(root)):
        raise CxrError(f"--images {named}: lies outside of {root}; name a folder below the root")
    return folder


def files_by_name(root: Path, folder: Path, stem: bool = False) -> dict[str, str]:
    """Images below a folder: file name (or its stem) → path below the root, `/` between its parts."""
    return {(path.stem if stem else path.name): path.relative_to(root).as_posix() for path in image_files(folder)}


def kept_columns(rows: pd.DataFrame, names: Sequence[str], file: Path) -> dict[str, pd.Series]:
    """Further columns of a table as they are: numbers where all cells that are not blank are numbers, else text.

    Args:
        rows: the table, cells as text.
        names: of the columns.
        file: for messages.

    Raises:
        CxrError: a column is missing, or has a name that every table has.
    """
    require_columns(rows, names, file)
    taken = [name for name in names if name in BASE_COLUMNS]
    if taken:
        raise CxrError(f"{file}: --keep_columns {taken[0]}: every store has a column of that name; rename it")
    kept = {}
    for name in names:
        text = rows[name].str.strip()
        numbers = pd.to_numeric(text, errors="coerce")
        kept[name] = text if (numbers.isna() & (text != "")).any() else numbers.astype(float)
    return kept


def mask_rows(
    image_ids: Sequence[str] | pd.Series, finding: str, paths: Sequence[str] = (), rles: Sequence[str] = ()
) -> pd.DataFrame:
    """Rows of `Collection.masks`: one image id for each path, or for each run-length text."""
    values = {"path": list(paths) or "", "rle": list(rles) or ""}
    return pd.DataFrame({"image_id": list(image_ids), "finding": finding, **values}, columns=list(MASK_COLUMNS))


def with_splits(table: pd.DataFrame, seed: int, published: bool, notes: list[str]) -> pd.DataFrame:
    """Draws splits by patient, or completes and checks those that were published.

    Args:
        table: with `patient_id`; an empty one makes the image its own patient.
        seed: of the draw.
        published: whether the `split` column holds a publisher's split.
        notes: gets a sentence on what was done.

    Returns:
        The table with `split` filled.

    Raises:
        CxrError: a patient is in two splits.
    """
    anonymous = table["patient_id"] == ""
    if anonymous.any():
        table = table.copy()
        table.loc[anonymous, "patient_id"] = "image:" + table.loc[anonymous, "image_id"]
        notes.append(
            f"{int(anonymous.sum())} images have no patient id: each counts as its own patient, so that splits cannot "
            "keep a patient's images together"
        )
    if not published:
        table = table.copy()
        table["split"] = split_by_patient(table["patient_id"].tolist(), seed=seed)
        notes.append(f"train, val and test drawn by patient with seed {seed}")
    else:
        table = table.copy()
        if not (table["split"] == "val").any():
            table["split"] = table["split"].replace("train", "train_val")
        if (table["split"] == "train_val").any():
            table = carve_validation(table, seed=seed)
            notes.append(f"val drawn by patient from the published training images with seed {seed}")
    unplaced = int((table["split"] == "").sum())
    if unplaced:
        notes.append(f"{unplaced} images are in no published split: left out of train, val and test")
    check_overlap(table)
    return table
