"""Metrics that depend on the order of the scores alone: AUROC, average precision, and their curves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.columns import WeightedStatistic, check_columns, check_weight, evaluate_columns, known_rows


def auroc(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float | np.ndarray:
    """Area under the receiver operating characteristic curve.

    It is the chance that a positive scores higher than a negative, a tie counted as half (Hanley and McNeil, Radiology
    1982;143:29-36), here with each row counted `weight` times.

    Args:
        truth: (N,) or (N, C) of 0, 1 and NaN; a NaN leaves its row out of its column.
        score: finite numbers of the same shape, higher for more likely.
        weight: (N,) row weights of 0 or more; none weighs all rows the same.

    Returns:
        0 to 1: a float for (N,), an array (C,) for (N, C). NaN where the known rows have one class or none.

    Raises:
        CxrError: shapes that differ, a truth other than 0, 1 and NaN, a score or weight that is not usable.
    """
    return evaluate_columns(ranked_auroc, truth, score, weight)


def average_precision(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float | np.ndarray:
    """Average precision: the precision at each threshold, weighted by the rise in recall there, without interpolation.

    Takes, returns and raises as `auroc`; chance level is the prevalence (Davis and Goadrich, ICML 2006, on why the
    precision-recall curve must not be interpolated linearly).
    """
    return evaluate_columns(ranked_average_precision, truth, score, weight)


def ranked_auroc(truth: np.ndarray, score: np.ndarray) -> WeightedStatistic:
    """Sorts one column, truth (n,) of 0 and 1 and score (n,), and returns its AUROC as a function of weights (B, n)."""
    ranks = _Ranks(truth, score)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        positives = weights[:, ranks.positive]
        below = _running_sum(weights[:, ranks.negative])
        wins = below[:, ranks.negatives_below] + below[:, ranks.negatives_upto]
        pairs = positives.sum(axis=1) * below[:, -1]
        return _divide(np.einsum("bp,bp->b", positives, wins) / 2, pairs)

    return evaluate


def ranked_average_precision(truth: np.ndarray, score: np.ndarray) -> WeightedStatistic:
    """Sorts one column, truth (n,) of 0 and 1 and score (n,), and returns its AP as a function of weights (B, n)."""
    ranks = _Ranks(truth, score)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        positives = weights[:, ranks.positive]
        true_below, false_below = _running_sum(positives), _running_sum(weights[:, ranks.negative])
        true_above = true_below[:, -1:] - true_below[:, ranks.positives_below]
        false_above = false_below[:, -1:] - false_below[:, ranks.negatives_below]
        precision = _divide(true_above, true_above + false_above, otherwise=0.0)
        total = np.where(false_below[:, -1] > 0, true_below[:, -1], 0.0)
        return _divide(np.einsum("bp,bp->b", positives, precision), total)

    return evaluate


def roc_points(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC curve of one column as false positive rate (T + 1,) and true positive rate (T + 1,).

    Both rise from 0 to 1 over the T distinct scores, from the highest down; NaN for a class that is absent. Takes and
    raises as `auroc`, for one column (N,).
    """
    true_above, false_above = _counts_above(truth, score, weight)
    return _divide(false_above, false_above[-1]), _divide(true_above, true_above[-1])


def precision_recall_points(
    truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the precision-recall curve of one column as recall (T + 1,) and precision (T + 1,).

    Recall rises from 0 to 1 over the T distinct scores, from the highest down; it starts at precision 1 by convention.
    Average precision is the area of the steps that end at each point. Takes and raises as `auroc`, for one column (N,).
    """
    true_above, false_above = _counts_above(truth, score, weight)
    precision = _divide(true_above, true_above + false_above, otherwise=1.0)
    return _divide(true_above, true_above[-1]), precision


class _Ranks:
    """The order of one column: who is positive, and how many rows of each class lie under each positive."""

    def __init__(self, truth: np.ndarray, score: np.ndarray) -> None:
        self.positive, positive_score = _sorted_rows(truth == 1, score)
        self.negative, negative_score = _sorted_rows(truth == 0, score)
        self.positives_below = np.searchsorted(positive_score, positive_score, side="left")
        self.negatives_below = np.searchsorted(negative_score, positive_score, side="left")
        self.negatives_upto = np.searchsorted(negative_score, positive_score, side="right")


def _sorted_rows(chosen: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(score[rows], kind="stable")]
    return rows, score[rows]


def _running_sum(weights: np.ndarray) -> np.ndarray:
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _counts_above(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    truth, score = check_columns(truth, score)
    if truth.shape[1] != 1:
        raise CxrError(f"truth has shape {truth.shape}; a curve is drawn for one column (images,)")
    rows = known_rows(truth[:, 0])
    truth, score, weight = truth[rows, 0], score[rows, 0], check_weight(weight, len(truth))[rows]
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1) if len(order) else order
    true_above = np.cumsum(weight[order] * truth[order])[last_of_score]
    false_above = np.cumsum(weight[order] * (1 - truth[order]))[last_of_score]
    return np.append(0.0, true_above), np.append(0.0, false_above)


def _divide(over: np.ndarray, under: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), otherwise), where=np.asarray(under) > 0)
