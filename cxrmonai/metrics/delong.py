"""Variance of the AUROC and the paired test of two models, by DeLong's structural components."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.columns import check_columns


class PairedTest(NamedTuple):
    """What `delong_test` finds; NaN is a number that is not defined, and `reason` then says why.

    Attributes:
        first: AUROC of the first model, 0–1.
        second: AUROC of the second model, 0–1.
        difference: second minus first.
        low: lower end of the interval of the difference.
        high: upper end.
        z: the difference over its standard error.
        p: two-sided, 0–1.
        positives: images with the finding.
        negatives: images without it.
        reason: empty where all is defined.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    z: float
    p: float
    positives: int
    negatives: int
    reason: str = ""


def delong_covariance(truth: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of M models on the same images and the covariance of these AUROC.

    The structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837-845), from mid-ranks in
    O(N log N) a model (Sun and Xu, IEEE Signal Processing Letters 2014;21:1389-1393).

    The images are taken as independent. Where patients have several images, the variance is too small; resample
    patients instead (`bootstrap_samples`).

    Args:
        truth: (N,) of 0, 1 and NaN; a NaN leaves its row out.
        scores: (N, M), or (N,) for one model, of finite numbers, higher for more likely.

    Returns:
        AUROC (M,), NaN where the known rows have one class or none, and covariance (M, M), NaN where either class has
        fewer than two rows.

    Raises:
        CxrError: shapes that do not fit, a truth other than 0, 1 and NaN, a score that is not finite.
    """
    over_positives, over_negatives = _components(truth, scores)
    defined = over_positives.size and over_negatives.size
    areas = over_positives.mean(axis=1) if defined else np.full(len(over_positives), np.nan)
    covariance = _covariance_of_mean(over_positives) + _covariance_of_mean(over_negatives)
    return areas, covariance


def delong_test(truth: ArrayLike, first: ArrayLike, second: ArrayLike, level: float = 0.95) -> PairedTest:
    """Tests whether two models have the same AUROC on the same images, two-sided (DeLong et al., 1988).

    The images are taken as independent: with several images a patient p is too small and the interval too narrow, and
    the paired bootstrap over patients is the one to trust (`compare_models` gives both).

    Args:
        truth: (N,) of 0, 1 and NaN; a NaN leaves its row out.
        first: (N,) finite scores of the first model, higher for more likely.
        second: (N,) of the second model.
        level: of the interval of the difference, between 0 and 1.

    Raises:
        CxrError: as `delong_covariance`, or a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise CxrError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1:
        raise CxrError(f"scores have shapes {first.shape} and {second.shape}; give (images,) for both models")
    over_positives, over_negatives = _components(truth, np.stack([first, second], axis=1))
    positives, negatives = over_positives.shape[1], over_negatives.shape[1]
    if not positives or not negatives:
        lacking = "no image has" if not positives else "every image has"
        return PairedTest(*[math.nan] * 7, positives, negatives, f"{lacking} the finding, so that AUROC is not defined")
    areas = over_positives.mean(axis=1)
    difference = float(areas[1] - areas[0])
    found = (float(areas[0]), float(areas[1]), difference)
    if min(positives, negatives) < 2:
        few = "fewer than two images with or without the finding, so that there is no variance"
        return PairedTest(*found, *[math.nan] * 4, positives, negatives, few)
    variance = float(sum(_covariance_of_mean(np.diff(part, axis=0))[0, 0] for part in (over_positives, over_negatives)))
    if variance == 0:
        if difference == 0:
            return PairedTest(*found, 0.0, 0.0, 0.0, 1.0, positives, negatives)
        flat = "both models rank every pair alike, so that the difference has no variance"
        return PairedTest(*found, *[math.nan] * 4, positives, negatives, flat)
    error = math.sqrt(variance)
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    z = difference / error
    p = math.erfc(abs(z) / math.sqrt(2))
    return PairedTest(*found, difference - reach, difference + reach, z, p, positives, negatives)


def _components(truth: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other class that each positive beats (M, P), and that beats each negative (M, Q); ties count half.

    Both are empty where a class is absent.
    """
    scores = np.asarray(scores)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if np.ndim(truth) != 1 or scores.ndim != 2 or not scores.shape[1]:
        shapes = f"truth has shape {np.shape(truth)} and scores {scores.shape}"
        raise CxrError(f"{shapes}; give (images,) and (images, models)")
    repeated = np.repeat(np.asarray(truth)[:, None], scores.shape[1], axis=1)
    checked, scores = check_columns(repeated, scores)
    truth = checked[:, 0]
    positive, negative = scores[truth == 1].T, scores[truth == 0].T
    if not positive.size or not negative.size:
        return np.zeros_like(positive), np.zeros_like(negative)
    together = _midranks(np.concatenate([positive, negative], axis=1))
    count = positive.shape[1]
    wins = (together[:, :count] - _midranks(positive)) / negative.shape[1]
    losses = 1 - (together[:, count:] - _midranks(negative)) / count
    return wins, losses


def _midranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each score in its row, from 1, the mean rank where they tie."""
    ranks = np.empty_like(scores)
    for row, values in enumerate(scores):
        ordered = np.sort(values)
        below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
        ranks[row] = (below + upto + 1) / 2
    return ranks


def _covariance_of_mean(parts: np.ndarray) -> np.ndarray:
    """Covariance (M, M) of the row means of (M, n); exactly zero for rows that are constant."""
    count = parts.shape[1]
    if count < 2:
        return np.full((len(parts), len(parts)), np.nan)
    centred = parts - parts[:, :1]
    centred -= centred.mean(axis=1, keepdims=True)
    return centred @ centred.T / (count - 1) / count
