import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cxrmonai.errors import CxrError
from cxrmonai.metrics import auroc, average_precision, classification_summary, precision_recall_points, roc_points


@pytest.fixture
def tied():
    """400 rows, 5 columns, many ties; a quarter of the truth is unknown."""
    random = np.random.default_rng(3)
    truth = (random.random((400, 5)) < [0.5, 0.2, 0.05, 0.9, 0.3]).astype(float)
    score = np.round(truth + random.normal(size=truth.shape) * 1.5, 1)
    truth[random.random(truth.shape) < 0.25] = np.nan
    return truth, score, random.choice([0.0, 0.3, 1.0, 2.5], size=400)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(auroc, roc_auc_score), (average_precision, average_precision_score)], ids=["auroc", "ap"]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_sklearn(tied, ours, theirs, weighted):
    truth, score, weight = tied
    values = ours(truth, score, weight if weighted else None)
    assert values.shape == (5,)
    for column in range(5):
        known = ~np.isnan(truth[:, column])
        arguments = truth[known, column], score[known, column]
        expected = theirs(*arguments, sample_weight=weight[known] if weighted else None)
        assert values[column] == pytest.approx(expected, abs=1e-12)
        assert ours(*arguments, weight[known] if weighted else None) == pytest.approx(expected, abs=1e-12)


def test_single_column_gives_a_float():
    assert auroc([0, 1, 1, 0], [0.1, 0.9, 0.1, 0.1]) == 0.75
    assert isinstance(auroc([0, 1], [0, 1]), float)
    assert auroc(np.array([False, True]), np.array([1, 2], dtype=np.uint8)) == 1.0


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 1, 1], [np.nan] * 3, [np.nan, 1, np.nan], []])
def test_one_class_or_none_is_nan(metric, truth):
    assert np.isnan(metric(truth, np.arange(len(truth))))


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_class_of_zero_weight_is_nan(metric):
    assert np.isnan(metric([0, 1, 1], [1, 2, 3], [0, 1, 1]))
    assert np.isnan(metric([0, 1, 1], [1, 2, 3], [1, 0, 0]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], [0.1, 0.2, 0.3]), "shape"),
        (([[[0]]], [[[0.1]]]), "shape"),
        (([0, 2], [0.1, 0.2]), "truth is 2 at row 1;"),
        (([[0, 1], [0, -1]], np.zeros((2, 2))), "truth is -1 at row 1 of column 1"),
        (([0, 1], [0.1, np.nan]), "score is nan at row 1"),
        (([np.nan, 1], [np.inf, 0]), "score is inf at row 0"),
        (([0, 1], ["a", "b"]), "score is not an array of numbers"),
        (([0, 1], [0, 1], [1, -1]), "weight is -1 at row 1"),
        (([0, 1], [0, 1], [1, np.nan]), "weight is nan at row 1"),
        (([0, 1], [0, 1], [1]), "weight has shape"),
    ],
)
def test_unusable_input_is_named(arguments, words):
    with pytest.raises(CxrError, match=words):
        auroc(*arguments)


def test_summary_names_the_finding():
    with pytest.raises(CxrError, match="row 0 of Effusion"):
        classification_summary([[0, -1]], [[0.1, 0.2]], ["Mass", "Effusion"])
    with pytest.raises(CxrError, match="3 names but truth has 2 columns"):
        classification_summary([[0, 1]], [[0.1, 0.2]], ["a", "b", "c"])
    with pytest.raises(CxrError, match="twice"):
        classification_summary([[0, 1]], [[0.1, 0.2]], ["a", "a"])


rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-50, 50), st.integers(0, 4)), min_size=2, max_size=60).filter(
    lambda drawn: len({label for label, _, weight in drawn if weight}) == 2
)


@given(rows)
def test_reversed_scores_give_the_complement(drawn):
    truth, score, weight = np.array(drawn, dtype=float).T
    assert auroc(truth, score, weight) + auroc(truth, -score, weight) == pytest.approx(1, abs=1e-12)


@given(rows)
def test_only_the_order_of_scores_matters(drawn):
    truth, score, weight = np.array(drawn, dtype=float).T
    for metric in (auroc, average_precision):
        assert metric(truth, score, weight) == metric(truth, np.exp(score / 10) - 7, weight)


@given(rows, st.randoms())
def test_order_of_rows_does_not_matter_and_weight_is_repetition(drawn, random):
    shuffled = random.sample(drawn, len(drawn))
    repeated = [row for row in drawn for _ in range(row[2])]
    for metric in (auroc, average_precision):
        expected = metric(*np.array(drawn, dtype=float).T)
        assert 0 <= expected <= 1
        assert metric(*np.array(shuffled, dtype=float).T) == pytest.approx(expected, abs=1e-12)
        assert metric(*np.array(repeated, dtype=float).T[:2]) == pytest.approx(expected, abs=1e-12)


def test_curves_agree_with_sklearn(tied):
    truth, score, weight = (array[:, 1] if array.ndim == 2 else array + 0.1 for array in tied)
    known = ~np.isnan(truth)
    arguments = truth[known], score[known]
    false, true, _ = roc_curve(*arguments, sample_weight=weight[known], drop_intermediate=False)
    np.testing.assert_allclose(roc_points(truth, score, weight), (false, true), atol=1e-12)
    precision, recall, _ = precision_recall_curve(*arguments, sample_weight=weight[known])
    np.testing.assert_allclose(precision_recall_points(truth, score, weight), (recall[::-1], precision[::-1]))


def test_area_under_the_curves_is_the_metric(tied):
    truth, score, _ = tied
    false, true = roc_points(truth[:, 0], score[:, 0])
    area = np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    assert area == pytest.approx(auroc(truth, score)[0], abs=1e-12)
    recall, precision = precision_recall_points(truth[:, 0], score[:, 0])
    area = np.sum(np.diff(recall) * precision[1:])
    assert area == pytest.approx(average_precision(truth, score)[0], abs=1e-12)


def test_curves_of_one_class_are_nan_and_take_one_column():
    assert np.isnan(roc_points([1, 1], [1, 2])[0]).all()
    assert np.isnan(precision_recall_points([np.nan, 0], [1, 2])[0]).all()
    with pytest.raises(CxrError, match="one column"):
        roc_points(np.zeros((2, 2)), np.zeros((2, 2)))
