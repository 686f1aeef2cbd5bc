import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score, roc_curve

from cxrmonai.errors import CxrError
from cxrmonai.metrics import apply_thresholds, bootstrap_sums, choose_thresholds
from cxrmonai.metrics.bootstrap import patient_counts
from cxrmonai.metrics.operating_points import RATES, bootstrap_call_rates, calls_at


@pytest.fixture
def cohort():
    """240 images of 60 patients, 3 findings with ties, some labels unknown."""
    random = np.random.default_rng(2)
    truth = (random.random((240, 3)) < [0.4, 0.15, 0.3]).astype(float)
    score = np.round(1 / (1 + np.exp(-truth - random.normal(size=truth.shape))), 2)
    truth[random.random(truth.shape) < 0.1] = np.nan
    return truth, score, random.integers(0, 60, 240)


def candidates(truth, score):
    """Every distinct score as a threshold, by plain counting: threshold, sensitivity, specificity, F1."""
    for threshold in np.unique(score):
        called = score >= threshold
        yield threshold, called[truth == 1].mean(), (~called)[truth == 0].mean(), f1_score(truth, called)


def test_youden_is_the_best_point_of_the_roc_curve(cohort):
    truth, score, _ = cohort
    thresholds, reasons = choose_thresholds(truth, score)
    assert reasons == ["", "", ""]
    for column, threshold in enumerate(thresholds):
        known = ~np.isnan(truth[:, column])
        false, true, cuts = roc_curve(truth[known, column], score[known, column], drop_intermediate=False)
        assert threshold == cuts[1:][np.argmax(np.round(true - false, 12)[1:])]


def test_other_rules_equal_a_plain_search(cohort):
    truth, score, _ = cohort
    for column in range(3):
        known = ~np.isnan(truth[:, column])
        y, p = truth[known, column], score[known, column]
        points = list(candidates(y, p))
        assert (
            choose_thresholds(y, p, "max_f1")[0][0] == max(points, key=lambda point: (round(point[3], 12), point[0]))[0]
        )
        for target in (0.5, 0.9, 1.0):
            caught = max(threshold for threshold, sensitivity, _, _ in points if sensitivity >= target)
            assert choose_thresholds(y, p, "sensitivity", target)[0][0] == caught
        cleared = min(threshold for threshold, _, specificity, _ in points if specificity >= 0.8)
        assert choose_thresholds(y, p, "specificity", 0.8)[0][0] == cleared


def test_specificity_out_of_reach_lies_just_over_all_scores():
    threshold = choose_thresholds([1, 0, 1, 0], [0.1, 0.9, 0.2, 0.9], "specificity", 0.9)[0][0]
    assert threshold == np.nextafter(0.9, 1)
    assert apply_thresholds([1, 0], [0.1, 0.9], [threshold])["specificity"] == [1.0]


def test_useless_scores_call_everything_positive():
    assert choose_thresholds([1, 0, 1, 0], [0.1, 0.9, 0.2, 0.8])[0][0] == 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", [("youden", None), ("max_f1", None), ("sensitivity", 0.9), ("specificity", 0.9)])
def test_one_class_has_no_threshold(rule):
    truth = np.array([[0, 1, np.nan, 0], [0, 1, np.nan, 1]])
    thresholds, reasons = choose_thresholds(truth, np.full((2, 4), 0.3), *rule)
    assert np.isnan(thresholds[:3]).all()
    assert not np.isnan(thresholds[3])
    assert reasons[0] == "no threshold: the validation set has no image with the finding"
    assert reasons[1] == "no threshold: the validation set has no image without the finding"
    assert reasons[2] == "no threshold: the validation set has no image with a known label"
    assert reasons[3] == ""


