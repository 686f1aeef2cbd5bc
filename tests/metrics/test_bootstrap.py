import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrmonai.errors import CxrError
from cxrmonai.files import write_json
from cxrmonai.metrics import (
    auroc,
    bootstrap,
    bootstrap_auroc,
    bootstrap_average_precision,
    bootstrap_samples,
    classification_summary,
    percentile_interval,
    ranked_auroc,
    ranked_average_precision,
)


@pytest.fixture
def cohort():
    """300 images of 80 patients, 3 findings with ties, the last one with unknown rows."""
    random = np.random.default_rng(11)
    groups = random.integers(0, 80, 300)
    truth = (random.random((300, 3)) < [0.4, 0.15, 0.3]).astype(float)
    score = np.round(truth + random.normal(size=truth.shape), 1)
    truth[random.random(300) < 0.3, 2] = np.nan
    return truth, score, groups


def repeated_rows(truth, score, groups, counts):
    names = np.unique(groups)
    times = counts[np.searchsorted(names, groups)].astype(int)
    rows = np.repeat(np.arange(len(truth)), times)
    rows = rows[~np.isnan(truth[rows])]
    return truth[rows], score[rows]


@pytest.mark.parametrize(
    ("statistic", "theirs"),
    [(ranked_auroc, roc_auc_score), (ranked_average_precision, average_precision_score)],
    ids=["auroc", "ap"],
)
def test_equals_a_plain_loop(cohort, statistic, theirs):
    truth, score, groups = cohort
    samples = bootstrap_samples(statistic, truth, score, groups, resamples=40, seed=5)
    counts = bootstrap.patient_counts(len(np.unique(groups)), resamples=40, seed=5)
    for resample in range(40):
        for column in range(3):
            rows = repeated_rows(truth[:, column], score[:, column], groups, counts[resample])
            assert samples[resample, column] == pytest.approx(theirs(*rows), abs=1e-12)


@pytest.mark.parametrize("interval", [bootstrap_auroc, bootstrap_average_precision])
def test_seed_decides_the_interval(cohort, interval):
    truth, score, groups = cohort
    first = np.array(interval(truth, score, groups, resamples=50, seed=1))
    assert first.shape == (2, 3)
    assert (first[0] < first[1]).all()
    np.testing.assert_array_equal(first, interval(truth, score, groups, resamples=50, seed=1))
    assert not np.array_equal(first, interval(truth, score, groups, resamples=50, seed=2))


def test_block_size_changes_nothing(cohort, monkeypatch):
    whole = bootstrap_samples(ranked_auroc, *cohort, resamples=31)
    monkeypatch.setattr(bootstrap, "_BLOCK_ELEMENTS", 900)
    np.testing.assert_array_equal(whole, bootstrap_samples(ranked_auroc, *cohort, resamples=31))


def test_counts_are_draws_with_replacement():
    counts = bootstrap.patient_counts(50, resamples=2000, seed=0)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.12)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.02)


def test_columns_and_calls_are_paired(cohort):
    truth, score, groups = cohort
    twice = bootstrap_samples(ranked_auroc, truth[:, [0, 0]], score[:, [0, 0]], groups, resamples=20)
    np.testing.assert_array_equal(twice[:, 0], twice[:, 1])
    alone = bootstrap_samples(ranked_auroc, truth[:, 0], score[:, 0], groups, resamples=20)
    np.testing.assert_array_equal(twice[:, :1], alone)


def test_names_of_patients_do_not_matter(cohort):
    truth, score, groups = cohort
    named = np.array([f"p{group:04d}" for group in groups], dtype=object)
    assert np.array_equal(bootstrap_auroc(truth, score, named, 30), bootstrap_auroc(truth, score, groups, 30))


def test_rows_are_patients_without_groups(cohort):
    truth, score, _ = cohort
    assert np.array_equal(bootstrap_auroc(truth, score, None, 30), bootstrap_auroc(truth, score, np.arange(300), 30))


