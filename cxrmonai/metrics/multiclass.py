"""Metrics of a model that gives each image one class of several, such as a grade of severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_samples, bootstrap_sums, number_groups, percentile_interval
from cxrmonai.metrics.ranking import auroc, ranked_auroc

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "quadratic_kappa")


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """Counts of images, (C, C) int64: the true class is the row, the predicted class the column.

    Args:
        truth: (N,) class numbers from 0 to C − 1, NaN where unknown (left out).
        predicted: (N,) class numbers from 0 to C − 1.
        classes: C.

    Raises:
        CxrError: shapes that differ, or a number that is no class.
    """
    truth = check_classes(truth, classes)
    predicted = check_classes(predicted, classes, "predicted")
    if truth.shape != predicted.shape:
        raise CxrError(f"truth has shape {truth.shape} and predicted {predicted.shape}; give both the same shape")
    if np.isnan(predicted).any():
        raise CxrError(f"predicted has no class at row {int(np.isnan(predicted).argmax())}; give one for each image")
    return _cells(truth, predicted, classes).sum(axis=0).reshape(classes, classes).astype(np.int64)


def confusion_measures(matrix: ArrayLike) -> dict[str, np.ndarray]:
    """Measures of confusion matrices.

    Args:
        matrix: (…, C, C) counts of zero or more, the true class in the row.

    Returns:
        Arrays (…) by the names of `MEASURES`, NaN where not defined:
        `accuracy`; `balanced_accuracy`, the mean recall over the classes that occur; `macro_f1`, the mean F1 over the
        classes that occur or are predicted; `quadratic_kappa`, Cohen's kappa with quadratic weights (Cohen,
        Psychological Bulletin 1968;70:213-220), which has a meaning only where the classes are ordered.

    Raises:
        CxrError: another shape.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise CxrError(f"matrix has shape {matrix.shape}; give (classes, classes)")
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, called = matrix.sum(axis=-1), matrix.sum(axis=-2)
    total = true.sum(axis=-1)
    place = np.arange(matrix.shape[-1])
    distance = (place[:, None] - place[None, :]) ** 2
    by_chance = (true[..., :, None] * called[..., None, :] * distance).sum(axis=(-2, -1))
    disagreement = _share((matrix * distance).sum(axis=(-2, -1)) * total, by_chance)
    return {
        "accuracy": _share(hits.sum(axis=-1), total),
        "balanced_accuracy": _mean_of_defined(_share(hits, true)),
        "macro_f1": _mean_of_defined(_share(2 * hits, true + called)),
        "quadratic_kappa": 1 - disagreement,
    }


def one_hot(truth: ArrayLike, classes: int) -> np.ndarray:
    """(N, C) of 0 and 1 from class numbers (N,), a row of NaN where unknown."""
    truth = check_classes(truth, classes)
    return np.where(np.isnan(truth)[:, None], np.nan, (truth[:, None] == np.arange(classes)).astype(np.float64))


def class_numbers(truth: ArrayLike, classes: int) -> np.ndarray:
    """(N,) class numbers from (N,) class numbers or (N, C) of 0 and 1 with one 1 a row; NaN where unknown.

    Raises:
        CxrError: another shape, a number that is no class, or a row that is neither one class nor all unknown.
    """
    truth = np.asarray(truth, dtype=np.float64)
    if truth.ndim == 1:
        return check_classes(truth, classes)
    if truth.ndim != 2 or truth.shape[1] != classes:
        raise CxrError(f"truth has shape {truth.shape}; give (images,) or (images, {classes})")
    unknown = np.isnan(truth).all(axis=1)
    bad = ~unknown & ~(np.isin(truth, (0, 1)).all(axis=1) & (truth.sum(axis=1) == 1))
    if bad.any():
        raise CxrError(f"truth at row {int(bad.argmax())} is not one class; give a single 1 and zeros, or all NaN")
    return np.where(unknown, np.nan, np.nan_to_num(truth).argmax(axis=1))