def test_rates_agree_with_sklearn(cohort):
    truth, score, _ = cohort
    thresholds = [0.5, 0.7, 0.6]
    points = apply_thresholds(truth, score, thresholds)
    for column in range(3):
        known = ~np.isnan(truth[:, column])
        y, called = truth[known, column], score[known, column] >= thresholds[column]
        rejections, false_alarms, misses, hits = confusion_matrix(y, called).ravel()
        found = {key: values[column] for key, values in points.items()}
        assert found["true_positives"] == hits
        assert found["false_positives"] == false_alarms
        assert found["false_negatives"] == misses
        assert found["true_negatives"] == rejections
        assert found["sensitivity"] == pytest.approx(recall_score(y, called), abs=1e-12)
        assert found["specificity"] == pytest.approx(recall_score(1 - y, ~called), abs=1e-12)
        assert found["ppv"] == pytest.approx(precision_score(y, called), abs=1e-12)
        assert found["npv"] == pytest.approx(precision_score(1 - y, ~called), abs=1e-12)
        assert found["f1"] == pytest.approx(f1_score(y, called), abs=1e-12)
        assert found["accuracy"] == pytest.approx((y == called).mean(), abs=1e-12)


def test_a_score_at_the_threshold_is_positive():
    assert calls_at(np.array([[0.2], [0.5], [0.7]]), [0.5]).ravel().tolist() == [0, 1, 1]


@pytest.mark.filterwarnings("error")
def test_undefined_rates_are_nan():
    nothing = apply_thresholds([0, 0], [0.1, 0.2], [0.5])
    assert np.isnan([nothing[key][0] for key in ("sensitivity", "ppv", "f1")]).all()
    assert (nothing["specificity"][0], nothing["npv"][0], nothing["accuracy"][0]) == (1, 1, 1)
    without = apply_thresholds([[0], [1]], [[0.1], [0.2]], [np.nan])
    assert all(np.isnan(values).all() for values in without.values())
    unknown = apply_thresholds([np.nan], [0.4], [0.5])
    assert all(np.isnan(unknown[key][0]) for key in RATES)


def test_bootstrap_equals_a_plain_loop(cohort):
    truth, score, groups = cohort
    thresholds = [0.5, 0.7, 0.6]
    rates = bootstrap_call_rates(truth, calls_at(score, thresholds), groups, resamples=25, seed=4)
    counts = patient_counts(len(np.unique(groups)), 25, 4)
    names = np.unique(groups)
    for resample in range(25):
        rows = np.repeat(np.arange(240), counts[resample][np.searchsorted(names, groups)].astype(int))
        expected = apply_thresholds(truth[rows], score[rows], thresholds)
        for key in RATES:
            np.testing.assert_allclose(rates[key][resample], expected[key], rtol=0, atol=1e-12)


def test_sums_use_the_draws_of_the_samples(cohort):
    truth, _, groups = cohort
    counts = patient_counts(len(np.unique(groups)), 12, 3)
    expected = counts @ np.array([[np.nansum(truth[groups == name, 0])] for name in np.unique(groups)])
    np.testing.assert_array_equal(bootstrap_sums(np.nan_to_num(truth[:, :1]), groups, 12, 3), expected)


def test_sums_without_two_patients_are_nan():
    assert np.isnan(bootstrap_sums([[1.0], [2.0]], ["a", "a"], 5)).all()
    assert bootstrap_sums([[1.0], [2.0]], resamples=0).shape == (0, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: choose_thresholds([0, 1], [0, 1], "best"), "rule 'best': known are youden"),
        (lambda: choose_thresholds([0, 1], [0, 1], "youden", 0.9), "takes no target"),
        (lambda: choose_thresholds([0, 1], [0, 1], "sensitivity"), "has target None"),
        (lambda: choose_thresholds([0, 1], [0, 1], "specificity", 1.2), "has target 1.2"),
        (lambda: choose_thresholds([0, 1], [0, np.nan]), "score is nan"),
        (lambda: apply_thresholds([0, 1], [0, 1], [0.1, 0.2]), "thresholds has shape"),
        (lambda: bootstrap_sums([1, 2]), "values has shape"),
        (lambda: bootstrap_sums([[1], [2]], resamples=-1), "resamples is -1"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
