"""What labels are worth, against plain loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import patient_counts
from cxrmonai.metrics.label_efficiency import FractionRun, label_efficiency

NAMES = ["A", "B"]


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    truth = (random.random((60, 2)) < 0.4).astype(float)
    truth[::9, 1] = np.nan
    groups = random.integers(0, 25, 60)
    runs = []
    for name, worth in (("ours", 0.6), ("other", 0.2)):
        for fraction, draw in ((0.1, 0), (0.1, 1), (0.1, 2), (1.0, 0)):
            probability = random.random((60, 2)) + worth * np.nan_to_num(truth)
            runs.append(FractionRun(name, fraction, draw, 10 * draw + 5, 20 * draw, probability))
    return runs, truth, groups


def areas(truth, score, weight=None):
    found = []
    for k in range(truth.shape[1]):
        known = ~np.isnan(truth[:, k])
        given = None if weight is None else weight[known]
        found.append(roc_auc_score(truth[known, k], score[known, k], sample_weight=given))
    return np.array([np.mean(found), *found])


def test_means_intervals_and_gains_are_those_of_a_loop_over_resamples(data):
    runs, truth, groups = data
    table = label_efficiency(runs, truth, NAMES, groups, resamples=12, seed=3)
    patients, place = np.unique(groups, return_inverse=True)
    weights = patient_counts(len(patients), 12, 3)[:, place]
    drawn = {}
    for row in table["fractions"]:
        own = [run for run in runs if (run.encoder, run.fraction) == (row["encoder"], row["fraction"])]
        column = ["mean", *NAMES].index(row["finding"])
        values = [areas(truth, run.probability)[column] for run in own]
        assert row["auroc"] == pytest.approx(np.mean(values), abs=1e-9)
        assert (row["lowest"], row["highest"]) == pytest.approx((min(values), max(values)), abs=1e-9)
        assert row["draws"] == len(own)
        assert row["patients"] == np.mean([run.patients for run in own])
        if len(own) > 1:
            assert row["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)
        else:
            assert np.isnan(row["sd"])
        samples = np.array([np.mean([areas(truth, run.probability, w)[column] for run in own]) for w in weights])
        drawn[row["encoder"], row["fraction"], row["finding"]] = samples
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=1e-9)
    assert len(table["gains"]) == 2 * 3
    for row in table["gains"]:
        pair = [drawn[name, row["fraction"], row["finding"]] for name in (row["encoder"], row["against"])]
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(pair[0] - pair[1], [0.025, 0.975]), abs=1e-9)
        assert row["gain"] > 0


def test_a_finding_of_one_class_is_not_defined_and_leaves_the_mean(data):
    runs, truth, groups = data
    truth = truth.copy()
    truth[:, 1] = 0
    table = label_efficiency(runs, truth, NAMES, groups, resamples=20)["fractions"]
    rows = {(row["encoder"], row["fraction"], row["finding"]): row for row in table}
    assert np.isnan(rows["ours", 1.0, "B"]["auroc"])
    assert rows["ours", 1.0, "mean"]["auroc"] == rows["ours", 1.0, "A"]["auroc"]


def test_no_run_is_refused(data):
    with pytest.raises(CxrError, match="no run to compare"):
        label_efficiency([], data[1], NAMES)
