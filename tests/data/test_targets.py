import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.targets import any_finding, make_grades, make_targets, match_classes
from cxrmonai.errors import CxrError

NAN = np.nan
FIVE = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]


def test_competition_policy_of_chexpert():
    labels = np.float32([[-1] * 5, [NAN] * 5, [1, 0, 1, 0, 1]])
    expected = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]]
    targets = make_targets(labels, FIVE, "chexpert5")
    np.testing.assert_array_equal(targets, np.float32(expected))
    assert targets.dtype == np.float32
    kept = make_targets(labels, FIVE, "chexpert5", blank="ignore")
    np.testing.assert_array_equal(kept, np.float32([expected[0], [NAN] * 5, expected[2]]))


def test_competition_policy_knows_other_spellings():
    targets = make_targets(np.float32([[-1, -1]]), ["pulmonary edema", "Effusion"], "chexpert5")
    np.testing.assert_array_equal(targets, [[1, 0]])


@pytest.mark.parametrize(
    ("policy", "blank", "expected"),
    [
        ("ignore", None, [[NAN, NAN, 1]]),
        ("ignore", "zeros", [[NAN, 0, 1]]),
        ("ones", "zeros", [[1, 0, 1]]),
        ({"a": "zeros"}, "zeros", [[0, 0, 1]]),
        ("zeros", "ignore", [[0, NAN, 1]]),
    ],
)
def test_blanks(policy, blank, expected):
    targets = make_targets(np.float32([[-1, NAN, 1]]), ["a", "b", "c"], policy, blank)
    np.testing.assert_array_equal(targets, np.float32(expected))


def test_unknown_words_are_refused():
    with pytest.raises(CxrError, match="blank 'ones': known are ignore, zeros"):
        make_targets(np.zeros((1, 1)), ["a"], blank="ones")
    with pytest.raises(CxrError, match="'twos' for a: known are ignore, zeros, ones, and chexpert5 for all"):
        make_targets(np.zeros((1, 1)), ["a"], "twos")
    with pytest.raises(CxrError, match="'chexpert5' for a: known are"):
        make_targets(np.zeros((1, 1)), ["a"], {"a": "chexpert5"})


ANY = [  # mass, nodule, any
    (1, 0, 1),
    (1, NAN, 1),
    (1, -1, 1),
    (0, 0, 0),
    (0, NAN, NAN),
    (0, -1, NAN),
    (NAN, NAN, NAN),
    (-1, -1, NAN),
]


@pytest.mark.parametrize(("mass", "nodule", "expected"), ANY)
def test_any_finding(mass, nodule, expected):
    targets = any_finding(np.float32([[mass, nodule]]), ["Mass", "Nodule"])
    assert targets.shape == (1, 1)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[expected]])


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        ([0, -1], {"policy": "ones"}, 1),
        ([0, -1], {"policy": "zeros"}, 0),
        ([0, NAN], {"blank": "zeros"}, 0),
        ([NAN, -1], {"blank": "zeros"}, NAN),
        ([NAN, -1], {"policy": {"Nodule": "ones"}}, 1),
        ([1, 0], {"findings": ["nodules"]}, 0),
        ([NAN, 1], {"findings": ["Mass"]}, NAN),
    ],
)
def test_any_finding_with_options(labels, options, expected):
    np.testing.assert_array_equal(any_finding(np.float32([labels]), ["Mass", "Nodule"], **options), [[expected]])


@pytest.mark.parametrize(
    ("clear", "mass", "devices", "expected"),
    [(1, NAN, 1, 0), (1, 1, 0, 1), (0, NAN, 0, NAN), (NAN, 0, 1, 0), (0, 1, NAN, 1), (1, -1, NAN, 0), (0, 0, 1, 0)],
)
def test_no_finding_is_no_finding_and_devices_are_none(clear, mass, devices, expected):
    names = ["no finding", "Mass", "Support Devices"]
    np.testing.assert_array_equal(any_finding(np.float32([[clear, mass, devices]]), names), [[expected]])


def test_support_devices_count_when_they_are_named():
    labels = np.float32([[0, 1]])
    assert any_finding(labels, ["Mass", "Support Devices"], ["Mass", "Support Devices"]) == 1


def test_any_finding_needs_one():
    with pytest.raises(CxrError, match="no finding to tell abnormal by among No Finding; name some"):
        any_finding(np.zeros((1, 1)), ["No Finding"])
    with pytest.raises(CxrError, match="no class 'Hernia'; there are Mass"):
        any_finding(np.zeros((1, 1)), ["Mass"], ["Hernia"])


@pytest.mark.parametrize(
    "values",
    [
        [0, 3, -1, NAN, 2],
        ["0", "3.0", "-1", "", " 2 "],
        pd.Series(["0", "3", "-1", None, "2"]),
        pd.Series([0, 3, -1, None, 2]),
        pd.Series(["0", "3", "-1", " nan", "2"], dtype="string"),
    ],
)
def test_grades(values):
    grades = make_grades(values, 4, "severity")
    np.testing.assert_array_equal(grades, np.float32([0, 3, NAN, NAN, 2]))
    assert grades.dtype == np.float32


@pytest.mark.parametrize("value", [4, 1.5, -2, np.inf, "mild", "1;2"])
def test_what_is_no_grade_is_refused(value):
    with pytest.raises(CxrError, match=r"column 'severity' holds '.+'; a grade is 0 to 3, -1 \(uncertain\) or blank"):
        make_grades([0, value], 4, "severity")


def test_one_grade_is_no_choice():
    with pytest.raises(CxrError, match="column 'severity': 1 grades make no choice"):
        make_grades([0], 1, "severity")


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (["Effusion"], ["Mass", "Pleural Effusion"], [1]),
        (["Pleural Effusion", "mass"], ["Mass", "effusion"], [1, 0]),
        (["Edema"], ["Pulmonary Edema", "Edema"], [1]),
        (["my label", "Mass"], ["Mass", "my label"], [1, 0]),
        ([], ["Mass"], []),
    ],
)
def test_classes_are_matched_whatever_they_are_called(wanted, there, expected):
    assert match_classes(wanted, there) == expected


def test_matching_faults():
    with pytest.raises(CxrError, match="no class 'Hernia', 'my label'; there are Mass, Nodule"):
        match_classes(["Hernia", "Mass", "my label"], ["Mass", "Nodule"])
    with pytest.raises(CxrError, match="class 'Oedema' fits both 'Pulmonary Edema' and 'Edema'; name one of them"):
        match_classes(["Oedema"], ["Pulmonary Edema", "Edema"])
    with pytest.raises(CxrError, match="classes 'Effusion' and 'Pleural Effusion' are one, 'Pleural Effusion'"):
        match_classes(["Effusion", "Pleural Effusion"], ["Mass", "Pleural Effusion"])
