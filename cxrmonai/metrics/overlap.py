"""Overlap of predicted and drawn masks, from pixel counts of each image and class.

Definitions of the mean IoU are those of CheXlocalize (Saporta et al., Nature Machine Intelligence 2022) and CheXseg
(Gadgil et al., 2021):

- `dice`, `miou`: of each image, averaged over the images where prediction or truth is not empty (CheXlocalize's eval.py
  with `--true_pos_only False`); an image where nothing is and nothing was found does not count, a false alarm counts 0.
- `miou_positive`: averaged over the images where the truth is not empty, as some versions of eval.py have it with
  `--true_pos_only False`: a miss counts 0, a false alarm does not count.
- `miou_true_positive`: averaged over the images where neither is empty (`--true_pos_only True`, its default), so that
  predicting nothing is not punished.
- `miou_pooled`: intersection over union of the pixels of all images together, as CheXseg reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_sums, number_groups, percentile_interval

Masks = TypeVar("Masks", np.ndarray, torch.Tensor)
MEASURES = ("dice", "miou", "miou_positive", "miou_true_positive", "miou_pooled")


def mask_counts(prediction: Masks, truth: Masks) -> tuple[Masks, Masks, Masks]:
    """Pixels of masks, alike for arrays and tensors.

    Args:
        prediction: (…, H, W) bool.
        truth: (…, H, W) bool.

    Returns:
        (…) pixels in both, in the prediction, in the truth.
    """
    return tuple(mask.sum(axis=(-2, -1)) for mask in (prediction & truth, prediction, truth))


def image_overlap(
    intersection: ArrayLike, predicted: ArrayLike, true: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dice, IoU and IoU of true positives of each image; NaN where it is not defined or the mask is unknown.

    Args:
        intersection: (N, K) pixels in both masks; NaN where the mask was not drawn.
        predicted: (N, K) pixels in the prediction.
        true: (N, K) pixels in the truth.

    Returns:
        Three arrays (N, K), 0–1.
    """
    both, size, area = (np.asarray(values, np.float64) for values in (intersection, predicted, true))
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = 2 * both / (size + area)  # 0 / 0, an empty union, is NaN
        iou = both / (size + area - both)
    return dice, iou, np.where((size > 0) & (area > 0), iou, np.nan)


