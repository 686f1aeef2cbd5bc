"""Fractions of the labels: drawn by patient, seeded, nested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmonai.data.label_fractions import draw_labelled, draw_patients, labelled_part, parse_fractions, percent
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task, make_task
from cxrmonai.errors import CxrError

fractions = st.floats(0.02, 1)


@given(
    owners=st.lists(st.integers(0, 30), min_size=60, max_size=200),
    pair=st.tuples(fractions, fractions),
    seed=st.integers(0, 3),
    draw=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_draws_are_whole_patients_of_the_right_number_and_nested(owners, pair, seed, draw):
    patients = np.array([f"p{owner}" for owner in owners])
    count = len(set(owners))
    small, large = sorted(pair)
    if round(small * count) == 0:
        return
    inner, outer = (draw_patients(patients, fraction, seed, draw) for fraction in (small, large))
    assert set(patients[inner]).isdisjoint(patients[~inner])
    assert abs(len(set(patients[inner])) - small * count) <= 0.5
    assert not (inner & ~outer).any()
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    np.testing.assert_array_equal(draw_patients(patients[shuffled], small, seed, draw), inner[shuffled])


def test_draws_differ_and_the_whole_does_not():
    patients = np.array([f"p{k}" for k in range(100)])
    drawn = [draw_patients(patients, 0.1, 0, draw) for draw in range(5)]
    assert len({tuple(np.flatnonzero(each)) for each in drawn}) == 5
    assert not np.array_equal(drawn[0], draw_patients(patients, 0.1, 1, 0))
    assert all(draw_patients(patients, 1, 0, draw).all() for draw in range(5))


@pytest.mark.parametrize(("value", "expected"), [(0.1, [0.1]), ("0.1,1", [0.1, 1]), ((1, 0.5, 0.5), [0.5, 1])])
def test_fractions_are_read_in_every_spelling(value, expected):
    assert parse_fractions(value) == expected


@pytest.mark.parametrize("value", [0, -0.1, 1.5, "x", True, "0.1,,1", []])
def test_other_fractions_are_refused(value):
    with pytest.raises(CxrError, match="label_fraction"):
        parse_fractions(value)


def test_a_fraction_of_no_patient_is_refused_with_the_least_that_would_do():
    with pytest.raises(CxrError, match=r"label_fraction 0.01 of 20 training patients is no patient; give 0.05 or more"):
        draw_patients([f"p{k}" for k in range(20)], 0.01)


def test_a_draw_says_which_classes_it_cannot_teach():
    targets = np.array([[1, 0], [0, 0], [np.nan, 1], [0, 1]], np.float32)
    drawn = draw_labelled(Task("multilabel", ["A", "B"], targets), np.array([1, 2]), np.array(["p", "q"]), 1)
    np.testing.assert_array_equal(drawn.positives, [0, 1])
    np.testing.assert_array_equal(drawn.negatives, [1, 1])
    (sentence,) = drawn.shortcomings(["A", "B"])
    assert sentence == "draw 0 of 100 % of the labels (2 images of 2 patients) has no image with A"
    assert percent(0.001) == "0.1 %"


def test_only_training_images_of_a_store_are_drawn(small_phantom, capsys):
    store = open_store(small_phantom)
    part = labelled_part(small_phantom, make_task(small_phantom), 0.3, draw=1)
    assert set(store.column("split")[part.rows]) == {"train"}
    assert f"30 % of the labels, draw 1: {len(part.rows)} images of {part.patients} patients" in capsys.readouterr().out
    whole = labelled_part(small_phantom, make_task(small_phantom))
    np.testing.assert_array_equal(whole.rows, store.rows("train"))
    with pytest.raises(CxrError, match="one run takes one fraction"):
        labelled_part(small_phantom, make_task(small_phantom), "0.1,1")