def test_interval_is_wider_when_images_repeat_patients():
    random = np.random.default_rng(0)
    truth = (random.random(100) < 0.4).astype(float)
    score = truth + random.normal(size=100)
    repeated = [np.repeat(array, 5) for array in (truth, score, np.arange(100))]
    by_image = bootstrap_auroc(*repeated[:2], resamples=200)
    by_patient = bootstrap_auroc(*repeated, resamples=200)
    assert by_patient.high - by_patient.low > 1.6 * (by_image.high - by_image.low)


def test_interval_has_the_width_of_hanley_and_mcneil():
    random = np.random.default_rng(4)
    truth = np.repeat([0.0, 1.0], [600, 300])
    score = truth + random.normal(size=900)
    area, low_high = auroc(truth, score), bootstrap_auroc(truth, score, resamples=500)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 299 * (q1 - area**2) + 599 * (q2 - area**2)) / (300 * 600)
    assert low_high.high - low_high.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


def test_undefined_resamples():
    truth, score = np.zeros(30), np.arange(30.0)
    assert np.isnan(bootstrap_auroc(truth, score, resamples=10)).all()
    truth[3] = 1
    samples = bootstrap_samples(ranked_auroc, truth, score, resamples=200)
    assert 0.2 < np.isnan(samples).mean() < 0.5
    assert not np.isnan(percentile_interval(samples)).any()
    assert np.isnan(bootstrap_auroc(truth, score, np.zeros(30), resamples=20)).all()
    assert np.isnan(bootstrap_auroc([], [], resamples=5)).all()


@pytest.mark.parametrize(("share", "defined"), [(5, True), (6, False)])
def test_more_than_half_undefined_is_nan(share, defined):
    samples = np.arange(10.0)[:, None]
    samples[:share] = np.nan
    assert np.isnan(percentile_interval(samples)).all() != defined


def test_percentiles():
    low, high = percentile_interval(np.arange(101.0)[:, None], level=0.9)
    assert (low[0], high[0]) == pytest.approx((5, 95))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": [1, 2]}, "groups has shape"),
        ({"groups": ["a", None, "b"]}, "no patient at row 1"),
        ({"groups": [1, 2, np.nan]}, "no patient at row 2"),
        ({"level": 1.0}, "level"),
        ({"resamples": -1}, "resamples"),
    ],
)
def test_unusable_input_is_named(options, words):
    with pytest.raises(CxrError, match=words):
        bootstrap_auroc([0, 1, 0], [0.1, 0.2, 0.3], **options)


def test_summary(cohort, tmp_path):
    truth, score, groups = cohort
    truth = np.column_stack([truth, np.ones(300)])
    score = np.column_stack([score, score[:, 0]])
    summary = classification_summary(truth, score, ["A", "B", "C", "D"], groups, resamples=60, seed=2)
    assert (summary["images"], summary["patients"]) == (300, len(np.unique(groups)))
    areas = bootstrap_samples(ranked_auroc, truth, score, groups, 60, 2)[:, :3]
    assert summary["mean_auroc"] == pytest.approx(auroc(truth, score)[:3].mean())
    assert summary["mean_auroc_ci"] == pytest.approx(np.quantile(areas.mean(axis=1), [0.025, 0.975]))
    finding = summary["findings"]["B"]
    assert finding["auroc_ci"] == pytest.approx([end[1] for end in bootstrap_auroc(truth, score, groups, 60, 2)])
    assert finding["positives"] + finding["negatives"] == 300
    assert np.isnan([summary["findings"]["D"]["auroc"], *summary["findings"]["D"]["auroc_ci"]]).all()
    write_json(tmp_path / "metrics.json", summary)
    assert json.loads((tmp_path / "metrics.json").read_text())["findings"]["D"]["auroc"] is None


def test_summary_without_a_defined_finding_or_resamples():
    empty = classification_summary([0, 0], [1, 2], ["A"], resamples=5)
    assert np.isnan([empty["mean_auroc"], *empty["mean_auroc_ci"]]).all()
    plain = classification_summary([0, 1, 0, 1], [1, 2, 3, 4], ["A"], resamples=0)
    assert plain["mean_auroc"] == 0.75
    assert np.isnan(plain["mean_auroc_ci"]).all()
