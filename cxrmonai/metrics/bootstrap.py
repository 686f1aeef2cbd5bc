"""Confidence intervals by resampling patients with replacement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.columns import StatisticFactory, check_columns, known_rows
from cxrmonai.metrics.ranking import ranked_auroc, ranked_average_precision

_BLOCK_ELEMENTS = 250_000


class Interval(NamedTuple):
    """The two ends of an interval: floats for one column, arrays (C,) for several; NaN where it is not defined."""

    low: float | np.ndarray
    high: float | np.ndarray


def bootstrap_auroc(
    truth: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of the AUROC; see `bootstrap_interval`."""
    return bootstrap_interval(ranked_auroc, truth, score, groups, resamples, seed, level)


def bootstrap_average_precision(
    truth: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of the average precision; see `bootstrap_interval`."""
    return bootstrap_interval(ranked_average_precision, truth, score, groups, resamples, seed, level)


def bootstrap_interval(
    statistic: StatisticFactory,
    truth: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic over patients.

    Images of one patient resemble each other, so that whole patients are drawn, not images (the percentile interval of
    Efron, Annals of Statistics 1979;7:1-26, on clusters).

    Args:
        statistic: for example `ranked_auroc`.
        truth: (N,) or (N, C) of 0, 1 and NaN; a NaN leaves its row out of its column.
        score: finite numbers of the same shape, higher for more likely.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: how many times the patients are drawn, 0 or more.
        seed: the same seed and groups draw the same patients.
        level: the share of resamples inside the interval, between 0 and 1.

    Returns:
        Low and high ends: floats for (N,), arrays (C,) for (N, C). NaN where more than half of the resamples lack a
        class, and where there are fewer than two patients.

    Raises:
        CxrError: as `check_columns`, or `groups`, `resamples` or `level` that do not fit.
    """
    samples = bootstrap_samples(statistic, truth, score, groups, resamples, seed)
    low, high = percentile_interval(samples, level)
    return Interval(float(low[0]), float(high[0])) if np.ndim(truth) == 1 else Interval(low, high)


def bootstrap_samples(
    statistic: StatisticFactory,
    truth: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Returns the statistic of every resample and column, (resamples, C), NaN where a resample lacks a class.

    All columns of one resample use the same drawn patients, and so do two calls with the same groups, resamples and
    seed: differences between columns, or between two models, are paired. Takes and raises as `bootstrap_interval`.
    """
    truth, score = check_columns(truth, score)
    patient, patients = number_groups(groups, len(truth))
    if resamples < 0:
        raise CxrError(f"resamples is {resamples}; give 0 or more")
    samples = np.full((resamples, truth.shape[1]), np.nan)
    if patients < 2:
        return samples
    rows = [known_rows(column) for column in truth.T]
    columns = [statistic(truth[known, c], score[known, c]) for c, known in enumerate(rows)]
    start = 0
    for counts in _count_blocks(patients, resamples, seed, max(len(truth), patients)):
        weights = np.take(counts, patient, axis=1)
        block = slice(start, start + len(counts))
        for c, (known, evaluate) in enumerate(zip(rows, columns, strict=True)):
            samples[block, c] = evaluate(weights[:, known])
        start += len(counts)
    return samples


def bootstrap_sums(
    values: ArrayLike, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Returns the sum over the drawn images of each column, (resamples, K), for statistics made of counts.

    The patients drawn are those of `bootstrap_samples` with the same groups, resamples and seed. Each resample is one
    product of patient counts with sums by patient, so that hundreds of columns cost little.

    Args:
        values: (N, K) finite numbers, such as 1 for a true positive and 0 otherwise.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: how many times the patients are drawn, 0 or more.
        seed: of the draws.

    Returns:
        (resamples, K) float64, NaN where there are fewer than two patients.

    Raises:
        CxrError: `values` that are not (N, K), or `groups` or `resamples` that do not fit.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise CxrError(f"values has shape {values.shape}; give (images, columns)")
    patient, patients = number_groups(groups, len(values))
    if resamples < 0:
        raise CxrError(f"resamples is {resamples}; give 0 or more")
    sums = np.full((resamples, values.shape[1]), np.nan)
    if patients < 2:
        return sums
    by_patient = np.zeros((patients, values.shape[1]))
    for column, weights in enumerate(values.T):
        by_patient[:, column] = np.bincount(patient, weights=weights, minlength=patients)
    start = 0
    for counts in _count_blocks(patients, resamples, seed, patients):
        sums[start : start + len(counts)] = counts @ by_patient
        start += len(counts)
    return sums


def patient_counts(patients: int, resamples: int, seed: int) -> np.ndarray:
    """Returns how often each patient is drawn in each resample, float64 (resamples, patients); rows sum to `patients`.

    These are the multinomial counts that `bootstrap_samples` uses, patients in the sorted order of their identifiers.
    """
    return np.concatenate([np.zeros((0, patients)), *_count_blocks(patients, resamples, seed, patients)])


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval of each column of `samples` (R, C), NaN left out: two arrays (C,).

    NaN for a column of which more than half of the samples are NaN, or that has none.

    Raises:
        CxrError: a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise CxrError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    ends = np.full((2, samples.shape[1]), np.nan)
    tail = (1 - level) / 2
    for column, values in enumerate(samples.T):
        defined = values[~np.isnan(values)]
        if len(defined) and 2 * len(defined) >= len(values):
            ends[:, column] = np.quantile(defined, [tail, 1 - tail])
    return Interval(ends[0], ends[1])


def number_groups(groups: ArrayLike | None, rows: int) -> tuple[np.ndarray, int]:
    """Numbers the patients: the patient of each row, (N,) of 0 to M - 1 in sorted order, and M.

    Args:
        groups: (N,) identifiers, numbers or text; none makes each row its own patient.
        rows: N.

    Raises:
        CxrError: a shape other than (N,), or a missing identifier.
    """
    if groups is None:
        return np.arange(rows), rows
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise CxrError(f"groups has shape {groups.shape}; give one patient for each row, ({rows},)")
    missing = pd.isna(groups)
    if missing.any():
        raise CxrError(f"groups has no patient at row {int(missing.argmax())}; give one for each row")
    if groups.dtype == object:
        groups = groups.astype(str)
    names, patient = np.unique(groups, return_inverse=True)
    return patient, len(names)


def _count_blocks(patients: int, resamples: int, seed: int, width: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    size = max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, resamples, size):
        block = min(size, resamples - start)
        drawn = random.integers(patients, size=(block, patients))
        drawn += np.arange(block)[:, None] * patients
        yield np.bincount(drawn.ravel(), minlength=block * patients).reshape(block, patients).astype(np.float64)
