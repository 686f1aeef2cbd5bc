"""What labels are worth: AUROC against the fraction of the labels that a model was given, over several draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_samples, percentile_interval
from cxrmonai.metrics.classification import mean_of_defined
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.ranking import auroc, ranked_auroc

MEAN = "mean"  # the row of the mean over the findings


@dataclass(frozen=True, eq=False)
class FractionRun:
    """A model that was given some of the labels, and what it says of the images under test.

    Attributes:
        encoder: what it started from, such as `pretrained`.
        fraction: of the labelled patients, above 0 and at most 1.
        draw: number of the draw.
        patients: that it learned from.
        images: that it learned from.
        probability: (N, C) for the images under test.
    """

    encoder: str
    fraction: float
    draw: int
    patients: int
    images: int
    probability: np.ndarray


def label_efficiency(
    runs: Sequence[FractionRun],
    truth: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """AUROC by encoder and fraction: the mean over the draws, with a 95 % bootstrap interval of that mean.

    This follows MoCo-CXR (Sowrirajan et al., MIDL 2021): several random draws of each fraction, and test patients drawn
    with replacement for the interval. All runs see the same resamples, so that the gain of one encoder over another is
    paired. The interval speaks of the test patients; how much the draw matters is told by `sd`, `lowest` and `highest`.

    Args:
        runs: of each encoder and fraction one or several draws.
        truth: (N, C) of 0, 1 and NaN, of the images under test.
        class_names: (C,).
        groups: (N,) patient of each image; none makes each image its own.
        resamples: how many times the patients are drawn.
        seed: of the draws of patients.

    Returns:
        `fractions`, a row for each encoder, fraction and finding (and `mean`, over the findings that are defined):
        `encoder`, `fraction`, `finding`, `draws`, `patients` and `images` (means over the draws), `auroc`, `low`,
        `high`, `sd` (over the draws; NaN for one), `lowest`, `highest`; and `gains`, for the first encoder against each
        other at fractions that both have: `encoder`, `against`, `fraction`, `finding`, `gain`, `low`, `high`.

    Raises:
        CxrError: no run, or arrays that do not fit.
    """
    if not runs:
        raise CxrError("there is no run to compare; give a fraction of the labels")
    names = [MEAN, *class_names]
    points: dict[tuple[str, float], list[tuple[FractionRun, np.ndarray, np.ndarray]]] = {}
    for run in runs:
        known, score = check_columns(truth, run.probability, class_names)
        samples = bootstrap_samples(ranked_auroc, known, score, groups, resamples, seed)
        value = _with_mean(auroc(known, score)[None])[0]
        points.setdefault((run.encoder, run.fraction), []).append((run, value, _with_mean(samples)))
    rows, means = [], {}
    for (encoder, fraction), group in points.items():
        values = np.stack([value for _, value, _ in group])
        means[encoder, fraction] = values.mean(axis=0), np.mean([samples for _, _, samples in group], axis=0)
        low, high = percentile_interval(means[encoder, fraction][1])
        spread = values.std(axis=0, ddof=1) if len(group) > 1 else np.full(len(names), np.nan)
        for k, name in enumerate(names):
            rows.append(
                {
                    "encoder": encoder,
                    "fraction": fraction,
                    "finding": name,
                    "draws": len(group),
                    "patients": float(np.mean([run.patients for run, _, _ in group])),
                    "images": float(np.mean([run.images for run, _, _ in group])),
                    "auroc": float(values[:, k].mean()),
                    "low": float(low[k]),
                    "high": float(high[k]),
                    "sd": float(spread[k]),
                    "lowest": float(values[:, k].min()),
                    "highest": float(values[:, k].max()),
                }
            )
    return {"fractions": rows, "gains": _gains(means, names)}


def _gains(means: dict[tuple[str, float], tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> list[dict[str, Any]]:
    encoders = list(dict.fromkeys(encoder for encoder, _ in means))
    rows = []
    for other in encoders[1:]:
        for encoder, fraction in means:
            if encoder != encoders[0] or (other, fraction) not in means:
                continue
            (value, samples), (other_value, other_samples) = means[encoder, fraction], means[other, fraction]
            low, high = percentile_interval(samples - other_samples)
            for k, name in enumerate(names):
                gain = {"gain": float(value[k] - other_value[k]), "low": float(low[k]), "high": float(high[k])}
                rows.append({"encoder": encoder, "against": other, "fraction": fraction, "finding": name, **gain})
    return rows


def _with_mean(values: np.ndarray) -> np.ndarray:
    return np.column_stack([mean_of_defined(values), values])
