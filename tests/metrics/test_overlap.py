"""Overlap measures against loops over images and pixels; what is unknown never counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.metrics.overlap import (
    MEASURES,
    class_overlap,
    image_overlap,
    mask_counts,
    mean_overlap,
    overlap_summary,
)


@pytest.fixture(scope="module")
def masks():
    """12 images of 3 classes: some empty in the truth, some in the prediction, some in both, some unknown."""
    random = np.random.default_rng(0)
    truth, prediction = random.random((2, 12, 3, 9, 7)) < 0.3
    truth[:4, 0] = prediction[2:6, 0] = truth[7, 1] = prediction[8, 1] = False
    known = np.ones((12, 3), bool)
    known[[1, 5, 9], 0] = known[3:, 2] = False
    return prediction, truth, known


def counts_of(prediction, truth, known):
    return [np.where(known, count, np.nan) for count in mask_counts(prediction, truth)]


def by_loop(prediction, truth, known, k):
    dice, iou, positive, found, both, union = [], [], [], [], 0, 0
    for n in range(len(truth)):
        if not known[n, k]:
            continue
        inside = sum(p and t for p, t in zip(prediction[n, k].flat, truth[n, k].flat, strict=True))
        either = sum(p or t for p, t in zip(prediction[n, k].flat, truth[n, k].flat, strict=True))
        both, union = both + inside, union + either
        if either:
            iou.append(inside / either)
            dice.append(2 * inside / (prediction[n, k].sum() + truth[n, k].sum()))
            if truth[n, k].any():
                positive.append(inside / either)
            if prediction[n, k].any() and truth[n, k].any():
                found.append(inside / either)
    return [np.mean(dice), np.mean(iou), np.mean(positive), np.mean(found), both / union]


def test_measures_equal_loops_over_pixels(masks):
    prediction, truth, known = masks
    counts = counts_of(*masks)
    summary = overlap_summary(*counts, ["a", "b", "c"], resamples=0)
    expected = np.array([by_loop(prediction, truth, known, k) for k in range(3)])
    for k, name in enumerate("abc"):
        np.testing.assert_allclose([summary["classes"][name][measure] for measure in MEASURES], expected[k])
    np.testing.assert_allclose([summary[f"mean_{measure}"] for measure in MEASURES], expected.mean(axis=0))
    for place, measure in enumerate(MEASURES):
        assert mean_overlap(*counts, measure) == pytest.approx(expected[:, place].mean())
        np.testing.assert_allclose(class_overlap(*counts, measure), expected[:, place])
    assert summary["classes"]["a"]["images"] == 9
    assert summary["classes"]["a"]["positives"] == (truth[known[:, 0], 0].any(axis=(1, 2))).sum()
    assert summary["classes"]["a"]["predicted_positives"] == (prediction[known[:, 0], 0].any(axis=(1, 2))).sum()


def test_unknown_masks_never_count(masks):
    prediction, truth, known = masks
    other = prediction.copy()
    other[~known] = ~other[~known]
    one = overlap_summary(*counts_of(*masks), ["a", "b", "c"], resamples=50)
    two = overlap_summary(*counts_of(other, truth, known), ["a", "b", "c"], resamples=50)
    assert one == two
    counts = counts_of(*masks)
    counts[0][0] = np.nan  # unknown in one of the three counts is unknown
    assert overlap_summary(*counts, ["a", "b", "c"], resamples=0)["classes"]["a"]["images"] == 8


def test_intervals_are_those_of_drawing_patients_one_by_one(masks):
    counts = counts_of(*masks)
    groups = np.repeat(list("uvwxyz"), 2)
    summary = overlap_summary(*counts, ["a", "b", "c"], groups, resamples=400, seed=3)
    assert summary["patients"] == 6
    random = np.random.default_rng(11)
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in random.choice(list("uvwxyz"), 6)])
        drawn.append(overlap_summary(*(c[rows] for c in counts), ["a", "b", "c"], resamples=0)["classes"]["b"])
    for measure in MEASURES:
        values = [each[measure] for each in drawn if not math.isnan(each[measure])]
        np.testing.assert_allclose(
            summary["classes"]["b"][f"{measure}_ci"], np.quantile(values, [0.025, 0.975]), atol=0.03
        )
    low, high = summary["mean_dice_ci"]
    assert low < summary["mean_dice"] < high
    again = overlap_summary(*counts, ["a", "b", "c"], groups, resamples=400, seed=3)
    assert again == summary


def test_an_empty_union_is_not_defined_and_a_false_alarm_counts_nothing():
    dice, iou, found = image_overlap([[0, 0, 3]], [[0, 5, 3]], [[0, 0, 3]])
    np.testing.assert_array_equal(dice, [[np.nan, 0, 1]])
    np.testing.assert_array_equal(iou, [[np.nan, 0, 1]])
    np.testing.assert_array_equal(found, [[np.nan, np.nan, 1]])
    summary = overlap_summary([[0.0]], [[0.0]], [[0.0]], ["none"])
    assert all(math.isnan(summary["classes"]["none"][measure]) for measure in MEASURES)
    assert math.isnan(summary["mean_dice"])


def test_counts_of_tensors_are_those_of_arrays(masks):
    prediction, truth, _ = masks
    tensors = mask_counts(torch.from_numpy(prediction), torch.from_numpy(truth))
    for tensor, array in zip(tensors, mask_counts(prediction, truth), strict=True):
        np.testing.assert_array_equal(tensor, array)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CxrError, match="classes"):
        overlap_summary([[1.0]], [[1.0]], [[1.0]], ["a", "b"])
    with pytest.raises(CxrError, match="larger than one of its masks"):
        overlap_summary([[2.0]], [[1.0]], [[3.0]], ["a"])
    with pytest.raises(CxrError, match="measure 'area': known are dice, miou"):
        mean_overlap([[1.0]], [[1.0]], [[1.0]], "area")
    with pytest.raises(CxrError, match="no image"):
        overlap_summary(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 1)), ["a"])
