"""Two models on the same images: DeLong's test of each finding, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_samples, percentile_interval
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.delong import delong_test
from cxrmonai.metrics.ranking import ranked_auroc


def compare_models(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    class_names: Sequence[str],
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Differences of AUROC between two models, finding by finding.

    DeLong's test takes images as independent. With several images a patient, trust the interval by patient: a
    percentile bootstrap in which both models see the same drawn patients.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN.
        first: finite scores of the first model, same shape.
        second: of the second model.
        class_names: C names.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: of the patients; 0 gives NaN intervals by patient.
        seed: of the draws.

    Returns:
        For each name the fields of `delong.PairedTest`, `p_holm` (corrected over the findings that have a p, see
        `holm`), and `low_by_patient` and `high_by_patient`.

    Raises:
        CxrError: arrays, names or groups that do not fit.
    """
    truth, first = check_columns(truth, first, class_names)
    truth, second = check_columns(truth, np.reshape(second, (-1, 1)) if np.ndim(second) == 1 else second, class_names)
    draws = {"groups": groups, "resamples": resamples, "seed": seed}
    samples = [bootstrap_samples(ranked_auroc, truth, score, **draws) for score in (first, second)]
    ends = np.stack(percentile_interval(samples[1] - samples[0]), axis=1)
    tests = [delong_test(*columns) for columns in zip(truth.T, first.T, second.T, strict=True)]
    corrected = holm([test.p for test in tests])
    return {
        name: {
            **test._asdict(),
            "p_holm": float(corrected[index]),
            "low_by_patient": float(ends[index, 0]),
            "high_by_patient": float(ends[index, 1]),
        }
        for index, (name, test) in enumerate(zip(class_names, tests, strict=True))
    }


def holm(p: ArrayLike) -> np.ndarray:
    """Corrects p values for their number (Holm, Scandinavian Journal of Statistics 1979;6:65-70).

    Args:
        p: (K,) of 0–1, NaN where there is none, which neither counts nor is corrected.

    Returns:
        (K,) corrected p, at most 1: a finding with one below 0.05 differs at a family-wise error of 5 %.

    Raises:
        CxrError: another shape, or a p outside 0–1.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise CxrError(f"p has shape {p.shape}; give (tests,) of numbers from 0 to 1")
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    steps = np.minimum(1.0, p[order] * np.arange(len(order), 0, -1))
    corrected[order] = np.maximum.accumulate(steps)
    return corrected
