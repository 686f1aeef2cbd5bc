from types import SimpleNamespace

import numpy as np

from cxrmonai.report.overlays import most_probable

PROBABILITY = np.array([[0.99, 0.6, 0.3], [0.98, 0.4, 0.2], [0.97, 0.7, 0.1]])


def test_findings_take_turns_in_what_is_drawn():
    found = most_probable(SimpleNamespace(probability=PROBABILITY), 6)
    assert found == [(0, 0), (2, 1), (1, 0), (0, 1), (2, 0), (1, 1)]


def test_what_may_not_be_drawn_is_left_out():
    allowed = np.zeros((3, 3), bool)
    allowed[1:, 1:] = True
    found = most_probable(SimpleNamespace(probability=PROBABILITY), 12, allowed)
    assert found == [(2, 1), (1, 1), (1, 2), (2, 2)]
