"""Each pretext task: its data, loss and figures against other means, and what it refuses."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from sklearn.metrics import log_loss, roc_auc_score

from cxrmonai.data.attributes import attribute_targets
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.store import open_store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.engines.pretext import (
    Attributes,
    Masked,
    Reconstruction,
    RotationShift,
    StudyPair,
    TaskScores,
    remake_task,
    task_figures,
)
from cxrmonai.errors import CxrError
from cxrmonai.networks import PretextNetwork
from cxrmonai.transforms import BatchScaleIntensityd

RANDOM = np.random.default_rng(0)


def double(values):
    return torch.from_numpy(np.asarray(values, np.float64))


def write(path, **columns):
    """A store of 16-pixel images with the given columns."""
    count = len(next(iter(columns.values())))
    base = {"image": [f"{k}.png" for k in range(count)], "image_id": [f"i{k}" for k in range(count)]}
    base |= {"patient_id": [f"p{k}" for k in range(count)], "study_id": [f"s{k}" for k in range(count)]}
    base |= {"split": ["train", "val"] * (count // 2)}
    images = np.random.default_rng(0).integers(0, 255, (count, 16, 16), dtype=np.uint8)
    geometry = np.tile(letterbox_geometry(16, 16, 16), (count, 1))
    labels = pd.DataFrame({"Edema": np.arange(count) % 2})
    table = make_table({**base, **columns}, labels)
    write_store(path, images=images, geometry=geometry, table=table, class_names=["Edema"], source="test")
    return str(path)


def test_rotation_and_shift():
    task = RotationShift()
    answers, label = double(RANDOM.normal(size=(9, 10))), {}
    for name, size in task.heads:
        label[name] = torch.from_numpy(RANDOM.integers(size, size=9))
    parts = dict(zip(("rotation", "shift_x", "shift_y"), np.split(answers.numpy(), [4, 7], axis=1), strict=True))
    losses, measures = [], task.measures(answers, label).means
    for name, part in parts.items():
        share = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        losses.append(log_loss(label[name], share, labels=range(part.shape[1])))
        right = [row.argmax() == truth for row, truth in zip(part, label[name], strict=True)]
        assert measures[f"{name}_accuracy"].tolist() == [float(value) for value in right]
    assert task.loss(answers, label).item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_age_and_sex():
    task = Attributes(age=True, sex=True)
    age, sex = np.array([30, 60, np.nan, 89.0]), np.array([1, np.nan, 0, 1])
    answers, label = double(RANDOM.normal(size=(4, 2))), double(np.stack([age / 89, sex], axis=1))
    error = [(answers[k, 0].item() - age[k] / 89) ** 2 for k in (0, 1, 3)]
    entropy = [math.log1p(math.exp(-answers[k, 1].item() * (2 * sex[k] - 1))) for k in (0, 2, 3)]
    assert task.loss(answers, label).item() == pytest.approx(np.mean(error) + np.mean(entropy), rel=1e-9)
    years = task.measures(answers, label).means["age_mae"]
    assert years[0].item() == pytest.approx(abs(89 * answers[0, 0].item() - 30), rel=1e-5)
    assert torch.isnan(years[2])
    truth, score = task.measures(answers, label).ranked["sex_auroc"]
    assert torch.equal(score, answers[:, 1])
    assert torch.equal(truth.nan_to_num(9), label[:, 1].nan_to_num(9))
    assert Attributes(age=False, sex=True).loss(answers[:, 1:], label[:, 1:]).item() == pytest.approx(np.mean(entropy))


def test_attribute_targets_are_those_of_the_table(tmp_path):
    store = open_store(write(tmp_path / "s.h5", age=[20, np.nan, 150, 44.5], sex=["F", "M", "", "F"]))
    expected = [[20 / 89, 1], [np.nan, 0], [np.nan, np.nan], [44.5 / 89, 1]]
    np.testing.assert_allclose(attribute_targets(store, ["age", "sex"]), expected, rtol=1e-6)
    made = Attributes(age=True, sex=True).dataset(str(store.path), "val")
    assert made.rows.tolist() == [1, 3]
    np.testing.assert_allclose(made[1]["label"], expected[3], rtol=1e-6)
    assert Attributes(age=True).dataset(str(store.path), "train").rows.tolist() == [0]  # an age of 150 is none


def test_reconstruction_counts_what_is_not_padding_and_adds_the_findings():
    size, picture = 12, RANDOM.random((3, 1, 12, 12))
    picture[:, :, :, :5] = 0
    findings = np.array([[1, 0], [np.nan, 1], [0, -1.0]])
    label = {"picture": double(picture), "weight": double(picture > 0), "findings": double(findings)}
    restored, logits = RANDOM.normal(0.5, 0.2, (3, size * size)), RANDOM.normal(size=(3, 2))
    squares = [
        (guess - truth) ** 2 for guess, truth in zip(restored.ravel(), picture.ravel(), strict=True) if truth > 0
    ]
    plain = Reconstruction()
    assert plain.loss(double(restored), label).item() == pytest.approx(np.mean(squares), rel=1e-9)
    known = [(0, 0), (0, 1), (1, 1), (2, 0)]
    entropy = np.mean([math.log1p(math.exp(-logits[place] * (2 * findings[place] - 1))) for place in known])
    task = Reconstruction(class_loss_weight=0.3, classes=2)
    found = task.loss(double(np.concatenate([logits, restored], axis=1)), label)
    assert found.item() == pytest.approx(np.mean(squares) + 0.3 * entropy, rel=1e-9)
    error = np.mean((np.clip(restored[0], 0, 1) - picture[0].ravel())[picture[0].ravel() > 0] ** 2)
    assert plain.measures(double(restored), label).means["psnr"][0].item() == pytest.approx(-10 * np.log10(error), 1e-4)


def test_masked_modelling_counts_the_hidden_patches():
    picture, weight = RANDOM.random((2, 1, 12, 12)), np.zeros((2, 1, 12, 12))
    weight[:, :, 3:6, 6:12] = 1
    restored = RANDOM.random((2, 144))
    label = {"picture": double(picture), "weight": double(weight)}
    squares = (restored.reshape(picture.shape) - picture)[weight > 0] ** 2
    assert Masked(patch=3).loss(double(restored), label).item() == pytest.approx(squares.mean(), rel=1e-9)
    perfect = Masked(patch=3).measures(double(picture.reshape(2, -1)), label).means
    assert torch.isinf(perfect["psnr"]).all()
    assert perfect["ssim"].tolist() == pytest.approx([1, 1])


def test_pairs():
    task = StudyPair()
    answers = double(RANDOM.normal(size=(4, 2)))
    label = double([[1, 1], [0, np.nan], [1, 0], [1, np.nan]])
    terms = [[math.log1p(math.exp(-a * (2 * t - 1))) for a, t in zip(row, truth, strict=True) if t == t]
             for row, truth in zip(answers.T.tolist(), label.T.tolist(), strict=True)]  # fmt: skip
    assert task.loss(answers, label).item() == pytest.approx(sum(np.mean(part) for part in terms), rel=1e-9)
    right = task.measures(answers, label).means["order_accuracy"]
    assert right[0] == float(answers[0, 1] > 0)
    assert right[2] == float(answers[2, 1] < 0)
    assert torch.isnan(right[[1, 3]]).all()


def test_scores_of_an_evaluation_are_those_of_all_its_batches():
    task, scores = Attributes(age=True, sex=True), TaskScores(Attributes(age=True, sex=True))
    batches = [(RANDOM.normal(size=(n, 2)), RANDOM.random((n, 1)), RANDOM.integers(2, size=(n, 1))) for n in (5, 7, 2)]

    def step(_, batch):
        answers, age, sex = batch["parts"]
        return {"pred": double(answers), "label": double(np.concatenate([age, sex], axis=1))}

    engine = Engine(step)
    scores.attach(engine)
    state = engine.run([{"parts": parts, "index": torch.arange(len(parts[0]))} for parts in batches])
    answers, age, sex = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert state.metrics["val_age_mae"] == pytest.approx(89 * np.abs(answers[:, 0] - age[:, 0]).mean(), rel=1e-5)
    assert state.metrics["val_sex_auroc"] == pytest.approx(roc_auc_score(sex[:, 0], answers[:, 1]))
    assert task.settings == {"name": "age_sex", "age": True, "sex": True}


@pytest.mark.parametrize(
    "task",
    [RotationShift(0.2), Attributes(sex=True), Reconstruction(0.5, 3), Masked(4, 0.3, "fixed", 2, 9), StudyPair("x")],
    ids=lambda task: task.name,
)
def test_tasks_are_made_again_from_their_settings(task):
    again = remake_task(task.settings)
    assert type(again) is type(task)
    assert (again.settings, again.heads) == (task.settings, task.heads)


def test_a_task_of_another_version_is_refused():
    for settings in ({"name": "jigsaw"}, {"name": "age", "years": 3}, {}):
        with pytest.raises(CxrError, match="does not know"):
            remake_task(settings)


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        (Attributes(age=True), {"sex": ["F", "M"] * 4}, "has an age"),
        (Attributes(age=False, sex=True), {"age": [50] * 8}, "has a sex"),
        (Attributes(age=False, sex=True), {"sex": ["F"] * 8}, "of one sex"),
        (StudyPair(), {"age": [50] * 8}, "second study"),
        (StudyPair(), {"patient_id": ["a"] * 8}, "one patient"),
        (StudyPair("study_date"), {"age": [50] * 8}, "study_date"),
    ],
)
def test_a_set_that_cannot_serve_is_refused(tmp_path, task, columns, words):
    path = write(tmp_path / "s.h5", **columns)
    with pytest.raises(CxrError, match=words) as refused:
        task.dataset(path, "train")
    assert str(tmp_path) in str(refused.value)


def test_options_that_make_no_task_are_refused():
    with pytest.raises(CxrError, match="age, sex or both"):
        Attributes(age=False)
    with pytest.raises(CxrError, match="set it to 0"):
        Reconstruction(class_loss_weight=1)
    with pytest.raises(CxrError, match="at least 0"):
        Reconstruction(class_loss_weight=-1, classes=2)


def test_figures_of_a_split_have_intervals_by_patient(tmp_path):
    count = 24
    ages = RANDOM.integers(20, 80, count).astype(float)
    path = write(
        tmp_path / "s.h5", age=ages, sex=["F", "F", "M", "M"] * 6, patient_id=[f"p{k // 3}" for k in range(count)]
    )
    task = Attributes(age=True, sex=True)
    network = PretextNetwork("resnet10t", image_size=16, heads=task.heads, task=task.settings)
    made = task_figures(network, path, "val", BatchScaleIntensityd("image"), batch_size=5, resamples=200)
    store = open_store(path)
    rows = store.rows("val")
    with torch.no_grad():
        answers = network.eval()(torch.from_numpy(store.images[rows]).unsqueeze(1) / 255).numpy()
    figures = made["figures"]
    errors = np.abs(89 * answers[:, 0] - ages[rows])
    assert figures["age_mae"]["value"] == pytest.approx(errors.mean(), rel=1e-4)
    assert figures["age_mae"]["items"] == len(rows)
    low, high = figures["age_mae"]["ci"]
    by_patient = pd.Series(errors).groupby(store.column("patient_id")[rows]).mean()
    assert by_patient.min() <= low < figures["age_mae"]["value"] < high <= by_patient.max()
    truth = store.column("sex")[rows] == "F"
    assert figures["sex_auroc"]["value"] == pytest.approx(roc_auc_score(truth, answers[:, 1]))
    without = write(tmp_path / "t.h5", sex=["F", "F", "M", "M"] * 2)
    assert "has an age" in task_figures(network, without, "val", BatchScaleIntensityd("image"))["refused"]
