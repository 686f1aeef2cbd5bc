"""Thresholds chosen on validation images, and what a model does at a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_sums
from cxrmonai.metrics.columns import check_columns

RULES = ("youden", "max_f1", "sensitivity", "specificity")
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
RATES = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")


def choose_thresholds(
    truth: ArrayLike, score: ArrayLike, rule: str = "youden", target: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Chooses the threshold of each finding; a score at or above it is called positive.

    Give validation images: a threshold chosen on the images it is judged on flatters the model. The candidates are the
    scores themselves.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN; a NaN leaves its row out of its column.
        score: finite numbers of the same shape, higher for more likely.
        rule: `youden`, the largest sensitivity + specificity (Youden, Cancer 1950;3:32-35); `max_f1`, the largest F1;
            `sensitivity`, the highest threshold whose sensitivity reaches `target`; `specificity`, the lowest threshold
            whose specificity does, which may lie just over all scores. Of equal candidates the highest is taken.
        target: of the last two rules, between 0 and 1.

    Returns:
        Thresholds (C,), NaN where a class is absent, and for each finding the reason of a NaN, else an empty text.

    Raises:
        CxrError: as `check_columns`, an unknown rule, or a target that is missing, not used or out of range.
    """
    check_rule(rule, target)
    truth, score = check_columns(truth, score)
    thresholds, reasons = np.full(truth.shape[1], np.nan), []
    for column in range(truth.shape[1]):
        known = ~np.isnan(truth[:, column])
        lacking = lacking_class(truth[:, column])
        reasons.append(f"no threshold: the validation set has {lacking}" if lacking else "")
        if not lacking:
            thresholds[column] = _threshold(truth[known, column], score[known, column], rule, target)
    return thresholds, reasons


def check_rule(rule: str, target: float | None) -> None:
    """Raises a `CxrError` for a rule or target that `choose_thresholds` cannot use."""
    if rule not in RULES:
        raise CxrError(f"threshold rule '{rule}': known are {', '.join(RULES)}")
    if rule in ("youden", "max_f1"):
        if target is not None:
            raise CxrError(f"threshold rule '{rule}' takes no target, but target is {target}; leave it out")
    elif target is None or not 0 < target <= 1:
        raise CxrError(f"threshold rule '{rule}' has target {target}; give a share over 0 and up to 1, such as 0.9")


def lacking_class(truth: np.ndarray) -> str:
    """Says which class one column (N,) of 0, 1 and NaN lacks, empty if none."""
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if positives and negatives:
        return ""
    if not positives and not negatives:
        return "no image with a known label"
    return "no image with the finding" if negatives else "no image without the finding"


def calls_at(score: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
    """(N, C) of 1 where the score is at or above the threshold of its column, else 0; NaN without a threshold."""
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (score.shape[1],):
        raise CxrError(f"thresholds has shape {thresholds.shape}; give one for each finding, ({score.shape[1]},)")
    return np.where(np.isnan(thresholds), np.nan, (score >= thresholds).astype(np.float64))


def call_counts(truth: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """Counts of each column in the order of `COUNTS`, (4, C), NaN without calls; truth and calls (N, C)."""
    return _indicators(truth, calls).sum(axis=0)


def call_rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Rates from counts in the order of `COUNTS`.

    Args:
        counts: (4, …) of zero or more.

    Returns:
        For each of `RATES` an array (…) of 0–1, NaN where nothing is counted below the line; F1 is NaN where no image
        has the finding.
    """
    hits, false_alarms, misses, rejections = counts
    positives, negatives = hits + misses, false_alarms + rejections
    return {
        "sensitivity": _share(hits, positives),
        "specificity": _share(rejections, negatives),
        "ppv": _share(hits, hits + false_alarms),
        "npv": _share(rejections, rejections + misses),
        "f1": np.where(positives > 0, _share(2 * hits, 2 * hits + false_alarms + misses), np.nan),
        "accuracy": _share(hits + rejections, positives + negatives),
    }


def bootstrap_call_rates(
    truth: np.ndarray,
    calls: np.ndarray,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The rates of every resample of the patients, each (resamples, C); paired with `bootstrap_samples`.

    Args:
        truth: (N, C) of 0, 1 and NaN.
        calls: (N, C) of 0 and 1, of `calls_at`; a column of NaN gives NaN.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: 0 or more.
        seed: of the draws.

    Raises:
        CxrError: groups or resamples that do not fit.
    """
    undefined = np.isnan(calls).any(axis=0)
    parts = _indicators(truth, np.where(undefined, 0.0, calls))
    sums = bootstrap_sums(parts.reshape(len(truth), -1), groups, resamples, seed)
    counts = np.moveaxis(sums.reshape(resamples, len(COUNTS), truth.shape[1]), 1, 0)
    return call_rates(np.where(undefined, np.nan, counts))


def apply_thresholds(
    truth: ArrayLike, score: ArrayLike, thresholds: Sequence[float] | np.ndarray
) -> dict[str, np.ndarray]:
    """Counts and rates of each finding at its threshold.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN; a NaN leaves its row out of its column.
        score: finite numbers of the same shape.
        thresholds: (C,); a NaN gives NaN.

    Returns:
        Arrays (C,) by the names of `COUNTS` and `RATES`.

    Raises:
        CxrError: as `check_columns`, or thresholds that do not fit.
    """
    truth, score = check_columns(truth, score)
    counts = call_counts(truth, calls_at(score, thresholds))
    return {**dict(zip(COUNTS, counts, strict=True)), **call_rates(counts)}


def _threshold(truth: np.ndarray, score: np.ndarray, rule: str, target: float | None) -> float:
    """Chooses among the distinct scores of one column that has both classes."""
    candidates = np.unique(score)[::-1]
    positive, negative = (np.sort(score[truth == label]) for label in (1, 0))
    hits = len(positive) - np.searchsorted(positive, candidates, side="left")
    false_alarms = len(negative) - np.searchsorted(negative, candidates, side="left")
    if rule == "sensitivity":
        return float(candidates[int(np.argmax(hits / len(positive) >= target))])
    if rule == "specificity":
        enough = np.flatnonzero((len(negative) - false_alarms) / len(negative) >= target)
        return float(candidates[enough[-1]]) if len(enough) else float(np.nextafter(candidates[0], np.inf))
    if rule == "youden":  # in whole numbers, so that equal candidates are equal
        return float(candidates[int(np.argmax(hits * len(negative) - false_alarms * len(positive)))])
    return float(candidates[int(np.argmax(2 * hits / (hits + false_alarms + len(positive))))])


def _indicators(truth: np.ndarray, calls: np.ndarray) -> np.ndarray:
    """(N, 4, C) of 0 and 1: what each image counts as, nothing where its truth is unknown."""
    positive, negative = (truth == 1).astype(np.float64), (truth == 0).astype(np.float64)
    return np.stack([positive * calls, negative * calls, positive * (1 - calls), negative * (1 - calls)], axis=1)


def _share(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=np.asarray(under) > 0)
