"""What a table tells of the patient, as targets of pretext tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError

AGE_SCALE = 89.0  # years; an age over it is about 0 to 1, as in the cardiomegaly study
OLDEST = 120.0
ATTRIBUTES = ("age", "sex")


def attribute_targets(store: Store, names: Sequence[str]) -> np.ndarray:
    """Ages and sexes as numbers that a network learns.

    Args:
        store: with the columns `age` and `sex`.
        names: of `age`, which becomes years / 89, and `sex`, which becomes 1 for `F` and 0 for `M`.

    Returns:
        (N, K) float32; NaN where not known. Ages outside 0 to 120 years are slips of the pen and not known.

    Raises:
        CxrError: an unknown name.
    """
    columns = []
    for name in names:
        if name not in ATTRIBUTES:
            raise CxrError(f"attribute '{name}': known are {', '.join(ATTRIBUTES)}")
        if name == "age":
            age = store.column("age").astype(float)
            columns.append(np.where((age >= 0) & (age <= OLDEST), age / AGE_SCALE, np.nan))
        else:
            sex = store.column("sex")
            columns.append(np.where(sex == "F", 1.0, np.where(sex == "M", 0.0, np.nan)))
    return np.stack(columns, axis=1).astype(np.float32)


def rows_with_attributes(store: Store, targets: np.ndarray, names: Sequence[str], split: str) -> np.ndarray:
    """Rows of a split of which at least one attribute is known.

    Args:
        store: of the rows.
        targets: (N, K) of `attribute_targets`.
        names: (K,) of the columns.
        split: `train`, `val` or `test`.

    Returns:
        Row numbers.

    Raises:
        CxrError: an attribute is known of no image of the split, or all training images are of one sex.
    """
    rows = store.rows(split)
    for name, column in zip(names, targets[rows].T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) == 0:
            raise CxrError(f"{store.path}: no image of the split {split} has {'an age' if name == 'age' else 'a sex'}")
        if name == "sex" and split == "train" and len(np.unique(known)) < 2:
            raise CxrError(f"{store.path}: all training images are of one sex, so there is nothing to tell")
    return rows[~np.isnan(targets[rows]).all(axis=1)]
