import numpy as np
import pytest

from cxrmonai.errors import CxrError
from cxrmonai.metrics.localization import (
    THRESHOLDS,
    box_iobb,
    box_iou,
    box_summary,
    count_boxes,
    hit_rates,
    mean_hit_rate,
    pointing_hit,
)


def pixels(box, edge=40):
    mask = np.zeros((edge, edge), bool)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = True
    return mask


def draw(random, count):
    corner = random.integers(0, 20, (count, 2))
    return np.concatenate([corner, random.integers(1, 20, (count, 2))], axis=1)


def test_overlaps_equal_counted_pixels():
    random = np.random.default_rng(0)
    detected, truth = draw(random, 7), draw(random, 5)
    for d, one in enumerate(detected):
        for t, other in enumerate(truth):
            shared = (pixels(one) & pixels(other)).sum()
            union = (pixels(one) | pixels(other)).sum()
            assert box_iou(detected, truth)[d, t] == pytest.approx(shared / union)
            assert box_iobb(detected, truth)[d, t] == pytest.approx(shared / pixels(one).sum())


def test_iobb_divides_by_the_detected_box():
    small, large = [[10, 10, 5, 5]], [[0, 0, 30, 30]]
    assert box_iobb(small, large) == 1
    assert box_iobb(large, small) == pytest.approx(25 / 900)


def test_counts_equal_loops():
    random = np.random.default_rng(1)
    for _ in range(30):
        detected, truth = draw(random, random.integers(0, 5)), draw(random, random.integers(0, 4))
        counts = count_boxes(detected, truth)
        for m, measure in enumerate((box_iou, box_iobb)):
            for t, threshold in enumerate(THRESHOLDS):
                overlap = [[measure([one], [other])[0, 0] > threshold for other in truth] for one in detected]
                found = sum(any(row[k] for row in overlap) for k in range(len(truth)))
                false = sum(not any(row) for row in overlap)
                assert counts.found[m, t] == found
                assert counts.false[m, t] == false
                assert counts.matched[m, t] == largest_matching(overlap, len(truth))


def largest_matching(overlap, truths, used=frozenset(), row=0):
    if row == len(overlap):
        return 0
    best = largest_matching(overlap, truths, used, row + 1)
    for k in range(truths):
        if overlap[row][k] and k not in used:
            best = max(best, 1 + largest_matching(overlap, truths, used | {k}, row + 1))
    return best


def test_one_large_box_finds_two_but_recalls_one():
    counts = count_boxes([[0, 0, 30, 30]], [[1, 1, 20, 20], [8, 8, 20, 20]])
    assert counts.found[1, 1] == 2
    assert counts.matched[1, 1] == 1


def test_pointing():
    truth = pixels((5, 5, 4, 4))
    heat = np.zeros((40, 40))
    assert not pointing_hit(heat + 0.5, np.ones_like(truth))
    heat[6, 6] = 1
    assert pointing_hit(heat, truth)
    heat[30, 30] = 2
    assert not pointing_hit(heat, truth)


def test_pointing_near_the_truth():
    truth, heat = pixels((5, 5, 4, 4)), np.zeros((40, 40))
    heat[6, 11] = 1  # three columns right of the last
    assert pointing_hit(heat, truth, 3 / 40)
    assert not pointing_hit(heat, truth, 2.9 / 40)
    assert not pointing_hit(np.ones((40, 40)), truth, 1.0)
    assert not pointing_hit(heat, np.zeros_like(truth), 1.0)
    assert pointing_hit(heat.T, truth.T, 3 / 40)


def test_hit_rates_are_over_the_images_that_have_a_truth():
    found = hit_rates([[1, np.nan], [0, np.nan], [1, np.nan]], ["Mass", "Nodule"], list("aab"), resamples=200)
    rate, (low, high) = found["Mass"]
    assert rate == pytest.approx(2 / 3)
    assert 0.5 <= low <= rate <= high <= 1
    assert np.isnan(found["Nodule"][0])


def test_summary_of_known_counts():
    truth, empty = [[0, 0, 10, 10]], np.zeros((0, 4))
    right, wrong = [[0, 0, 10, 10]], [[20, 20, 5, 5], [30, 30, 5, 5]]
    counts = [
        [count_boxes(right, truth)],
        [count_boxes([*right, *wrong], truth)],
        [count_boxes(wrong, truth)],
        [count_boxes(wrong, empty)],
        [None],
    ]
    hits = [[1], [0], [0], [np.nan], [np.nan]]
    found = box_summary(counts, [[1], [1], [1], [0], [0]], hits, ["Mass"], list("aabcd"), resamples=200)["Mass"]
    assert (found["images"], found["boxes"], found["absent"]) == (3, 3, 1)
    assert found["hit_rate"] == pytest.approx(1 / 3)
    assert found["boxes_where_absent"] == 2
    for measure in ("iou", "iobb"):
        assert found[measure]["accuracy"]["0.5"] == pytest.approx(2 / 3)
        assert found[measure]["afp"]["0.5"] == pytest.approx(4 / 3)
        low, high = found[measure]["accuracy_ci"]["0.5"]
        assert 0 <= low <= 2 / 3 <= high <= 1
    with pytest.raises(CxrError, match="do not fit"):
        box_summary(counts, [[1]], hits, ["Mass"])


def test_mean_hit_rate_is_over_the_findings_that_have_one():
    hits = np.array([[1, np.nan, 0], [0, np.nan, 0], [1, np.nan, np.nan]])
    mean, (low, high) = mean_hit_rate(hits, list("abc"), resamples=300)
    assert mean == pytest.approx((2 / 3 + 0) / 2)
    assert 0 <= low <= mean <= high <= 1  # a resample without the last finding has the first one alone
    assert np.isnan(mean_hit_rate(np.full((2, 2), np.nan), resamples=5)[0])


def test_nothing_known_is_nan():
    found = box_summary([[None]], [[0]], [[np.nan]], ["Mass"], resamples=10)["Mass"]
    assert np.isnan(found["hit_rate"])
    assert np.isnan(found["iou"]["accuracy"]["0.1"])


def test_refuses_boxes_of_another_shape():
    with pytest.raises(CxrError, match="x, y, w, h"):
        box_iou([[0, 0, 1]], [[0, 0, 1, 1]])
    with pytest.raises(CxrError, match="0 or more"):
        box_iou([[0, 0, -1, 1]], [[0, 0, 1, 1]])
