"""How well places are found: boxes by overlap, maps by their highest point. Boxes are [x, y, w, h].

After Wang et al. (ChestX-ray8, CVPR 2017): a truth box is found at T where a detected box has IoU, or IoBB, above T;
IoBB is the intersection over the area of the *detected* box. The average of false positives (AFP) counts the detected
boxes of an image that find no truth box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import bootstrap_sums, percentile_interval

MEASURES = ("iou", "iobb")
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
MARGIN = 0.03  # 15 pixels of images of about 500 (Zhang et al., Excitation Backprop, IJCV 2018)


def intersections(detected: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Areas that boxes share.

    Args:
        detected: (D, 4).
        truth: (T, 4).

    Returns:
        (D, T).

    Raises:
        CxrError: another shape, or an edge below 0.
    """
    detected, truth = _boxes(detected), _boxes(truth)
    low = np.maximum(detected[:, None, :2], truth[None, :, :2])
    high = np.minimum((detected[:, :2] + detected[:, 2:])[:, None], (truth[:, :2] + truth[:, 2:])[None])
    return np.clip(high - low, 0, None).prod(axis=2)


def box_iou(detected: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Intersection over union: (D, 4) and (T, 4) → (D, T), 0–1; 0 where both are empty."""
    shared = intersections(detected, truth)
    union = _areas(detected)[:, None] + _areas(truth)[None] - shared
    return _ratio(shared, union)


def box_iobb(detected: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Intersection over the detected box: (D, 4) and (T, 4) → (D, T), 0–1; 0 where that is empty."""
    shared = intersections(detected, truth)
    return _ratio(shared, np.broadcast_to(_areas(detected)[:, None], shared.shape))


def _boxes(boxes: ArrayLike) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not (boxes[:, 2:] >= 0).all():
        raise CxrError(f"boxes of shape {boxes.shape}: give rows of x, y, w, h, with w and h of 0 or more")
    return boxes


def _areas(boxes: ArrayLike) -> np.ndarray:
    return _boxes(boxes)[:, 2:].prod(axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


@dataclass(frozen=True)
class BoxCounts:
    """What one image gives for one finding; each (2, 5), `MEASURES` by `THRESHOLDS`.

    Attributes:
        found: truth boxes that some detected box finds.
        matched: truth boxes that are found when each detected box may find one only.
        false: detected boxes that find no truth box.
    """

    found: np.ndarray
    matched: np.ndarray
    false: np.ndarray


def count_boxes(detected: ArrayLike, truth: ArrayLike) -> BoxCounts:
    """Counts the boxes of one image and finding: (D, 4) and (T, 4), either may be empty."""
    parts = [
        _counts(overlap > threshold)
        for overlap in (box_iou(detected, truth), box_iobb(detected, truth))
        for threshold in THRESHOLDS
    ]
    return BoxCounts(*np.array(parts, np.int64).T.reshape(3, len(MEASURES), len(THRESHOLDS)))


def _counts(finds: np.ndarray) -> tuple[int, int, int]:
    pairs = linear_sum_assignment(finds, maximize=True) if finds.size else ([], [])
    return int(finds.any(axis=0).sum()), int(finds[pairs].sum()), int((~finds.any(axis=1)).sum())


def pointing_hit(heat: np.ndarray, truth: np.ndarray, margin: float = 0.0) -> bool:
    """Whether a map's highest pixel lies in the truth (CheXlocalize's hit rate), or near it.

    Args:
        heat: (H, W); the first pixel counts where several are highest. A constant map points nowhere: no hit.
        truth: (H, W) bool.
        margin: how far off the truth the pixel may be, as a part of the longer edge; `MARGIN` in the pointing game.
    """
    highest = np.unravel_index(int(np.argmax(heat)), heat.shape)
    if not heat[highest] > heat.min():
        return False
    if truth[highest] or margin == 0:
        return bool(truth[highest])
    away = np.argwhere(truth) - np.array(highest)
    return bool((np.hypot(away[:, 0], away[:, 1]) <= margin * max(heat.shape)).any())


def box_summary(
    counts: Sequence[Sequence[BoxCounts | None]],
    truth_boxes: ArrayLike,
    hits: ArrayLike,
    class_names: Sequence[str],
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, recall, false positives and hit rate of each finding, with 95 % bootstrap intervals over patients.

    Args:
        counts: N rows of K; `None` where the truth of an image and finding is unknown.
        truth_boxes: (N, K) how many truth boxes there are.
        hits: (N, K) 1, 0 or NaN (no truth to point at).
        class_names: K names.
        groups: (N,) patient of each image; none makes each image its own patient.
        resamples: of the bootstrap; 0 gives NaN intervals.
        seed: of the bootstrap.

    Returns:
        For each name: `images` with truth boxes, `boxes` of truth, `absent` (images known to have none),
        `hit_rate`; for both measures `accuracy` (share of truth boxes that are found), `recall` (the same, each
        detected box finding one only) and `afp` (detected boxes that find none, per image with truth boxes), as
        {threshold: value}; `boxes_where_absent`, detected boxes per image without the finding. Each value has its
        interval under `…_ci`. NaN where there is nothing to divide by.

    Raises:
        CxrError: shapes that do not fit.
    """
    number = np.asarray(truth_boxes, np.float64)
    hits = np.asarray(hits, np.float64)
    if number.shape != (len(counts), len(class_names)) or hits.shape != number.shape:
        raise CxrError(f"truth_boxes {number.shape} and hits {hits.shape} do not fit {len(counts)} images")
    summary: dict[str, Any] = {}
    for k, name in enumerate(class_names):
        values = np.array([_image_row(row[k], number[n, k], hits[n, k]) for n, row in enumerate(counts)])
        values = values.reshape(len(counts), _ROW)
        drawn = bootstrap_sums(values, groups, resamples, seed)
        summary[name] = _class_summary(values.sum(axis=0, keepdims=True), drawn)
    return summary


def hit_rates(
    hits: ArrayLike, class_names: Sequence[str], groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, list[float]]]:
    """The share of hits of each finding, with its 95 % bootstrap interval over patients.

    Args:
        hits: (N, K) 1, 0 or NaN.
        class_names: K names.
        groups: (N,) patient of each image; none makes each image its own patient.
        resamples: of the bootstrap; 0 gives NaN intervals.
        seed: of the bootstrap; the patients drawn are those of `box_summary`.

    Returns:
        For each name the rate and [low, high]; NaN where there is nothing to hit.
    """
    hits = np.asarray(hits, np.float64)
    rates = {}
    for k, name in enumerate(class_names):
        columns = np.stack([np.nan_to_num(hits[:, k]), ~np.isnan(hits[:, k])], axis=1)
        found = _estimate("rate", columns.sum(axis=0)[None], bootstrap_sums(columns, groups, resamples, seed), 0, 1)
        rates[name] = found["rate"], found["rate_ci"]
    return rates


def mean_hit_rate(
    hits: ArrayLike, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, list[float]]:
    """The hit rates' mean over the findings that have one, with its 95 % bootstrap interval over patients.

    Args:
        hits: (N, K) 1, 0 or NaN.
        groups: (N,) patient of each image; none makes each image its own patient.
        resamples: of the bootstrap; 0 gives a NaN interval.
        seed: of the bootstrap; the patients drawn are those of `box_summary`.

    Returns:
        The mean and [low, high]; NaN where no finding has a hit rate.
    """
    hits = np.asarray(hits, np.float64)
    columns = np.concatenate([np.nan_to_num(hits), ~np.isnan(hits)], axis=1)
    drawn = bootstrap_sums(columns, groups, resamples, seed)
    samples = _mean_ratio(drawn, hits.shape[1])
    low, high = percentile_interval(samples[:, None])
    return float(_mean_ratio(columns.sum(axis=0)[None], hits.shape[1])[0]), [float(low[0]), float(high[0])]


def _mean_ratio(sums: np.ndarray, classes: int) -> np.ndarray:
    """(R, 2K) sums of parts and wholes → (R,) mean of the ratios that are defined."""
    part, whole = sums[:, :classes], sums[:, classes:]
    defined = whole > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, part / np.where(defined, whole, 1), 0).sum(axis=1) / defined.sum(axis=1)


_PER = len(MEASURES) * len(THRESHOLDS)
_HEAD = 6  # images with boxes, boxes, images without, their detected boxes, hits, images that hits are counted in
_ROW = _HEAD + 3 * _PER


def _image_row(counts: BoxCounts | None, boxes: float, hit: float) -> np.ndarray:
    row = np.zeros(_ROW)
    if not np.isnan(hit):
        row[4:6] = hit, 1
    if counts is None:
        return row
    if not boxes:
        row[2:4] = 1, counts.false[0, 0]
        return row
    row[:2] = 1, boxes
    row[_HEAD:] = np.stack([counts.found, counts.matched, counts.false]).ravel()
    return row


def _class_summary(total: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    images, boxes, absent = (int(value) for value in total[0, :3])
    found: dict[str, Any] = {"images": images, "boxes": boxes, "absent": absent}
    found |= _estimate("hit_rate", total, drawn, 4, 5)
    found |= _estimate("boxes_where_absent", total, drawn, 3, 2)
    for m, measure in enumerate(MEASURES):
        part: dict[str, Any] = {}
        for p, (name, below) in enumerate((("accuracy", 1), ("recall", 1), ("afp", 0))):
            part[name], part[f"{name}_ci"] = {}, {}
            for t, threshold in enumerate(THRESHOLDS):
                one = _estimate("value", total, drawn, _HEAD + p * _PER + m * len(THRESHOLDS) + t, below)
                part[name][str(threshold)], part[f"{name}_ci"][str(threshold)] = one["value"], one["value_ci"]
        found[measure] = part
    return found


def _estimate(name: str, total: np.ndarray, drawn: np.ndarray, part: int, whole: int) -> dict[str, Any]:
    with np.errstate(invalid="ignore", divide="ignore"):
        value, samples = (float(total[0, part] / total[0, whole]), (drawn[:, part] / drawn[:, whole])[:, None])
    return {name: value, f"{name}_ci": [float(end[0]) for end in percentile_interval(samples)]}