def mean_auroc(targets: np.ndarray, scores: np.ndarray, task: str = "multilabel") -> float:
    """Mean AUROC over the classes that have images of both kinds, each against the rest; NaN where none has.

    Args:
        targets: (N, C) of 0, 1 and NaN (unknown), or (N, 1) class numbers for `multiclass`.
        scores: (N, C) finite; for `multiclass` comparable between images, such as probabilities.
        task: `multilabel` or `multiclass`.
    """
    if task == "multiclass":
        targets = one_hot(class_numbers(targets[:, 0], scores.shape[1]), scores.shape[1])
    areas = np.atleast_1d(auroc(targets, scores))
    known = areas[~np.isnan(areas)]
    return float(known.mean()) if len(known) else float("nan")


def check_classes(values: ArrayLike, classes: int, what: str = "truth") -> np.ndarray:
    """Returns class numbers as float64 (N,), NaN where unknown.

    Raises:
        CxrError: another shape, or a number that is no class.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise CxrError(f"{what} has shape {values.shape}; give (images,) of class numbers")
    bad = ~(np.isnan(values) | np.isin(values, np.arange(classes)))
    if bad.any():
        row = int(bad.argmax())
        raise CxrError(
            f"{what} is {values[row]:g} at row {row}; give a class from 0 to {classes - 1}, or NaN (unknown)"
        )
    return values


def multiclass_summary(
    truth: ArrayLike,
    probability: ArrayLike,
    class_names: Sequence[str],
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    ordered: bool = False,
) -> dict[str, Any]:
    """Measures of a multi-class model with 95 % bootstrap intervals over patients.

    The predicted class is the most probable one, the first of equals.

    Args:
        truth: (N,) class numbers or (N, C) of 0 and 1, NaN where unknown (left out).
        probability: (N, C) finite numbers.
        class_names: C different names.
        groups: (N,) patient of each row; none makes each row its own patient.
        resamples: how many times the patients are drawn; 0 gives NaN intervals.
        seed: of the draws.
        ordered: whether the classes are grades, for which `quadratic_kappa` is given.

    Returns:
        Plain numbers: `classes`, `images`, `patients` (with a known class), `confusion` (rows are true classes),
        `accuracy`, `balanced_accuracy`, `macro_f1`, `mean_auroc` (one against the rest, over the classes for which it
        is defined), where `ordered` also `quadratic_kappa`, each with its `…_ci` [low, high].

    Raises:
        CxrError: arrays, names or groups that do not fit.
    """
    probability = np.asarray(probability, dtype=np.float64)
    classes = len(class_names)
    truth = class_numbers(truth, classes)
    if probability.shape != (len(truth), classes):
        raise CxrError(f"probability has shape {probability.shape}; give (images, classes), ({len(truth)}, {classes})")
    against = one_hot(truth, classes)
    predicted = probability.argmax(axis=1) if len(truth) else np.zeros(0)
    draws = {"groups": groups, "resamples": resamples, "seed": seed}
    matrix = confusion_matrix(truth, predicted, classes)
    cells = bootstrap_sums(_cells(truth, predicted, classes), **draws).reshape(resamples, classes, classes)
    areas = _mean_of_defined(bootstrap_samples(ranked_auroc, against, probability, **draws))
    values = {**confusion_measures(matrix), "mean_auroc": _mean_of_defined(auroc(against, probability))}
    samples = {**confusion_measures(cells), "mean_auroc": areas}
    known = ~np.isnan(truth)
    patients = number_groups(groups, len(truth))[0][known]
    summary: dict[str, Any] = {
        "classes": list(class_names),
        "images": int(known.sum()),
        "patients": len(np.unique(patients)),
        "confusion": matrix.tolist(),
    }
    for name in ("mean_auroc", *MEASURES):
        if name != "quadratic_kappa" or ordered:
            summary[name] = float(values[name])
            summary[f"{name}_ci"] = [float(end[0]) for end in percentile_interval(samples[name][:, None])]
    return summary


def _cells(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(N, C × C) of 0 and 1: the cell of the confusion matrix that each image counts in."""
    known = np.flatnonzero(~np.isnan(truth))
    cells = np.zeros((len(truth), classes * classes))
    cells[known, (truth[known] * classes + predicted[known]).astype(int)] = 1
    return cells


def _share(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=np.asarray(under) > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN, NaN where there is none."""
    defined = ~np.isnan(values)
    return _share(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))
