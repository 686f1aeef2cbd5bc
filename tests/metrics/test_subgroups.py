import numpy as np
import pytest

from cxrmonai.errors import CxrError
from cxrmonai.metrics import age_bands, apply_thresholds, auroc, bootstrap_auroc, subgroup_summary
from cxrmonai.metrics.bootstrap import patient_counts
from cxrmonai.metrics.operating_points import calls_at

NAMES = ["Effusion", "Mass"]
THRESHOLDS = [0.5, 0.6]


@pytest.fixture
def cohort():
    """400 images of 130 patients of known sex, some images without one."""
    random = np.random.default_rng(7)
    truth = (random.random((400, 2)) < [0.4, 0.3]).astype(float)
    score = 1 / (1 + np.exp(-truth - random.normal(size=truth.shape)))
    truth[random.random(truth.shape) < 0.1] = np.nan
    groups = random.integers(0, 130, 400)
    sex = np.array(["F", "M", ""])[random.choice(3, 130, p=[0.5, 0.4, 0.1])][groups]
    return truth, score, sex, groups


def summarise(cohort, **options):
    truth, score, sex, groups = cohort
    return subgroup_summary(truth, score, NAMES, sex, calls_at(score, THRESHOLDS), groups, **options)


def test_each_group_alone_gives_the_same(cohort):
    truth, score, sex, groups = cohort
    summary = summarise(cohort, resamples=30, seed=3)
    assert list(summary["groups"]) == ["F", "M"]
    assert summary["unknown"] == (sex == "").sum()
    for name, group in summary["groups"].items():
        inside = sex == name
        assert (group["images"], group["patients"]) == (inside.sum(), len(np.unique(groups[inside])))
        points = apply_thresholds(truth[inside], score[inside], THRESHOLDS)
        masked = np.where(inside[:, None], truth, np.nan)
        ends = bootstrap_auroc(masked, score, groups, 30, 3)
        for column, finding in enumerate(NAMES):
            found = group["findings"][finding]
            assert found["auroc"] == pytest.approx(auroc(truth[inside, column], score[inside, column]), abs=1e-12)
            assert found["auroc_ci"] == pytest.approx([end[column] for end in ends], abs=1e-12)
            assert found["positives"] == (truth[inside, column] == 1).sum()
            assert found["negatives"] == (truth[inside, column] == 0).sum()
            for key in ("sensitivity", "specificity"):
                assert found[key] == pytest.approx(points[key][column], abs=1e-12)
                assert found[f"{key}_ci"][0] < found[key] < found[f"{key}_ci"][1]


def test_gap_and_its_interval_equal_a_plain_loop(cohort):
    truth, score, sex, groups = cohort
    summary = summarise(cohort, resamples=25, seed=1)
    counts, names = patient_counts(len(np.unique(groups)), 25, 1), np.unique(groups)
    for column, finding in enumerate(NAMES):
        gap = summary["gaps"][finding]["auroc"]
        areas = {name: group["findings"][finding]["auroc"] for name, group in summary["groups"].items()}
        assert gap["gap"] == pytest.approx(max(areas.values()) - min(areas.values()), abs=1e-12)
        assert areas[gap["highest"]] > areas[gap["lowest"]]
        differences = []
        for count in counts:
            rows = np.repeat(np.arange(400), count[np.searchsorted(names, groups)].astype(int))
            high, low = (
                auroc(truth[rows[sex[rows] == gap[end]], column], score[rows[sex[rows] == gap[end]], column])
                for end in ("highest", "lowest")
            )
            differences.append(high - low)
        assert gap["gap_ci"] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-9)


def test_small_groups_take_no_part_in_the_gap(cohort):
    truth, score, sex, groups = cohort
    few = sex.copy().astype(object)
    few[:12] = "X"
    summary = subgroup_summary(truth, score, NAMES, few, groups=groups, resamples=0)
    assert list(summary["groups"]) == ["F", "M", "X"]
    assert summary["minimum"] == 10
    assert {summary["gaps"]["Mass"]["auroc"][end] for end in ("highest", "lowest")} == {"F", "M"}
    assert "sensitivity" not in summary["gaps"]["Mass"]
    assert "sensitivity" not in summary["groups"]["F"]["findings"]["Mass"]


@pytest.mark.filterwarnings("error")
def test_gap_says_why_there_is_none(cohort):
    truth, score, sex, groups = cohort
    truth[sex == "M", 1] = 0
    calls = calls_at(score, [np.nan, 0.5])
    gaps = subgroup_summary(truth, score, NAMES, sex, calls, groups, resamples=3)["gaps"]
    few = "fewer than two groups have 10 images with and 10 without it"
    assert gaps["Mass"]["auroc"]["reason"] == few
    assert np.isnan([gaps["Mass"]["auroc"]["gap"], *gaps["Mass"]["auroc"]["gap_ci"]]).all()
    assert gaps["Effusion"]["auroc"]["reason"] == ""
    assert gaps["Effusion"]["sensitivity"]["reason"] == "no threshold"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_image(rows):
    summary = subgroup_summary(np.ones((rows, 1)), np.ones((rows, 1)), ["A"], ["F"] * rows, resamples=4)
    assert list(summary["groups"]) == ["F"] * rows
    assert summary["gaps"]["A"]["auroc"]["reason"]


@pytest.mark.filterwarnings("error")
def test_missing_labels_are_unknown():
    labels = np.array(["PA", None, np.nan, "", "AP"], dtype=object)
    summary = subgroup_summary([[0], [1], [0], [1], [1]], np.zeros((5, 1)), ["A"], labels, resamples=0)
    assert summary["unknown"] == 3
    assert list(summary["groups"]) == ["AP", "PA"]


def test_age_bands():
    ages = [0, 17.9, 18, 39.5, 40, 59, 60, 79.9, 80, 104, np.nan]
    bands = ["0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60-79", "60-79", "80+", "80+", ""]
    assert age_bands(ages).tolist() == bands
    order = subgroup_summary([[1], [0], [1]], np.zeros((3, 1)), ["A"], age_bands([85, 5, 30]), resamples=0)
    assert list(order["groups"]) == ["0-17", "18-39", "80+"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: age_bands([-1]), "negative"),
        (lambda: age_bands([np.inf]), "infinite"),
        (lambda: age_bands([[3]]), "no list"),
        (lambda: subgroup_summary([[1]], [[0.5]], ["A"], ["F", "M"]), "labels has shape"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
