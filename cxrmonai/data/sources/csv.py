"""Any table with one row per image and a column of paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.reading import ids_from_paths
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import kept_columns, named_table, read_csv, require_columns, with_splits
from cxrmonai.data.table import MASK_COLUMNS, make_table, name_list, parse_age, parse_labels, parse_sex, parse_split
from cxrmonai.errors import CxrError

ABOUT = "any table, or one for each split, with one row per image and a column of paths"
NEEDS = ("the table, named with --table; or --train_csv, --val_csv and --test_csv", "the images that they name")
WHERE = ""


def load(
    root: Path,
    table: str | None = None,
    train_csv: str | None = None,
    val_csv: str | None = None,
    test_csv: str | None = None,
    path_column: str = "image",
    class_columns: str | Sequence[str] | None = None,
    id_column: str | None = None,
    patient_column: str | None = None,
    study_column: str | None = None,
    view_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    split_column: str | None = None,
    mask_column: str | Sequence[str] | None = None,
    keep_columns: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Collection:
    """Reads the table, or one for each split; only these and `path_column` are needed.

    Args:
        root: folder that the paths are relative to, or below which they lie where they are absolute.
        table: CSV file, as a path from here or below the root.
        train_csv: CSV file of the training images, in place of one table of all; likewise.
        val_csv: CSV file of the validation images; without it some training patients are taken.
        test_csv: CSV file of the test images.
        path_column: column of image paths.
        class_columns: findings, as `A,B,C`; cells are 1, 0, -1 (uncertain) or blank (unknown).
        id_column: image ids; by default made from the paths.
        patient_column: patient ids; without it splits cannot keep a patient's images together.
        study_column: study ids.
        view_column: view positions (PA, AP, LATERAL, …).
        age_column: ages in years, or as `058Y`.
        sex_column: F and M, or words.
        split_column: train, val, test; taken as it is, or drawn by patient without it; only with one table.
        mask_column: one or several columns of mask paths; a mask is named by its column.
        keep_columns: further columns to keep as they are, such as a grade or a site.
        seed: of the split.

    Returns:
        The collection.

    Raises:
        CxrError: a table or a column is missing, a cell holds what its column cannot, or an image or a patient is in
            the tables of two splits.
    """
    by_split = {"train": train_csv, "val": val_csv, "test": test_csv}
    parts = _parts(root, table, {split: name for split, name in by_split.items() if name is not None}, split_column)
    named = {
        "image": path_column,
        "image_id": id_column,
        "patient_id": patient_column,
        "study_id": study_column,
        "view": view_column,
        "age": age_column,
        "sex": sex_column,
        "split": split_column,
    }
    used = {name: str(column) for name, column in named.items() if column is not None}
    classes, masks = name_list(class_columns), name_list(mask_column)
    kept = name_list(keep_columns)
    for file, part, _ in parts:
        require_columns(part, [*used.values(), *classes, *masks, *kept], file)
        blank = part[path_column].str.strip() == ""
        if blank.any():
            raise CxrError(
                f"{file}: column '{path_column}' is blank in {int(blank.sum())} row(s); leave these rows out"
            )
    _check_images([(file, part[path_column].str.strip()) for file, part, _ in parts])
    file, rows = parts[0][0], pd.concat([part for _, part, _ in parts], ignore_index=True)
    columns = {name: rows[column].str.strip() for name, column in used.items()}
    columns["image"] = columns["image"].map(partial(_below, os.path.abspath(root)))
    if "image_id" not in columns:
        columns["image_id"] = pd.Series(ids_from_paths(columns["image"].tolist()))
    for name, parse in (("age", parse_age), ("sex", parse_sex)):
        if name in columns:
            columns[name] = pd.Series(parse(columns[name]))
    columns |= kept_columns(rows, kept, file)
    split = parse_split(columns.pop("split")) if "split" in columns else None
    if parts[0][2]:
        split = np.concatenate([np.full(len(part), name, dtype=object) for _, part, name in parts])
    labels = parse_labels(rows, classes) if classes else None
    contents = make_table(columns, labels)
    notes: list[str] = []
    if split is not None:
        contents["split"] = split
    contents = with_splits(contents, seed, split is not None, notes)
    return Collection("csv", root, contents, classes, masks=_masks(rows, contents["image_id"], masks), notes=notes)


def _parts(
    root: Path, table: str | None, by_split: Mapping[str, str], split_column: str | None
) -> list[tuple[Path, pd.DataFrame, str]]:
    """The tables with their files, and the split of each; an empty one where there is one table of all."""
    if (table is None) == (not by_split):
        raise CxrError("source 'csv' needs --table, or --train_csv with --val_csv and --test_csv; one of the two")
    if table is not None:
        file = named_table(root, table)
        return [(file, read_csv(file), "")]
    if "train" not in by_split:
        raise CxrError(f"--{next(iter(by_split))}_csv is given without --train_csv; name the table of training images")
    if split_column is not None:
        raise CxrError("--split_column does not go with --train_csv: each table is one split; leave one of them out")
    return [(named_table(root, name), read_csv(named_table(root, name)), split) for split, name in by_split.items()]


def _below(root: str, path: str) -> str:
    """A path as it stands below the root, where it is absolute and lies there."""
    inside = os.path.isabs(path) and os.path.normpath(path).startswith(root.rstrip(os.sep) + os.sep)
    return os.path.relpath(path, root) if inside else path


def _check_images(paths: Sequence[tuple[Path, pd.Series]]) -> None:
    """No image may stand in the tables of two splits."""
    seen: dict[str, Path] = {}
    for file, column in paths:
        for path in column:
            if path in seen:
                raise CxrError(f"{seen[path]} and {file} both name {path}; an image belongs to one split")
        seen.update(dict.fromkeys(column, file))


def _masks(rows: pd.DataFrame, image_ids: pd.Series, columns: list[str]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"image_id": image_ids, "finding": column, "path": rows[column].str.strip(), "rle": ""})
        for column in columns
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(MASK_COLUMNS))
    return table[table["path"] != ""].reset_index(drop=True)