def overlap_summary(
    intersection: ArrayLike,
    predicted: ArrayLike,
    true: ArrayLike,
    class_names: Sequence[str],
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Overlap of each class and its mean over the classes, with 95 % bootstrap intervals over patients.

    Args:
        intersection: (N, K) pixels in both masks of an image and class; NaN where the mask was not drawn.
        predicted: (N, K) pixels in the prediction; NaN likewise.
        true: (N, K) pixels in the truth; NaN likewise.
        class_names: K names.
        groups: (N,) patient of each image; none makes each image its own patient.
        resamples: of the bootstrap; 0 gives NaN intervals.
        seed: of the bootstrap.

    Returns:
        `images`, `patients`; `classes`: for each name the `MEASURES` (see the module) with `…_ci` as [low, high],
        `images` (whose mask is known), `positives` (whose truth is not empty) and `predicted_positives`; and
        `mean_…` with `mean_…_ci` over the classes where a measure is defined. NaN where it is nowhere.

    Raises:
        CxrError: shapes that do not fit, counts below 0, or an intersection larger than a mask.
    """
    both, size, area = _checked(intersection, predicted, true, class_names)
    known = ~np.isnan(both)
    patients = number_groups(groups, len(both))[1]
    columns = _columns(both, size, area)
    values = _measures(columns.sum(axis=1, keepdims=True))[:, 0]
    flat = np.moveaxis(columns, 0, 1).reshape(len(both), -1)
    drawn = bootstrap_sums(flat, groups, resamples, seed).reshape(resamples, len(columns), len(class_names))
    samples = _measures(np.moveaxis(drawn, 1, 0))
    summary: dict[str, Any] = {"images": len(both), "patients": patients, "classes": {}}
    intervals = {
        name: np.stack(percentile_interval(each), axis=1) for name, each in zip(MEASURES, samples, strict=True)
    }
    for k, name in enumerate(class_names):
        row: dict[str, Any] = {}
        for measure, value in zip(MEASURES, values[:, k], strict=True):
            row |= {measure: float(value), f"{measure}_ci": intervals[measure][k].tolist()}
        row["images"] = int(known[:, k].sum())
        row["positives"] = int((area[known[:, k], k] > 0).sum())
        row["predicted_positives"] = int((size[known[:, k], k] > 0).sum())
        summary["classes"][name] = row
    for measure, value, each in zip(MEASURES, values, samples, strict=True):
        summary[f"mean_{measure}"] = float(_mean(value[None])[0])
        summary[f"mean_{measure}_ci"] = [float(end[0]) for end in percentile_interval(_mean(each)[:, None])]
    return summary


def mean_overlap(intersection: ArrayLike, predicted: ArrayLike, true: ArrayLike, measure: str = "dice") -> float:
    """One of the `MEASURES`, averaged over the classes: what a run is judged by.

    Args:
        intersection: see `overlap_summary`.
        predicted: likewise.
        true: likewise.
        measure: its name.

    Raises:
        CxrError: an unknown measure.
    """
    return float(_mean(class_overlap(intersection, predicted, true, measure)[None])[0])


def class_overlap(intersection: ArrayLike, predicted: ArrayLike, true: ArrayLike, measure: str = "dice") -> np.ndarray:
    """(K,) one of the `MEASURES` of each class; takes and raises as `mean_overlap`."""
    if measure not in MEASURES:
        raise CxrError(f"measure '{measure}': known are {', '.join(MEASURES)}")
    sums = _columns(*_as_counts(intersection, predicted, true)).sum(axis=1, keepdims=True)
    return _measures(sums)[MEASURES.index(measure), 0]


def _as_counts(*counts: ArrayLike) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(values, np.float64) for values in counts)


def _checked(
    intersection: ArrayLike, predicted: ArrayLike, true: ArrayLike, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    both, size, area = _as_counts(intersection, predicted, true)
    for what, values in (("intersection", both), ("predicted", size), ("true", area)):
        if values.ndim != 2 or values.shape[1] != len(names) or values.shape != both.shape:
            raise CxrError(f"{what} has shape {values.shape}; give (images, {len(names)} classes) for all three alike")
    if len(both) == 0:
        raise CxrError("there is no image whose masks could be compared; check the split and the classes")
    unknown = np.isnan(both) | np.isnan(size) | np.isnan(area)
    both, size, area = (np.where(unknown, np.nan, values) for values in (both, size, area))
    with np.errstate(invalid="ignore"):
        if ((both < 0) | (both > size) | (both > area)).any():
            raise CxrError("an intersection is below 0 or larger than one of its masks; give pixels of the same masks")
    return both, size, area


def _columns(both: np.ndarray, size: np.ndarray, area: np.ndarray) -> np.ndarray:
    """(8, N, K) what sums over images make the measures: three sums with three numbers of images, I and U."""
    dice, iou, found = image_overlap(both, size, area)
    union = size + area - both
    parts = (dice, iou, ~np.isnan(iou), area > 0, found, ~np.isnan(found), both, union)
    return np.stack([np.nan_to_num(np.asarray(part, np.float64), nan=0.0) for part in parts])


def _measures(sums: np.ndarray) -> np.ndarray:
    """(8, R, K) sums → (5, R, K) in the order of `MEASURES`; NaN where nothing is defined."""
    dice, iou, count, positive, found, found_count, both, union = sums
    # An image whose truth is not empty but whose mask is missed adds 0 to the sum, as it adds 0 to that of `found`.
    pairs = ((dice, count), (iou, count), (found, positive), (found, found_count), (both, union))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([part / whole for part, whole in pairs])


def _mean(values: np.ndarray) -> np.ndarray:
    """(R, K) → (R,) mean over what is defined."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
