"""Columns of a store become the targets that a classifier is asked for."""

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.dataset import StoreDataset
from cxrmonai.data.store import write_store
from cxrmonai.data.table import make_table
from cxrmonai.data.tasks import make_task, sampling_weights
from cxrmonai.errors import CxrError

NAN = np.nan
LABELS = {
    "Effusion": [1, 0, -1, NAN, 0, 0],
    "Mass": [0, 0, 0, 1, 0, NAN],
    "Support Devices": [1, 1, 1, 1, 0, 0],
}


@pytest.fixture
def store(tmp_path):
    ids = [f"i{k}" for k in range(6)]
    columns = {"image": ids, "image_id": ids, "patient_id": ids, "severity": [0, 1, 2, 3, "", -1]}
    table = make_table({**columns, "split": ["train"] * 4 + ["val", "test"]}, pd.DataFrame(LABELS))
    write_store(
        tmp_path / "a.h5",
        images=np.zeros((6, 16, 16), np.uint8),
        geometry=np.ones((6, 8)),
        table=table,
        class_names=list(LABELS),
        source="test",
    )
    return tmp_path / "a.h5"


def test_findings_are_chosen_in_any_spelling_and_keep_the_name_they_were_asked_by(store):
    task = make_task(store, classes="Mass,Pleural Effusion")
    assert (task.kind, task.class_names) == ("multilabel", ["Mass", "Pleural Effusion"])
    np.testing.assert_array_equal(task.targets[:, 1], [1, 0, NAN, NAN, 0, 0])
    np.testing.assert_array_equal(task.targets[:, 0], [0, 0, 0, 1, 0, NAN])
    ones = make_task(store, classes=["Effusion"], policy="ones", blank="zeros")
    np.testing.assert_array_equal(ones.targets[:, 0], [1, 0, 1, 0, 0, 0])
    assert make_task(store).class_names == list(LABELS)


def test_abnormal_is_any_finding_but_devices(store):
    task = make_task(store, "abnormal")
    assert (task.kind, task.class_names) == ("multilabel", ["Abnormal"])
    np.testing.assert_array_equal(task.targets[:, 0], [1, 0, NAN, 1, 0, NAN])
    named = make_task(store, "abnormal", classes="Support Devices")
    np.testing.assert_array_equal(named.targets[:, 0], [1, 1, 1, 1, 0, 0])


def test_exclusive_classes_are_one_choice(store):
    task = make_task(store, "exclusive", classes="Effusion,Mass")
    assert (task.kind, task.class_names) == ("multiclass", ["Effusion", "Mass"])
    np.testing.assert_array_equal(task.targets[:, 0], [0, NAN, NAN, NAN, NAN, NAN])
    zeros = make_task(store, "exclusive", classes="Effusion,Mass", blank="zeros")
    np.testing.assert_array_equal(zeros.targets[:, 0], [0, NAN, NAN, 1, NAN, NAN])


def test_grades_stand_in_a_column(store):
    task = make_task(store, "grades", classes="none,mild,moderate,severe", grade_column="severity")
    assert (task.kind, task.class_names) == ("multiclass", ["none", "mild", "moderate", "severe"])
    np.testing.assert_array_equal(task.targets[:, 0], [0, 1, 2, 3, NAN, NAN])
    assert make_task(store, "grades", grade_column="severity").class_names == [f"grade {k}" for k in range(4)]
    devices = make_task(store, "grades", classes="no,yes", grade_column="Support Devices")
    np.testing.assert_array_equal(devices.targets[:, 0], [1, 1, 1, 1, 0, 0])


def test_a_dataset_serves_the_targets_of_its_rows(store):
    task = make_task(store, classes="Mass")
    dataset = StoreDataset(store, ["val", "train"], targets=task.targets)
    np.testing.assert_array_equal(dataset.__getitems__([4, 0, 3])["label"], [[0], [0], [1]])
    assert dataset[3]["label"].shape == (1,)


def test_frequencies_and_balanced_sampling(store):
    task, rows = make_task(store, classes="Effusion,Mass"), np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(task.frequencies(rows), [[2, 1], [3, 1]])
    np.testing.assert_allclose(sampling_weights(task, rows, "balanced"), [1, 1 / 2, 1, 1 / 2])
    assert sampling_weights(task, rows) is None
    grades = make_task(store, "grades", grade_column="severity")
    np.testing.assert_array_equal(grades.frequencies(np.arange(6)), [[3, 1]] * 4)
    np.testing.assert_allclose(sampling_weights(grades, np.array([0, 1, 4]), "balanced"), [1, 1, 1])
    with pytest.raises(CxrError, match="known are uniform, balanced"):
        sampling_weights(task, rows, "even")


def test_a_single_class_is_drawn_as_often_present_as_absent(store):
    task = make_task(store, classes="Support Devices")
    rows = np.arange(6)
    weights = sampling_weights(task, rows, "balanced")
    present = task.targets[rows, 0] == 1
    assert weights[present].sum() == pytest.approx(weights[~present].sum())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"target": "all"}, "target 'all': known are findings"),
        ({"classes": "Edema"}, "a.h5: no class 'Edema'; there are Effusion, Mass, Support Devices"),
        ({"target": "exclusive", "classes": "Mass"}, "needs at least two classes"),
        ({"target": "grades", "grade_column": "grade"}, "no column 'grade'"),
        ({"target": "grades", "grade_column": "severity", "classes": "a,b"}, "holds '2'"),
        ({"target": "grades", "grade_column": "age"}, "nothing is known of"),
        ({"policy": "maybe"}, "uncertainty policy 'maybe'"),
    ],
)
def test_faults(store, options, word):
    with pytest.raises(CxrError, match=word):
        make_task(store, **options)
