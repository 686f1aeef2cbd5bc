"""What an inference on files leaves."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, softmax

from cxrmonai.engines import PredictionWriter
from cxrmonai.errors import CxrError
from cxrmonai.metrics.evaluation import OperatingPoints
from cxrmonai.networks import Classifier

LOGITS = np.array([[2.0, -1.0], [-3.0, 0.5], [0.0, 4.0]], np.float32)


def write(path, task, operating, logits=LOGITS):
    network = Classifier(["Mass", "Edema"], "resnet10t", image_size=32, task=task)
    writer = PredictionWriter(path, network, operating)
    for ids, part in ((["a", "b"], logits[:2]), ([], logits[:0]), (["c"], logits[2:])):
        batch = {"image_id": ids, "skipped": [("x.png", "x.png: damaged")] if not ids else []}
        writer.step(SimpleNamespace(state=SimpleNamespace(batch=batch, output={"pred": torch.from_numpy(part)})))
    writer.finish(None)
    return pd.read_csv(path)


def test_probabilities_are_recalibrated_and_called_at_the_thresholds(tmp_path, capsys):
    points = OperatingPoints(np.array([0.4, np.nan]), np.array([2.0, 1.0]))
    table = write(tmp_path / "p.csv", "multilabel", points)
    assert table["image_id"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(table["Mass"], expit(LOGITS[:, 0] / 2), atol=1e-6)
    np.testing.assert_allclose(table["Edema"], expit(LOGITS[:, 1]), atol=1e-6)
    assert table["Mass positive"].tolist() == [1, 0, 1]  # by the threshold of the probability before recalibration
    assert "Edema positive" not in table
    said = capsys.readouterr()
    assert "skipped x.png: damaged" in said.err
    assert "probabilities of 2 classes for each of 3 images, 1 skipped" in said.out


def test_without_operating_points_nothing_is_called(tmp_path):
    table = write(tmp_path / "p.csv", "multilabel", None)
    assert list(table) == ["image_id", "Mass", "Edema"]
    np.testing.assert_allclose(table[["Mass", "Edema"]], expit(LOGITS), atol=1e-6)


def test_one_class_of_several_is_named(tmp_path):
    table = write(tmp_path / "p.csv", "multiclass", OperatingPoints(None, np.array([3.0])))
    np.testing.assert_allclose(table[["Mass", "Edema"]], softmax(LOGITS / 3, axis=1), atol=1e-6)
    assert table["predicted"].tolist() == ["Mass", "Edema", "Edema"]


def test_no_readable_file_is_an_error(tmp_path):
    network = Classifier(["Mass"], "resnet10t", image_size=32)
    writer = PredictionWriter(tmp_path / "p.csv", network)
    with pytest.raises(CxrError, match="none of the 0 files"):
        writer.finish(None)
    assert not (tmp_path / "p.csv").exists()
