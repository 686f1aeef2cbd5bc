"""Any table with one row per image and a column of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrmonai.data.reading import ids_from_paths
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import kept_columns, named_table, read_csv, require_columns, with_splits
from cxrmonai.data.table import MASK_COLUMNS, make_table, name_list, parse_age, parse_labels, parse_sex, parse_split
from cxrmonai.errors import CxrError

ABOUT = "any table with one row per image and a column of paths"
NEEDS = ("the table, named with --table", "the images that it names")
WHERE = ""


def load(
    root: Path,
    table: str,
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
    """Reads the table; only `table` and `path_column` are needed.

    Args:
        root: folder that the paths are relative to.
        table: CSV file, as a path from here or below the root.
        path_column: column of image paths.
        class_columns: findings, as `A,B,C`; cells are 1, 0, -1 (uncertain) or blank (unknown).
        id_column: image ids; by default made from the paths.
        patient_column: patient ids; without it splits cannot keep a patient's images together.
        study_column: study ids.
        view_column: view positions (PA, AP, LATERAL, …).
        age_column: ages in years, or as `058Y`.
        sex_column: F and M, or words.
        split_column: train, val, test; taken as it is, or drawn by patient without it.
        mask_column: one or several columns of mask paths; a mask is named by its column.
        keep_columns: further columns to keep as they are, such as a grade or a site.
        seed: of the split.

    Returns:
        The collection.

    Raises:
        CxrError: the table or a column is missing, or a cell holds what its column cannot.
    """
    file = named_table(root, table)
    rows = read_csv(file)
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
    require_columns(rows, [*used.values(), *classes, *masks], file)
    columns = {name: rows[column].str.strip() for name, column in used.items()}
    blank = columns["image"] == ""
    if blank.any():
        raise CxrError(f"{file}: column '{path_column}' is blank in {int(blank.sum())} row(s); leave these rows out")
    if "image_id" not in columns:
        columns["image_id"] = pd.Series(ids_from_paths(columns["image"].tolist()))
    for name, parse in (("age", parse_age), ("sex", parse_sex)):
        if name in columns:
            columns[name] = pd.Series(parse(columns[name]))
    columns |= kept_columns(rows, name_list(keep_columns), file)
    split = parse_split(columns.pop("split")) if "split" in columns else None
    labels = parse_labels(rows, classes) if classes else None
    contents = make_table(columns, labels)
    notes: list[str] = []
    if split is not None:
        contents["split"] = split
    contents = with_splits(contents, seed, split is not None, notes)
    return Collection("csv", root, contents, classes, masks=_masks(rows, contents["image_id"], masks), notes=notes)


def _masks(rows: pd.DataFrame, image_ids: pd.Series, columns: list[str]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"image_id": image_ids, "finding": column, "path": rows[column].str.strip(), "rle": ""})
        for column in columns
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(MASK_COLUMNS))
    return table[table["path"] != ""].reset_index(drop=True)
