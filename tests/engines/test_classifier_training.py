"""What a classifier's run is judged by, and what it keeps."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from cxrmonai.engines import MeanAuroc, read_operating_points
from cxrmonai.engines.classification import write_operating_points
from cxrmonai.errors import CxrError
from cxrmonai.metrics.evaluation import OperatingPoints

RNG = np.random.default_rng(0)


def value(kind, logits, target, size=7):
    metric = MeanAuroc(kind)
    metric.reset()
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        metric.update((torch.from_numpy(logits[part]), torch.from_numpy(target[part])))
    return metric.compute()


def test_mean_over_findings_that_have_both():
    logits = RNG.normal(size=(40, 4)).astype(np.float32)
    target = (RNG.random((40, 4)) < 0.3).astype(np.float32)
    target[::5, 0] = np.nan
    target[:, 2], target[:, 3] = 0, np.nan
    known = ~np.isnan(target[:, 0])
    expected = [roc_auc_score(target[known, 0], logits[known, 0]), roc_auc_score(target[:, 1], logits[:, 1])]
    assert value("multilabel", logits, target) == pytest.approx(np.mean(expected), abs=1e-9)


def test_each_class_against_the_rest():
    logits = RNG.normal(size=(60, 3)).astype(np.float32)
    target = RNG.integers(0, 3, (60, 1)).astype(np.float32)
    target[:9] = np.nan
    scores, truth = softmax(logits[9:], axis=1), target[9:, 0]
    expected = np.mean([roc_auc_score(truth == k, scores[:, k]) for k in range(3)])
    assert value("multiclass", logits, target) == pytest.approx(expected, abs=1e-6)


def test_nothing_known_or_no_number_is_nan():
    assert np.isnan(value("multilabel", np.zeros((5, 2), np.float32), np.full((5, 2), np.nan, np.float32)))
    assert np.isnan(value("multilabel", np.full((4, 1), np.nan, np.float32), np.float32([[0], [1], [0], [1]])))


def test_operating_points_come_back_as_they_were(tmp_path, capsys):
    points = OperatingPoints(np.array([0.25, np.nan]), np.array([1.5, 1.0]), "here", ("", "one class"), ("", "too"))
    write_operating_points(points, tmp_path)
    found = read_operating_points(tmp_path / "model.pt")
    np.testing.assert_array_equal(found.thresholds, points.thresholds)
    np.testing.assert_array_equal(found.temperatures, points.temperatures)
    assert (found.origin, found.reasons, found.temperature_reasons) == ("here", ("", "one class"), ("", "too"))
    assert read_operating_points(tmp_path / "other" / "model.pt") is None
    assert "nothing is called positive" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"thresholds": 5, "temperatures": [1]})])
def test_damaged_operating_points_are_refused(tmp_path, text):
    (tmp_path / "operating_points.json").write_text(text)
    with pytest.raises(CxrError, match="not as a training run writes it"):
        read_operating_points(tmp_path / "model.pt")
