import numpy as np
import pytest

from cxrmonai.errors import CxrError
from cxrmonai.metrics import auroc, compare_models, delong_test, holm
from cxrmonai.metrics.bootstrap import patient_counts


@pytest.fixture
def models():
    random = np.random.default_rng(9)
    truth = (random.random((200, 3)) < 0.4).astype(float)
    first = truth * [0.5, 1.0, 1.0] + random.normal(size=truth.shape)
    second = truth * [1.8, 1.0, 1.0] + random.normal(size=truth.shape)
    truth[:10, 1] = np.nan
    truth[:, 2] = 0
    return truth, first, second, random.integers(0, 70, 200)


def test_each_finding_is_tested(models):
    truth, first, second, groups = models
    table = compare_models(truth, first, second, ["A", "B", "C"], groups, resamples=20, seed=2)
    for column, name in enumerate("AB"):
        test = delong_test(truth[:, column], first[:, column], second[:, column])
        assert {key: table[name][key] for key in test._fields} == test._asdict()
        assert table[name]["difference"] == pytest.approx(
            auroc(truth[:, column], second[:, column]) - auroc(truth[:, column], first[:, column]), abs=1e-12
        )
    assert table["C"]["reason"] == "no image has the finding, so that AUROC is not defined"
    assert np.isnan([table["C"]["p"], table["C"]["p_holm"], table["C"]["low_by_patient"]]).all()
    assert table["A"]["p_holm"] == min(1, 2 * table["A"]["p"])
    assert table["A"]["p"] < 0.001


def test_interval_by_patient_equals_a_plain_loop(models):
    truth, first, second, groups = models
    table = compare_models(truth, first, second, ["A", "B", "C"], groups, resamples=25, seed=2)
    counts, names = patient_counts(len(np.unique(groups)), 25, 2), np.unique(groups)
    differences = []
    for count in counts:
        rows = np.repeat(np.arange(200), count[np.searchsorted(names, groups)].astype(int))
        differences.append(auroc(truth[rows, 0], second[rows, 0]) - auroc(truth[rows, 0], first[rows, 0]))
    expected = np.quantile(differences, [0.025, 0.975])
    assert [table["A"]["low_by_patient"], table["A"]["high_by_patient"]] == pytest.approx(expected, abs=1e-12)


def test_images_that_repeat_patients_make_delong_too_sure():
    random = np.random.default_rng(0)
    truth = (random.random(60) < 0.4).astype(float)
    first, second = truth + random.normal(size=60), 2 * truth + random.normal(size=60)
    repeated = [np.repeat(array, 6) for array in (truth, first, second, np.arange(60))]
    row = compare_models(*repeated[:3], ["A"], repeated[3], resamples=200)["A"]
    assert row["high_by_patient"] - row["low_by_patient"] > 1.6 * (row["high"] - row["low"])


def test_one_column_without_groups():
    row = compare_models([0, 1, 0, 1], [1, 2, 3, 4], [1, 3, 2, 4], ["A"], resamples=0)["A"]
    assert (row["first"], row["second"]) == (0.75, 1.0)
    assert np.isnan(row["low_by_patient"])


def test_holm_of_a_worked_example():
    """0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, each no smaller than the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([0.02, np.nan]) == pytest.approx([0.02, np.nan], nan_ok=True)
    assert len(holm([])) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: holm([1.5]), "p has shape"),
        (lambda: holm([[0.5]]), "p has shape"),
        (lambda: compare_models([0, 1], [1, 2], [1, 2, 3], ["A"]), "shape"),
        (lambda: compare_models([0, 1], [1, 2], [1, 2], ["A", "B"]), "class_names has 2 names"),
        (lambda: compare_models([0, 1], [1, 2], [1, 2], ["A"], groups=["x"]), "groups has shape"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
