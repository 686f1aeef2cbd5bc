"""Checks shared by the classification metrics, and the walk over the columns of a multi-label truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError

WeightedStatistic = Callable[[np.ndarray], np.ndarray]
"""Takes row weights (B, n), zero or more, and returns one value per set of weights, (B,)."""

StatisticFactory = Callable[[np.ndarray, np.ndarray], WeightedStatistic]
"""Takes the truth (n,) of 0 and 1 and the score (n,) of one column, and does once what does not depend on weights."""


def check_columns(
    truth: ArrayLike, score: ArrayLike, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the truth and the score as float64 arrays of shape (N, C).

    Args:
        truth: (N,) or (N, C) of 0, 1 and NaN (unknown).
        score: finite numbers of the same shape, higher for more likely.
        names: C names of the columns, for the messages and to check C; none gives numbers.

    Raises:
        CxrError: shapes that differ or do not fit `names`, a truth other than 0, 1 and NaN, a score that is not finite.
    """
    truth, score = _as_float(truth, "truth"), _as_float(score, "score")
    if truth.shape != score.shape:
        raise CxrError(f"truth has shape {truth.shape} and score {score.shape}; give both the same shape")
    if truth.ndim not in (1, 2):
        raise CxrError(f"truth has shape {truth.shape}; give (images,) or (images, classes)")
    if truth.ndim == 1:
        truth, score = truth[:, None], score[:, None]
    if names is not None and len(names) != truth.shape[1]:
        raise CxrError(f"class_names has {len(names)} names but truth has {truth.shape[1]} columns; give one for each")
    _refuse(~(np.isnan(truth) | (truth == 0) | (truth == 1)), truth, "truth", names, "0, 1 or NaN (unknown)")
    _refuse(~np.isfinite(score), score, "score", names, "finite numbers")
    return truth, score


def check_weight(weight: ArrayLike | None, rows: int) -> np.ndarray:
    """Returns row weights as float64 (N,); none gives ones.

    Raises:
        CxrError: a shape other than (N,), or a weight that is negative or not finite.
    """
    if weight is None:
        return np.ones(rows)
    weight = _as_float(weight, "weight")
    if weight.shape != (rows,):
        raise CxrError(f"weight has shape {weight.shape}; give one weight for each row, ({rows},)")
    _refuse(
        ~(np.isfinite(weight) & (weight >= 0))[:, None], weight[:, None], "weight", None, "finite numbers, 0 or more"
    )
    return weight


def known_rows(truth: np.ndarray) -> np.ndarray | slice:
    """Returns what selects the known rows of one column (N,): a slice when that is all of them, else their numbers."""
    known = ~np.isnan(truth)
    return slice(None) if known.all() else np.flatnonzero(known)


def evaluate_columns(
    statistic: StatisticFactory, truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None
) -> float | np.ndarray:
    """Evaluates a statistic on the known rows of each column.

    Args:
        statistic: for example `ranked_auroc`.
        truth: (N,) or (N, C) of 0, 1 and NaN.
        score: finite numbers of the same shape.
        weight: (N,) row weights of 0 or more; none weighs all rows the same.

    Returns:
        A float for (N,), an array (C,) for (N, C).

    Raises:
        CxrError: as `check_columns` and `check_weight`.
    """
    single = np.ndim(truth) == 1
    truth, score = check_columns(truth, score)
    weights = check_weight(weight, len(truth))[None]
    values = np.full(truth.shape[1], np.nan)
    for column in range(truth.shape[1]):
        rows = known_rows(truth[:, column])
        values[column] = statistic(truth[rows, column], score[rows, column])(weights[:, rows])[0]
    return float(values[0]) if single else values


def _as_float(values: ArrayLike, what: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CxrError(f"{what} is not an array of numbers ({error})") from error


def _refuse(bad: np.ndarray, values: np.ndarray, what: str, names: Sequence[str] | None, wanted: str) -> None:
    if not bad.any():
        return
    row, column = (int(index) for index in np.argwhere(bad)[0])
    where = f"row {row}"
    if names is not None:
        where += f" of {names[column]}"
    elif values.shape[1] > 1:
        where += f" of column {column}"
    raise CxrError(f"{what} is {values[row, column]:g} at {where}; give {wanted}")
