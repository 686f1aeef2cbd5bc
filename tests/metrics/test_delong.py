import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxrmonai.errors import CxrError
from cxrmonai.metrics import delong_covariance, delong_test

# Ranks of three markers of 113 patients with a subarachnoid haemorrhage (Turck et al., Intensive Care Medicine 2010),
# 41 with a poor outcome first, worked out from the placement values that pROC publishes among its tests.
WFNS = [int(grade) for grade in "21344441410143314441414134330331144114444"] + [
    int(grade) for grade in "000040110110001010023030440013001101011000010100213103004311000201133000"
]
S100B = (
    "8 5 11 7 25 30 28 2 19 4 2 23 21 27 30 15 30 30 30 2 30 17 0 4 13 30 15 30 3 15 8 5 6 13 30 9 30 18 30 30 25 "
    "8 9 5 1 26 12 5 5 1 3 1 4 6 2 12 2 6 8 12 1 11 9 20 4 29 26 11 2 24 26 6 3 4 3 1 8 5 9 10 1 1 4 1 4 3 11 4 3 19 6 "
    "16 2 5 18 2 1 14 22 5 10 3 9 5 2 1 12 10 26 12 10 29 27"
)
NDKA = (
    "37 24 28 35 3 9 18 43 47 43 43 14 32 39 5 7 30 1 51 39 16 18 22 30 41 26 39 7 49 34 3 12 39 3 11 43 20 32 45 18 "
    "35 0 8 6 17 4 34 4 38 29 38 36 46 10 4 23 4 4 50 25 13 13 38 2 6 4 12 27 6 33 44 6 4 23 10 6 27 42 40 15 21 48 4 "
    "36 13 17 17 33 2 36 23 10 17 38 17 21 6 13 17 42 8 23 26 44 19 23 10 42 15 31 40 4 29"
)
OUTCOME = np.repeat([1.0, 0.0], [41, 72])
MARKERS = {
    "wfns": np.array(WFNS, dtype=float),
    "s100b": np.array(S100B.split(), dtype=float),
    "ndka": np.array(NDKA.split(), dtype=float),
}

# What pROC's own tests demand of these data (test-var.R, test-cov.R, test-roc.test.R).
AREAS = [0.823678861788618, 0.731368563685637, 0.611957994579946]
COVARIANCE = [
    [0.00146991470882363, 0.00119615567376754, -0.000532967856762438],
    [0.00119615567376754, 0.00266868245717244, -0.000756164938056579],
    [-0.000532967856762438, -0.000756164938056579, 0.0031908105493913],
]
TESTS = {  # second minus first: z, p, ends of the 95 % interval
    ("s100b", "wfns"): (2.20898359144091, 0.0271757822291882, 0.0104061769564846, 0.174214419249478),
    ("ndka", "wfns"): (2.79777591868904, 0.00514557970691098, 0.0634011709339876, 0.3600405634833566),
    ("s100b", "ndka"): (-1.39077002573558, 0.164295175223054, -0.2876917446341914, 0.0488706064228094),
}


