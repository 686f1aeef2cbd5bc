import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrmonai.errors import CxrError
from cxrmonai.files import write_json
from cxrmonai.metrics import (
    Evaluation,
    OperatingPoints,
    apply_temperatures,
    apply_thresholds,
    brier_score,
    choose_thresholds,
    classification_summary,
    evaluation_summary,
    expected_calibration_error,
    fit_operating_points,
    fit_temperatures,
    multiclass_summary,
    subgroup_summary,
)

NAMES = ["Effusion", "Mass", "Nodule"]


def draw(seed, rows):
    random = np.random.default_rng(seed)
    truth = (random.random((rows, 3)) < [0.4, 0.3, 0.2]).astype(float)
    probability = 1 / (1 + np.exp(-2 * (truth + random.normal(size=truth.shape) - 1)))
    truth[random.random(truth.shape) < 0.08] = np.nan
    return truth, probability


def make(truth, probability, **options):
    rows = len(truth)
    random = np.random.default_rng(0)
    given = {
        "class_names": NAMES[: np.shape(probability)[1]],
        "image_ids": [f"i{row:03d}" for row in range(rows)],
        "patient_ids": [f"p{row // 3}" for row in range(rows)],
        "splits": ["test"] * rows,
        "sex": random.choice(["F", "M", ""], rows),
        "age": random.uniform(20, 90, rows),
        "view": random.choice(["PA", "AP"], rows),
    }
    return Evaluation(truth, probability, **{**given, **options})


@pytest.fixture(scope="module")
def evaluated():
    operating = fit_operating_points(*draw(1, 150))
    evaluation = make(*draw(2, 210), operating=operating)
    return evaluation, evaluation_summary(evaluation, resamples=20, seed=3)


def test_summary_holds_what_the_parts_give(evaluated):
    evaluation, summary = evaluated
    truth, probability, operating = evaluation.truth, evaluation.probability, evaluation.operating
    groups = np.char.add("patient ", evaluation.patient_ids)
    plain = classification_summary(truth, probability, NAMES, groups, 20, 3)
    assert {key: summary[key] for key in plain if key != "findings"} == {
        key: value for key, value in plain.items() if key != "findings"
    }
    points = apply_thresholds(truth, probability, operating.thresholds)
    scaled = apply_temperatures(probability, operating.temperatures)
    for column, name in enumerate(NAMES):
        found = summary["findings"][name]
        assert found.items() >= plain["findings"][name].items()
        for key, values in points.items():
            assert found[key] == pytest.approx(values[column], abs=1e-12)
        assert found["threshold"] == operating.thresholds[column]
        assert found["temperature"] == operating.temperatures[column]
        for part, given in (("", probability), ("_calibrated", scaled)):
            assert found[f"brier{part}"] == brier_score(truth, given)[column]
            assert found[f"ece{part}"] == expected_calibration_error(truth, given)[column]
        assert found["ece_mass"] == expected_calibration_error(truth, probability, binning="mass")[column]
        for key in ("sensitivity", "specificity"):
            assert found[f"{key}_ci"][0] <= found[key] <= found[f"{key}_ci"][1]
        assert isinstance(found["true_positives"], int)
        assert found["notes"] == []
    assert list(summary["subgroups"]) == ["sex", "age", "view"]
    direct = subgroup_summary(truth, probability, NAMES, evaluation.sex, evaluation.calls, groups, 20, 3)
    assert summary["subgroups"]["sex"] == direct
    assert summary["splits"] == {"test": 210}
    assert summary["operating_points"] == operating.origin
    assert "150 validation images; rule: the largest sensitivity + specificity (Youden)" in operating.origin


def test_summary_is_plain_json(evaluated, tmp_path):
    write_json(tmp_path / "metrics.json", evaluated[1])
    assert json.loads((tmp_path / "metrics.json").read_text())["findings"]["Mass"]["auroc"] == pytest.approx(
        evaluated[1]["findings"]["Mass"]["auroc"]
    )


def test_operating_points_are_those_of_the_validation_images():
    truth, probability = draw(1, 150)
    operating = fit_operating_points(truth, probability, rule="sensitivity", target=0.9, source="images of split val")
    np.testing.assert_array_equal(operating.thresholds, choose_thresholds(truth, probability, "sensitivity", 0.9)[0])
    np.testing.assert_array_equal(operating.temperatures, fit_temperatures(truth, probability)[0])
    assert "150 images of split val; rule: the highest threshold with a sensitivity of at least 0.9" in operating.origin


