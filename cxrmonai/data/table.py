"""The table: one row per image, the same columns whatever the source.

Columns: `image` (path below the root), `image_id` (unique), `patient_id`, `study_id`, `view`, `age` (years), `sex`
(`F`, `M`), `split` (`train`, `val`, `test`), further columns a source brings, then one column per finding with 1
(present), 0 (absent), -1 (uncertain) or NaN (unknown). An unknown text is the empty string, an unknown number NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cxrmonai.errors import CxrError

TEXT_COLUMNS = ("image", "image_id", "patient_id", "study_id", "view", "sex", "split")
NUMBER_COLUMNS = ("age",)
BASE_COLUMNS = ("image", "image_id", "patient_id", "study_id", "view", "age", "sex", "split")
BOX_COLUMNS = ("image_id", "finding", "x", "y", "w", "h")
MASK_COLUMNS = ("image_id", "finding", "path", "rle")
SPLITS = ("train", "val", "test")
LABEL_VALUES = (1.0, 0.0, -1.0)


def make_table(
    columns: dict[str, Sequence | np.ndarray | pd.Series], labels: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Builds a table from the columns that are known, fills in the rest, and appends the findings.

    Args:
        columns: at least `image` and `image_id`; each with one value per image.
        labels: (N, C) one column per finding.

    Returns:
        The table with base columns first, then extra columns, then the findings.

    Raises:
        CxrError: see `validate_table`.
    """
    table = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})
    for name in TEXT_COLUMNS:
        table[name] = _text(table[name]) if name in table else ""
    for name in NUMBER_COLUMNS:
        table[name] = pd.to_numeric(table[name], errors="coerce").astype(float) if name in table else np.nan
    extra = [name for name in table if name not in BASE_COLUMNS]
    table = table[[*BASE_COLUMNS, *extra]]
    class_names: list[str] = []
    if labels is not None:
        class_names = [str(name) for name in labels.columns]
        taken = [name for name in class_names if name in table]
        if taken:
            raise CxrError(f"a finding cannot be called '{taken[0]}', a column of the table already; rename it")
        table = pd.concat([table, labels.astype("float32").reset_index(drop=True)], axis=1)
    validate_table(table, class_names)
    return table


def _text(values: pd.Series) -> pd.Series:
    return _each_value(values, lambda known: known.astype(object).where(known.notna(), "").map(str).str.strip())


def _each_value(values: pd.Series, change: Callable[[pd.Series], pd.Series]) -> pd.Series:
    """Changes a column value by value, each different value once: columns are long and say little."""
    codes, different = pd.factorize(values, use_na_sentinel=False)
    changed = change(pd.Series(different)).to_numpy()
    return pd.Series(changed[codes], index=values.index)


def validate_table(table: pd.DataFrame, class_names: Sequence[str]) -> None:
    """Checks the contract of this module.

    Raises:
        CxrError: the table is empty, lacks a column, repeats an image id, or holds a value outside the contract.
    """
    if len(table) == 0:
        raise CxrError("the table has no rows; check the table file and the images folder")
    missing = [name for name in (*BASE_COLUMNS, *class_names) if name not in table]
    if missing:
        raise CxrError(f"the table lacks the column(s) {', '.join(missing)}")
    repeated = table["image_id"].duplicated(keep=False)
    if repeated.any():
        rows = ", ".join(str(row) for row in np.flatnonzero(repeated)[:4])
        raise CxrError(f"{int(repeated.sum())} rows share an image id (rows {rows}, …); each image needs its own")
    _only(table, "split", ("", *SPLITS))
    _only(table, "sex", ("", "F", "M"))
    for name in class_names:
        values = table[name].to_numpy(dtype=float)
        if not (np.isnan(values) | np.isin(values, LABEL_VALUES)).all():
            raise CxrError(f"column '{name}' holds values other than 1, 0, -1 and blank")


def _only(table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    strange = sorted(set(table[column].unique()) - set(allowed))
    if strange:
        known = ", ".join(value for value in allowed if value)
        raise CxrError(f"column '{column}' holds {strange[0]!r}; known are {known} and blank")


def parse_age(values: pd.Series) -> np.ndarray:
    """Ages in years from numbers or DICOM age strings (`058Y`, `011M`, `003W`, `020D`).

    Returns:
        (N,) float64; NaN where the age is absent, not an age, or over 120 years.
    """
    return _each_value(values, _years).to_numpy(dtype=float)


def _years(values: pd.Series) -> pd.Series:
    parts = _text(values).str.extract(r"^(\d+(?:\.\d+)?)\s*([YMWDymwd]?)$")
    years = pd.to_numeric(parts[0], errors="coerce")
    unit = parts[1].fillna("").str.upper().map({"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25})
    age = (years * unit).astype(float)
    return age.where(age <= 120)


def parse_sex(values: pd.Series) -> np.ndarray:
    """`F`, `M` or the empty string from the spellings in use (`F`, `female`, `Male`, `m`, …)."""
    first = _text(values).str.upper()
    return first.map({"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}).fillna("").to_numpy(dtype=object)


def parse_split(values: pd.Series) -> np.ndarray:
    """Split names in the contract's spelling; `train_val` is kept for `splits.carve_validation`.

    Raises:
        CxrError: a value is no known name of a split.
    """
    names = {
        "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
        "dev": "val", "test": "test", "testing": "test", "train_val": "train_val", "trainval": "train_val", "": "",
    }  # fmt: skip
    lowered = _text(values).str.lower()
    strange = sorted(set(lowered) - set(names))
    if strange:
        raise CxrError(f"the split column holds {strange[0]!r}; write train, val or test")
    return lowered.map(names).to_numpy(dtype=object)


def parse_labels(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Findings as 1, 0, -1 or NaN from numbers, booleans and their spellings.

    Raises:
        CxrError: a column is missing or holds something else.
    """
    labels = {}
    for name in columns:
        if name not in table:
            raise CxrError(f"no column '{name}' in the table; it has {', '.join(map(str, table.columns))}")
        labels[name] = _each_value(table[name], partial(_labels, name))
    return pd.DataFrame(labels)


def _labels(name: str, values: pd.Series) -> pd.Series:
    words = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "": np.nan, "nan": np.nan}
    text = _text(values).str.lower()
    numbers = pd.to_numeric(text, errors="coerce").where(~text.isin(words), text.map(words))
    strange = text[numbers.isna() & ~text.isin(["", "nan"])]
    if len(strange) == 0:
        strange = text[~numbers.isna() & ~numbers.isin(LABEL_VALUES)]
    if len(strange):
        raise CxrError(f"column '{name}' holds {strange.iloc[0]!r}; a finding is 1, 0, -1 (uncertain) or blank")
    return numbers.astype("float32")


def name_list(value: str | Sequence[str] | None) -> list[str]:
    """Names from an option: `A,B`, a list, or nothing."""
    if value is None or value == "":
        return []
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