def brute_force(truth, scores):
    """DeLong et al. 1988 as printed: every pair compared, sums of products of the structural components."""
    known = ~np.isnan(truth)
    positive, negative = scores[known & (truth == 1)], scores[known & (truth == 0)]
    models, m, n = scores.shape[1], len(positive), len(negative)
    wins = np.zeros((models, m, n))
    for k in range(models):
        for i in range(m):
            for j in range(n):
                x, y = positive[i, k], negative[j, k]
                wins[k, i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
    areas = wins.mean(axis=(1, 2))
    covariance = np.zeros((models, models))
    for r in range(models):
        for s in range(models):
            first = sum((wins[r, i].mean() - areas[r]) * (wins[s, i].mean() - areas[s]) for i in range(m)) / (m - 1)
            second = sum((wins[r, :, j].mean() - areas[r]) * (wins[s, :, j].mean() - areas[s]) for j in range(n))
            covariance[r, s] = first / m + second / (n - 1) / n
    return areas, covariance


def test_published_variances():
    areas, covariance = delong_covariance(OUTCOME, np.column_stack(list(MARKERS.values())))
    np.testing.assert_allclose(areas, AREAS, rtol=0, atol=1e-12)
    np.testing.assert_allclose(covariance, COVARIANCE, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", list(TESTS))
def test_published_tests(pair):
    test = delong_test(OUTCOME, MARKERS[pair[0]], MARKERS[pair[1]])
    assert (test.z, test.p, test.low, test.high) == pytest.approx(TESTS[pair], abs=1e-9)
    assert (test.positives, test.negatives, test.reason) == (41, 72, "")
    swapped = delong_test(OUTCOME, MARKERS[pair[1]], MARKERS[pair[0]])
    assert (swapped.z, swapped.p, swapped.low) == pytest.approx((-test.z, test.p, -test.high), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_and_sklearn(seed):
    random = np.random.default_rng(seed)
    truth = (random.random(70) < 0.3).astype(float)
    scores = np.round(truth[:, None] + random.normal(size=(70, 3)), seed % 2)
    truth[:8] = np.nan
    areas, covariance = delong_covariance(truth, scores)
    expected = brute_force(truth, scores)
    np.testing.assert_allclose(areas, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(covariance, expected[1], rtol=0, atol=1e-12)
    for column in range(3):
        assert areas[column] == pytest.approx(roc_auc_score(truth[8:], scores[8:, column]), abs=1e-12)
    test = delong_test(truth, scores[:, 0], scores[:, 1])
    variance = expected[1][0, 0] + expected[1][1, 1] - 2 * expected[1][0, 1]
    assert test.z == pytest.approx((expected[0][1] - expected[0][0]) / math.sqrt(variance), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-9, 9), st.integers(-9, 9)), min_size=6, max_size=25))
def test_only_the_order_of_scores_matters(rows):
    truth, first, second = np.array(rows, dtype=float).T
    one, other = delong_test(truth, first, second), delong_test(truth, np.exp(first / 5), second * 3 + 1)
    np.testing.assert_allclose(one[:7], other[:7], rtol=1e-9, atol=1e-12)


def test_single_model_has_one_variance():
    areas, covariance = delong_covariance(OUTCOME, MARKERS["wfns"])
    assert areas.shape == (1,)
    assert covariance[0, 0] == pytest.approx(COVARIANCE[0][0], abs=1e-12)


def test_level_widens_the_interval():
    narrow, wide = (delong_test(OUTCOME, MARKERS["s100b"], MARKERS["wfns"], level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_model_twice():
    test = delong_test(OUTCOME, MARKERS["ndka"], MARKERS["ndka"] * 2)
    assert (test.difference, test.low, test.high, test.z, test.p) == (0, 0, 0, 0, 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("truth", "words", "defined"),
    [
        ([0, 0, 0, 0], "no image has the finding", False),
        ([1, 1, np.nan, 1], "every image has the finding", False),
        ([np.nan] * 4, "no image has the finding", False),
        ([], "no image has the finding", False),
        ([1, 0, 0, 0], "fewer than two", True),
        ([0, 1, 0, 1], "no variance", True),
    ],
)
def test_undefined_is_nan_with_a_reason(truth, words, defined):
    first = np.array([0.0, 1.0, 0.0, 1.0])[: len(truth)]
    test = delong_test(truth, first, -first)
    assert words in test.reason
    assert np.isnan(test[3:7]).all()
    assert np.isnan(test[:3]).all() != defined
    areas, covariance = delong_covariance(truth, first)
    assert np.isnan(areas).all() != defined
    assert np.isnan(covariance).all() == (words != "no variance")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: delong_test([0, 1], [1, 2], [1, 2, 3]), "scores have shapes"),
        (lambda: delong_test([0, 1], [1, 2], [1, np.nan]), "score is nan"),
        (lambda: delong_test([0, 2], [1, 2], [1, 2]), "truth is 2"),
        (lambda: delong_test([0, 1], [1, 2], [1, 2], level=1), "level is 1"),
        (lambda: delong_covariance([[0], [1]], [1, 2]), "truth has shape"),
        (lambda: delong_covariance([0, 1], np.zeros((2, 0))), "scores"),
        (lambda: delong_covariance([0, 1, 0], [1, 2]), "shape"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