def test_a_poisoned_test_label_changes_no_threshold_or_temperature(evaluated):
    evaluation, summary = evaluated
    poisoned = dataclasses.replace(evaluation, truth=1 - evaluation.truth)
    other = evaluation_summary(poisoned, resamples=0)
    for name in NAMES:
        for key in ("threshold", "temperature"):
            assert other["findings"][name][key] == summary["findings"][name][key]
        assert other["findings"][name]["auroc"] == pytest.approx(1 - summary["findings"][name]["auroc"], abs=1e-12)
    np.testing.assert_array_equal(poisoned.calls, evaluation.calls)
    np.testing.assert_array_equal(poisoned.calibrated, evaluation.calibrated)


def test_order_of_images_changes_nothing(evaluated):
    evaluation, summary = evaluated
    order = np.random.default_rng(1).permutation(210)
    fields = ("truth", "probability", "image_ids", "patient_ids", "splits", "sex", "age", "view")
    shuffled = dataclasses.replace(evaluation, **{key: getattr(evaluation, key)[order] for key in fields})
    other = evaluation_summary(shuffled, resamples=20, seed=3)
    for name in NAMES:
        for key in ("auroc", "auroc_ci", "average_precision_ci", "sensitivity_ci", "ece", "brier"):
            assert other["findings"][name][key] == pytest.approx(summary["findings"][name][key], abs=1e-12)


def test_unknown_patients_are_their_own():
    truth, probability = draw(4, 30)
    evaluation = make(truth, probability, patient_ids=[""] * 10 + ["i000"] * 10 + ["b"] * 10)
    assert len(np.unique(evaluation.groups)) == 12
    assert evaluation_summary(evaluation, resamples=0)["patients"] == 12


@pytest.mark.filterwarnings("error")
def test_without_operating_points_nothing_is_called():
    summary = evaluation_summary(make(*draw(4, 40)), resamples=4)
    found = summary["findings"]["Mass"]
    assert summary["operating_points"] is None
    assert np.isnan([found[key] for key in ("threshold", "sensitivity", "true_positives", "temperature")]).all()
    assert found["notes"] == ["no validation predictions were given: no threshold and temperature"]
    assert not np.isnan([found["auroc"], found["brier"], found["ece"]]).any()


