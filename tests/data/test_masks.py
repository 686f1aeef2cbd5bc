"""Run lengths agree with pycocotools, both ways, and damaged ones are refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cxrmonai.data.masks import decode_rle, encode_rle, rle_of_runs
from cxrmonai.errors import CxrError


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_both_ways_as_pycocotools(mask):
    text = encode_rle(mask)
    found = json.loads(text)
    assert (coco.decode({**found, "counts": found["counts"].encode()}) == mask).all()
    np.testing.assert_array_equal(decode_rle(text), mask)


def test_a_large_mask_with_long_runs():
    mask = np.zeros((3000, 2500), bool)
    mask[100:2900, 7:1900] = True
    mask[::7, 2000] = True
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


@pytest.mark.parametrize(
    ("runs", "inside"),
    [([], []), ([1, 2], [1, 2]), ([0, 12], range(12)), ([3, 1, 2, 2], [3, 6, 7]), ([1, 2, 9], [1, 2]),
     ([1, 2, 1], [1, 2])],
)  # fmt: skip
def test_runs_go_down_the_columns(runs, inside):
    flat = np.zeros(12, bool)
    flat[list(inside)] = True
    np.testing.assert_array_equal(decode_rle(rle_of_runs(runs, 3, 4)), flat.reshape(4, 3).T)


@pytest.mark.parametrize("runs", [[13], [5, 8], [-1, 5], [3, -2]])
def test_runs_that_do_not_fit_are_refused(runs):
    with pytest.raises(CxrError, match="do not fit a mask of 3×4"):
        rle_of_runs(runs, 3, 4)


@pytest.mark.parametrize("counts", ["", "zzzz", "0<", "ppppppp", "\x01", "é", "<0"])
def test_damaged_texts_are_refused(counts):
    with pytest.raises(CxrError):
        decode_rle(json.dumps({"size": [3, 5], "counts": counts}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"size": [3], "counts": "<0"}', '{"size": [3, 4], "counts": 5}'])
def test_other_texts_are_refused(text):
    with pytest.raises(CxrError, match="COCO"):
        decode_rle(text)
