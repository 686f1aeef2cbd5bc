import numpy as np
import pytest
from sklearn import metrics as sk

from cxrmonai.errors import CxrError
from cxrmonai.metrics import bootstrap, confusion_matrix, confusion_measures, multiclass_summary
from cxrmonai.metrics.multiclass import class_numbers, one_hot

NAMES = ["none", "mild", "moderate", "severe"]


@pytest.fixture
def grades():
    """300 images of 90 patients, four grades, some unknown."""
    random = np.random.default_rng(3)
    truth = random.choice(4, 300, p=[0.5, 0.25, 0.15, 0.1]).astype(float)
    logits = np.eye(4)[truth.astype(int)] * 1.2 + random.normal(size=(300, 4))
    truth[random.random(300) < 0.05] = np.nan
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probability, random.integers(0, 90, 300)


def by_sklearn(truth, probability):
    predicted = probability.argmax(axis=1)
    present = np.unique(truth)
    areas = [sk.roc_auc_score(truth == k, probability[:, int(k)]) for k in present]
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": np.mean([(predicted == k)[truth == k].mean() for k in present]),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "quadratic_kappa": sk.cohen_kappa_score(truth, predicted, weights="quadratic"),
        "mean_auroc": np.mean(areas),
    }


def test_summary_agrees_with_sklearn(grades):
    truth, probability, groups = grades
    summary = multiclass_summary(truth, probability, NAMES, groups, resamples=20, ordered=True)
    known = ~np.isnan(truth)
    for key, value in by_sklearn(truth[known], probability[known]).items():
        assert summary[key] == pytest.approx(value, abs=1e-9)
    assert summary["confusion"] == sk.confusion_matrix(truth[known], probability[known].argmax(axis=1)).tolist()
    assert (summary["images"], summary["patients"]) == (known.sum(), len(np.unique(groups[known])))
    assert summary["classes"] == NAMES


def test_intervals_equal_a_plain_loop(grades):
    truth, probability, groups = grades
    summary = multiclass_summary(truth, probability, NAMES, groups, resamples=30, seed=6, ordered=True)
    counts = bootstrap.patient_counts(len(np.unique(groups)), 30, 6)
    names = np.unique(groups)
    drawn = []
    for count in counts:
        rows = np.repeat(np.arange(300), count[np.searchsorted(names, groups)].astype(int))
        rows = rows[~np.isnan(truth[rows])]
        drawn.append(by_sklearn(truth[rows], probability[rows]))
    for key in drawn[0]:
        expected = np.quantile([each[key] for each in drawn], [0.025, 0.975])
        assert summary[f"{key}_ci"] == pytest.approx(expected, abs=1e-9)


def test_kappa_is_for_ordered_classes_only(grades):
    assert "quadratic_kappa" not in multiclass_summary(*grades[:2], NAMES, resamples=0)


def test_kappa_of_a_worked_example():
    """Weighted disagreement 0.1·1 + 0.05·4 over its chance value, by hand: rows .4 .3 .3, columns .45 .25 .3."""
    matrix = np.array([[35, 5, 0], [5, 20, 5], [5, 0, 25]])
    rows, columns = np.array([0.4, 0.3, 0.3]), np.array([0.45, 0.25, 0.3])
    chance = sum(rows[i] * columns[j] * (i - j) ** 2 for i in range(3) for j in range(3))
    expected = 1 - (0.05 + 0.05 + 0.05 + 0.05 * 4) / chance
    assert confusion_measures(matrix)["quadratic_kappa"] == pytest.approx(expected, abs=1e-12)


def test_truth_as_one_hot_is_the_same(grades):
    truth, probability, _ = grades
    hot = one_hot(truth, 4)
    assert np.isnan(hot[np.isnan(truth)]).all()
    np.testing.assert_array_equal(class_numbers(hot, 4), truth)
    assert multiclass_summary(hot, probability, NAMES, resamples=5) == multiclass_summary(
        truth, probability, NAMES, resamples=5
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("truth", [[], [np.nan, np.nan], [2, 2], [1]])
def test_few_images_give_nan_and_no_warning(truth):
    probability = np.tile([0.2, 0.5, 0.3], (len(truth), 1))
    summary = multiclass_summary(truth, probability, NAMES[:3], resamples=5, ordered=True)
    assert np.isnan(summary["mean_auroc"])
    known = sum(label == label for label in truth)
    assert np.isnan(summary["accuracy"]) == (known == 0)
    assert summary["images"] == known


def test_absent_classes_do_not_count():
    """As scikit-learn: balanced accuracy over the classes that occur, macro F1 also over those predicted."""
    measures = confusion_measures(confusion_matrix([0, 0, 1, 1], [0, 2, 1, 1], 4))
    assert measures["balanced_accuracy"] == pytest.approx(0.75)
    assert measures["macro_f1"] == pytest.approx(sk.f1_score([0, 0, 1, 1], [0, 2, 1, 1], average="macro"), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confusion_matrix([0, 3], [0, 1], 3), "truth is 3 at row 1; give a class from 0 to 2"),
        (lambda: confusion_matrix([0, 1], [0, 1.5], 3), "predicted is 1.5 at row 1"),
        (lambda: confusion_matrix([0, 1], [0, np.nan], 3), "predicted has no class at row 1"),
        (lambda: confusion_matrix([0, 1], [0], 3), "give both the same shape"),
        (lambda: confusion_measures(np.zeros((2, 3))), "matrix has shape"),
        (lambda: multiclass_summary([0, 1], [[1, 0]], ["a", "b"]), "probability has shape"),
        (lambda: class_numbers([[1, 1], [0, 1]], 2), "row 0 is not one class"),
        (lambda: class_numbers([[1, 0], [0, np.nan]], 2), "row 1 is not one class"),
        (lambda: class_numbers([[1, 0]], 3), "truth has shape"),
        (lambda: one_hot([[0]], 2), "truth has shape"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
