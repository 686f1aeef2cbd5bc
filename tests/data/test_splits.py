"""Splits by patient."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmonai.data.splits import FRACTIONS, carve_validation, check_overlap, split_by_patient
from cxrmonai.errors import CxrError

PATIENTS = st.lists(st.integers(0, 60), min_size=1, max_size=80).map(lambda ids: [f"p{k}" for k in ids])
SHARES = (
    st.lists(st.integers(0, 50), min_size=1, max_size=4).filter(any).map(lambda parts: np.array(parts) / sum(parts))
)


@given(PATIENTS, SHARES, st.integers(0, 9))
def test_no_patient_is_shared_and_no_split_is_empty(patients, shares, seed):
    fractions = {f"s{k}": float(share) for k, share in enumerate(shares)}
    split = split_by_patient(patients, fractions, seed)
    of_patient = {}
    for patient, name in zip(patients, split, strict=True):
        assert of_patient.setdefault(patient, name) == name
    wanted = {name for name, share in fractions.items() if share > 0}
    assert set(split) <= wanted
    if len(of_patient) >= len(wanted):
        assert set(split) == wanted


@given(PATIENTS, st.integers(0, 9), st.randoms(use_true_random=False))
def test_independent_of_row_order(patients, seed, random):
    split = dict(zip(patients, split_by_patient(patients, seed=seed), strict=True))
    shuffled = patients * 2
    random.shuffle(shuffled)
    assert dict(zip(shuffled, split_by_patient(shuffled, seed=seed), strict=True)) == split


@pytest.mark.parametrize("count", range(3, 40))
def test_default_fractions_fill_all_three(count):
    split = split_by_patient([str(k) for k in range(count)])
    assert set(split) == set(FRACTIONS)


def test_fractions_are_kept_and_seeds_differ():
    patients = [str(k) for k in range(1000)]
    split = split_by_patient(patients, seed=1)
    assert {name: int((split == name).sum()) for name in FRACTIONS} == {"train": 700, "val": 100, "test": 200}
    assert (split_by_patient(patients, seed=2) != split).any()


@pytest.mark.parametrize("fractions", [{"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}])
def test_wrong_fractions(fractions):
    with pytest.raises(CxrError, match="sum to 1"):
        split_by_patient(["1"], fractions)


def test_carving_leaves_the_test_patients_alone():
    table = pd.DataFrame(
        {"patient_id": [f"p{k // 2}" for k in range(160)], "split": ["train_val"] * 128 + ["test"] * 30 + [""] * 2}
    )
    carved = carve_validation(table)
    assert (table["split"] == "train_val").sum() == 128
    assert (carved["split"][128:] == table["split"][128:]).all()
    assert carved["split"][:128].value_counts().to_dict() == {"train": 112, "val": 16}
    check_overlap(carved)


def test_overlap_is_told_without_a_name():
    table = pd.DataFrame({"patient_id": ["Zebedee", "Zebedee", "Ann", ""], "split": ["train", "test", "val", "val"]})
    with pytest.raises(CxrError, match=r"1 patient\(s\).*test and train") as caught:
        check_overlap(table)
    assert "Zebedee" not in str(caught.value)


def test_blank_split_or_patient_is_no_overlap():
    check_overlap(pd.DataFrame({"patient_id": ["a", "a", "", ""], "split": ["train", "", "train", "test"]}))
