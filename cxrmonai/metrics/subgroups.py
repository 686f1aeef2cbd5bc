"""How a model does for women and men, for age bands and for views, and how far the groups are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_samples, number_groups, percentile_interval
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.operating_points import bootstrap_call_rates, call_counts, call_rates
from cxrmonai.metrics.ranking import auroc, ranked_auroc

AGE_BANDS = ("0-17", "18-39", "40-59", "60-79", "80+")
ENOUGH = 10
"""Images of either class that a group needs to take part in the gap."""

_MEASURES = ("auroc", "sensitivity", "specificity")


def age_bands(age: ArrayLike) -> np.ndarray:
    """The band of each age in years: `0-17`, `18-39`, `40-59`, `60-79` or `80+`; empty where it is NaN.

    Raises:
        CxrError: a negative or infinite age, or a shape other than (N,).
    """
    age = np.asarray(age, dtype=np.float64)
    if age.ndim != 1 or (age < 0).any() or np.isinf(age).any():
        raise CxrError("age holds a negative or infinite number or is no list; give years, 0 or more, or NaN (unknown)")
    names = np.array([*AGE_BANDS, ""])
    return names[np.where(np.isnan(age), len(AGE_BANDS), np.searchsorted([18, 40, 60, 80], age, side="right"))]


def subgroup_summary(
    truth: ArrayLike,
    score: ArrayLike,
    class_names: Sequence[str],
    labels: ArrayLike,
    calls: np.ndarray | None = None,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC, sensitivity and specificity in each group of one attribute, and the gap between groups.

    The gap of a finding is the highest minus the lowest value over the groups with at least `ENOUGH` (10) images with
    and without the finding. Its interval is that of the difference between those two groups, both from the same drawn
    patients; as the two were picked for being furthest apart, it leans away from zero.

    Args:
        truth: (N, C) of 0, 1 and NaN.
        score: finite numbers of the same shape.
        class_names: C different names.
        labels: (N,) group of each image as text; empty or missing is unknown and belongs to no group.
        calls: (N, C) of 0, 1 and NaN, of `operating_points.calls_at`; none leaves sensitivity and specificity out.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: how many times the patients are drawn; 0 gives NaN intervals.
        seed: of the draws.

    Returns:
        `unknown` (images), `minimum` (10); `groups`: for each label `images`, `patients` and `findings`, which maps
        each name to `positives`, `negatives` and `auroc`, `sensitivity`, `specificity`, each with its `…_ci`; and
        `gaps`: for each name and measure `gap`, `gap_ci`, `highest` and `lowest` (labels), and `reason`, which says why
        there is none and is empty else.

    Raises:
        CxrError: arrays that do not fit.
    """
    truth, score = check_columns(truth, score, class_names)
    labels = _as_text(labels, len(truth))
    draws = {"groups": groups, "resamples": resamples, "seed": seed}
    patient = number_groups(groups, len(truth))[0]
    names = _in_order(labels)
    values, samples, counts = {}, {}, {}
    for name in names:
        inside = np.where((labels == name)[:, None], truth, np.nan)
        counts[name] = (inside == 1).sum(axis=0), (inside == 0).sum(axis=0)
        values[name] = {"auroc": auroc(inside, score)}
        samples[name] = {"auroc": bootstrap_samples(ranked_auroc, inside, score, **draws)}
        if calls is not None:
            values[name] |= call_rates(call_counts(inside, calls))
            samples[name] |= bootstrap_call_rates(inside, calls, **draws)
    measures = _MEASURES if calls is not None else _MEASURES[:1]
    return {
        "unknown": int((labels == "").sum()),
        "minimum": ENOUGH,
        "groups": {
            name: {
                "images": int((labels == name).sum()),
                "patients": len(np.unique(patient[labels == name])),
                "findings": _findings(class_names, counts[name], values[name], samples[name], measures),
            }
            for name in names
        },
        "gaps": {
            finding: {key: _gap(key, column, names, counts, values, samples) for key in measures}
            for column, finding in enumerate(class_names)
        },
    }


def _findings(
    class_names: Sequence[str],
    counts: tuple[np.ndarray, np.ndarray],
    values: dict[str, np.ndarray],
    samples: dict[str, np.ndarray],
    measures: Sequence[str],
) -> dict[str, dict[str, Any]]:
    ends = {key: percentile_interval(samples[key]) for key in measures}
    return {
        finding: {
            "positives": int(counts[0][column]),
            "negatives": int(counts[1][column]),
            **{key: float(values[key][column]) for key in measures},
            **{f"{key}_ci": [float(end[column]) for end in ends[key]] for key in measures},
        }
        for column, finding in enumerate(class_names)
    }


def _gap(
    key: str,
    column: int,
    names: Sequence[str],
    counts: dict[str, tuple[np.ndarray, np.ndarray]],
    values: dict[str, dict[str, np.ndarray]],
    samples: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
    enough = [name for name in names if min(counts[name][0][column], counts[name][1][column]) >= ENOUGH]
    undefined = {"gap": np.nan, "gap_ci": [np.nan, np.nan], "highest": "", "lowest": ""}
    if len(enough) < 2:
        return {**undefined, "reason": f"fewer than two groups have {ENOUGH} images with and {ENOUGH} without it"}
    if any(np.isnan(values[name][key][column]) for name in enough):
        return {**undefined, "reason": "no threshold"}
    highest = max(enough, key=lambda name: values[name][key][column])
    lowest = min(enough, key=lambda name: values[name][key][column])
    difference = samples[highest][key][:, [column]] - samples[lowest][key][:, [column]]
    return {
        "gap": float(values[highest][key][column] - values[lowest][key][column]),
        "gap_ci": [float(end[0]) for end in percentile_interval(difference)],
        "highest": highest,
        "lowest": lowest,
        "reason": "",
    }


def _as_text(labels: ArrayLike, rows: int) -> np.ndarray:
    labels = np.asarray(labels, dtype=object)
    if labels.shape != (rows,):
        raise CxrError(f"labels has shape {labels.shape}; give one group for each image, ({rows},)")
    return np.where(pd.isna(labels), "", labels.astype(str))


def _in_order(labels: np.ndarray) -> list[str]:
    """Age bands by age, other labels by name; without the unknown."""
    names = [str(name) for name in np.unique(labels) if name]
    return sorted(names, key=lambda name: (AGE_BANDS.index(name) if name in AGE_BANDS else len(AGE_BANDS), name))
