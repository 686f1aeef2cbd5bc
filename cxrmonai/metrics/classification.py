"""The summary of a multi-label classifier that the bundles write and the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_samples, number_groups, percentile_interval
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.ranking import auroc, average_precision, ranked_auroc, ranked_average_precision


def classification_summary(
    truth: ArrayLike,
    score: ArrayLike,
    class_names: Sequence[str],
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC and average precision of each finding with 95 % bootstrap intervals over patients, and their mean.

    The mean is over the findings whose AUROC is defined. Its interval takes, in each resample, the mean over the
    findings that are defined in that resample, all from the same drawn patients.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN; a NaN leaves its row out of its column.
        score: finite numbers of the same shape, higher for more likely.
        class_names: C different names.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: how many times the patients are drawn; 0 gives NaN intervals.
        seed: of the draws.

    Returns:
        Plain numbers, to be written as JSON: `mean_auroc`, `mean_auroc_ci` [low, high], `images`, `patients`, and
        `findings`, which maps each name to `auroc`, `auroc_ci`, `average_precision`, `average_precision_ci`,
        `positives` and `negatives`. NaN is a value that is not defined.

    Raises:
        CxrError: as `auroc` and `bootstrap_interval`, or names that do not fit the columns.
    """
    truth, score = check_columns(truth, score, class_names)
    if len(set(class_names)) != len(class_names):
        raise CxrError(f"class_names {list(class_names)} has a name twice; give each finding its own")
    draws = {"groups": groups, "resamples": resamples, "seed": seed}
    areas = bootstrap_samples(ranked_auroc, truth, score, **draws)
    precisions = bootstrap_samples(ranked_average_precision, truth, score, **draws)
    columns = {
        "auroc": auroc(truth, score),
        "auroc_ci": _ends(areas),
        "average_precision": average_precision(truth, score),
        "average_precision_ci": _ends(precisions),
        "positives": (truth == 1).sum(axis=0),
        "negatives": (truth == 0).sum(axis=0),
    }
    return {
        "mean_auroc": float(mean_of_defined(columns["auroc"][None])[0]),
        "mean_auroc_ci": _ends(mean_of_defined(areas)[:, None])[0].tolist(),
        "images": len(truth),
        "patients": number_groups(groups, len(truth))[1],
        "findings": {
            name: {key: values[index].tolist() for key, values in columns.items()}
            for index, name in enumerate(class_names)
        },
    }


def _ends(samples: np.ndarray) -> np.ndarray:
    return np.stack(percentile_interval(samples), axis=1)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean of each row of (N, C) over its numbers, (N,); NaN for a row that has none."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