@pytest.mark.filterwarnings("error")
def test_columns_of_one_class_say_so():
    truth, probability = draw(5, 60)
    truth[:, 0], truth[:, 1], truth[:, 2] = 0, 1, np.nan
    operating = fit_operating_points(truth, probability)
    assert np.isnan(operating.thresholds).all()
    assert operating.temperatures.tolist() == [1, 1, 1]
    summary = evaluation_summary(make(truth, probability, operating=operating), resamples=5)
    notes = [summary["findings"][name]["notes"] for name in NAMES]
    assert notes[0] == [
        "no image with Effusion under test: AUROC and what needs both is not defined",
        "no threshold: the validation set has no image with the finding",
        "temperature left at 1: the validation set has no image with the finding",
    ]
    assert notes[1][0] == "no image without Mass under test: AUROC and what needs both is not defined"
    assert notes[2][0].startswith("no image with a known label under test")
    assert np.isnan(summary["mean_auroc"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("truth", [[[1.0, 0.0, np.nan]], [[np.nan] * 3]])
def test_one_image(truth):
    operating = fit_operating_points(*draw(1, 150))
    summary = evaluation_summary(make(truth, [[0.2, 0.9, 0.4]], operating=operating), resamples=5)
    assert (summary["images"], summary["patients"]) == (1, 1)
    assert np.isnan(summary["findings"]["Mass"]["auroc"])


@pytest.fixture(scope="module")
def graded():
    random = np.random.default_rng(6)
    numbers = random.choice(3, 240).astype(float)
    logits = 2 * np.eye(3)[numbers.astype(int)] + 2 * random.normal(size=(240, 3))
    numbers[:6] = np.nan
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    operating = fit_operating_points(numbers[:90], probability[:90], task="multiclass")
    evaluation = make(numbers[90:], probability[90:], task="multiclass", ordered=True, operating=operating)
    return evaluation, numbers[90:]


def test_multiclass_part(graded):
    evaluation, numbers = graded
    summary = evaluation_summary(evaluation, resamples=10)
    direct = multiclass_summary(numbers, evaluation.probability, NAMES, evaluation.groups, 10, ordered=True)
    assert summary["multiclass"].items() >= direct.items()
    assert summary["mean_auroc"] == pytest.approx(direct["mean_auroc"], abs=1e-12)
    predicted = evaluation.probability.argmax(axis=1)
    for column, name in enumerate(NAMES):
        found = summary["findings"][name]
        assert found["auroc"] == pytest.approx(
            roc_auc_score(numbers == column, evaluation.probability[:, column]), abs=1e-9
        )
        assert found["sensitivity"] == pytest.approx((predicted == column)[numbers == column].mean(), abs=1e-12)
        assert found["true_positives"] == direct["confusion"][column][column]
    right = (predicted == numbers).astype(float)
    error = expected_calibration_error(right, evaluation.probability.max(axis=1))
    assert summary["multiclass"]["ece"] == pytest.approx(error, abs=1e-12)
    assert summary["multiclass"]["ece_calibrated"] < error
    assert summary["multiclass"]["temperature"] == evaluation.operating.temperatures[0] > 1
    assert evaluation.calibrated.sum(axis=1) == pytest.approx(np.ones(150))


@pytest.mark.filterwarnings("error")
def test_multiclass_without_operating_points_or_labels():
    summary = evaluation_summary(make([np.nan], [[0.2, 0.3, 0.5]], task="multiclass"), resamples=3)
    assert np.isnan([summary["multiclass"][key] for key in ("accuracy", "ece", "temperature")]).all()
    assert summary["findings"]["Mass"]["notes"][1] == "no validation predictions were given: no temperature"


FEW = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "binary"}, "task 'binary': known are multilabel, multiclass"),
        ({"ordered": True}, "ordered is set, but task is multilabel"),
        ({"class_names": ["a", "a"]}, "has a name twice"),
        ({"class_names": ["a"]}, "class_names has 1 names"),
        ({"truth": [[0, 1], [0, 2]]}, "truth is 2 at row 1"),
        ({"truth": np.zeros((0, 2)), "probability": np.zeros((0, 2))}, "there is no image to evaluate"),
        ({"probability": FEW + 1}, "probability is 1.5"),
        ({"task": "multiclass", "truth": [0, 1], "probability": FEW * 0.9}, "sums to 0.9 at row 0"),
        ({"task": "multiclass", "truth": [0, 5]}, "truth is 5 at row 1"),
        ({"image_ids": ["a", "a"]}, "image_ids has a twice"),
        ({"image_ids": ["a", None]}, "image_ids is empty at row 1"),
        ({"image_ids": ["a"]}, "image_ids has shape"),
        ({"patient_ids": ["a"]}, "patient_ids has shape"),
        ({"splits": ["a"]}, "splits has shape"),
        ({"sex": ["F"]}, "sex has shape"),
        ({"age": [3.0]}, "age has shape"),
        ({"age": [3.0, -1.0]}, "age holds a negative"),
        ({"operating": OperatingPoints(None, np.ones(2))}, "operating.thresholds must be given"),
        ({"operating": OperatingPoints(np.ones(3), np.ones(2))}, "operating.thresholds has shape"),
        ({"operating": OperatingPoints(np.ones(2), np.ones(1))}, "operating.temperatures has shape"),
        (
            {"task": "multiclass", "truth": [0, 1], "operating": OperatingPoints(np.ones(2), np.ones(1))},
            "operating.thresholds must be left out",
        ),
    ],
)
def test_unusable_input_is_named(options, words):
    given = {"truth": [[0, 1], [1, 0]], "probability": FEW, "class_names": ["a", "b"], "image_ids": ["a", "b"]}
    given |= {"patient_ids": ["a", "b"], "splits": ["test", "test"]}
    with pytest.raises(CxrError, match=words):
        Evaluation(**{**given, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "binary"}, "task 'binary'"),
        ({"rule": "best"}, "threshold rule 'best'"),
        ({"rule": "best", "task": "multiclass"}, "threshold rule 'best'"),
        ({"rule": "specificity"}, "has target None"),
    ],
)
def test_unusable_choice_is_named(options, words):
    with pytest.raises(CxrError, match=words):
        fit_operating_points([[0, 1], [1, 0]], FEW, **options)
