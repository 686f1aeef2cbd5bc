"""The table, its parsers, and the targets made from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmonai.data.table import BASE_COLUMNS, make_table, parse_age, parse_labels, parse_sex, parse_split
from cxrmonai.data.targets import make_targets
from cxrmonai.errors import CxrError

UNITS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def table_of(count=2, labels=None, **columns):
    names = [f"i{k}" for k in range(count)]
    return make_table({"image": names, "image_id": names, **columns}, labels)


def test_columns_come_in_order_and_unknown_is_blank_or_nan():
    table = table_of(labels=pd.DataFrame({"B": [1, 0], "A": [-1, np.nan]}), bonus=[3, 4], sex=pd.Series(["F", None]))
    assert list(table) == [*BASE_COLUMNS, "bonus", "B", "A"]
    assert table["patient_id"].tolist() == ["", ""]
    assert table["sex"].tolist() == ["F", ""]
    assert table["age"].isna().all()
    np.testing.assert_array_equal(table[["B", "A"]].to_numpy(), np.float32([[1, -1], [0, np.nan]]))


def test_rows_pair_by_position_not_by_index():
    labels = pd.DataFrame({"A": [1.0, 0.0]}, index=[7, 3])
    table = table_of(labels=labels, age=pd.Series([50, 60], index=[1, 0]))
    assert table["A"].tolist() == [1.0, 0.0]
    assert table["age"].tolist() == [50.0, 60.0]


@pytest.mark.parametrize(
    ("columns", "labels", "word"),
    [
        ({"image_id": ["same", "same"]}, None, "share an image id"),
        ({"split": ["train", "holdout"]}, None, "holdout"),
        ({"sex": ["F", "X"]}, None, "'X'"),
        ({}, {"A": [1.0, 2.0]}, "'A'"),
        ({}, {"A": [1.0, np.inf]}, "'A'"),
        ({}, {"view": [1.0, 0.0]}, "'view'"),
    ],
)
def test_contract_is_enforced(columns, labels, word):
    with pytest.raises(CxrError, match=word):
        table_of(labels=None if labels is None else pd.DataFrame(labels), **columns)


def test_empty_table_is_refused():
    with pytest.raises(CxrError, match="no rows"):
        make_table({"image": [], "image_id": []})


@given(st.integers(0, 120), st.sampled_from(sorted(UNITS)), st.booleans(), st.integers(1, 3))
def test_ages_with_unit(number, unit, lower, width):
    text = f"{number:0{width}d}{unit.lower() if lower else unit}"
    assert parse_age(pd.Series([text]))[0] == pytest.approx(number * UNITS[unit])


def test_ages_that_are_none():
    values = pd.Series(["", "121", "148Y", "-3", "old", "5 0", None, np.nan, "nan", "1e2", "inf"])
    assert np.isnan(parse_age(values)).all()
    np.testing.assert_array_equal(parse_age(pd.Series([58, 7.5, np.nan])), [58, 7.5, np.nan])
    np.testing.assert_array_equal(parse_age(pd.Series(["058Y", "120", "1500M"])), [58, 120, np.nan])


def test_sexes():
    values = pd.Series(["F", "female", "Male", " m ", "FEMALE", "Unknown", "", None, "O"])
    assert parse_sex(values).tolist() == ["F", "F", "M", "M", "F", "", "", "", ""]


def test_splits():
    values = pd.Series(["Train", "training", "VALID", "validation", "dev", "test", "train_val", "", None, " val "])
    assert parse_split(values).tolist() == [
        "train", "train", "val", "val", "val", "test", "train_val", "", "", "val"
    ]  # fmt: skip
    with pytest.raises(CxrError, match="'tset'"):
        parse_split(pd.Series(["train", "tset"]))


def test_labels_in_every_spelling():
    table = pd.DataFrame({"a": ["1", "0.0", "-1", "", "nan"], "b": ["True", "false", "YES", "no", " 1.0 "]})
    labels = parse_labels(table, ["b", "a"])
    assert list(labels) == ["b", "a"]
    np.testing.assert_array_equal(labels["a"], np.float32([1, 0, -1, np.nan, np.nan]))
    np.testing.assert_array_equal(labels["b"], np.float32([1, 0, 1, 0, 1]))
    numbers = parse_labels(pd.DataFrame({"a": [1.0, np.nan], "b": [True, False]}), ["a", "b"])
    np.testing.assert_array_equal(numbers, np.float32([[1, 1], [np.nan, 0]]))


@pytest.mark.parametrize("cell", ["2", "0.5", "maybe", "inf", "1;0"])
def test_labels_of_another_value_are_refused(cell):
    with pytest.raises(CxrError, match=r"column 'a' holds") as caught:
        parse_labels(pd.DataFrame({"a": ["1", cell]}), ["a"])
    assert repr(cell) in str(caught.value)
    with pytest.raises(CxrError, match="no column 'z'"):
        parse_labels(pd.DataFrame({"a": ["1"]}), ["z"])


LABELS = np.float32([[1, -1], [-1, 0], [np.nan, -1]])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("ignore", [[1, np.nan], [np.nan, 0], [np.nan, np.nan]]),
        ("zeros", [[1, 0], [0, 0], [np.nan, 0]]),
        ("ones", [[1, 1], [1, 0], [np.nan, 1]]),
        ({"b": "ones"}, [[1, 1], [np.nan, 0], [np.nan, 1]]),
        ({"a": "zeros", "b": "ignore"}, [[1, np.nan], [0, 0], [np.nan, np.nan]]),
    ],
)
def test_uncertainty_policies(policy, expected):
    before = LABELS.copy()
    targets = make_targets(LABELS, ["a", "b"], policy)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, np.float32(expected))
    np.testing.assert_array_equal(LABELS, before)


def test_unknown_policies_are_refused():
    with pytest.raises(CxrError, match="'twos'"):
        make_targets(LABELS, ["a", "b"], "twos")
    with pytest.raises(CxrError, match="'c'"):
        make_targets(LABELS, ["a", "b"], {"c": "ones"})
