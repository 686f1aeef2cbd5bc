"""Runs are watched: one TensorBoard file each, and MLflow where asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_runs import REPOSITORY

from cxrmonai.data.store import Store
from cxrmonai.networks import Classifier

TRAINABLE = sorted(path.parents[1].name for path in REPOSITORY.glob("bundles/*/configs/train.json"))
SMALL = {"max_epochs": 1, "batch_size": 16, "image_size": 32, "device": "cpu"}
OWN = {
    "supervised": {"encoder": "resnet10t"},
    "finetune": {"encoder": "resnet10t", "resamples": 100},
    "irnet": {"crf_iterations": 1, "radius": 2},
    "deeplabv3plus": {"encoder": "resnet10t", "classes": "Lungs"},
}
PRETRAINING = {"encoder": "resnet10t", "stem": "default", "probe_every": 0}


@pytest.mark.slow
def test_every_bundle_is_tracked_by_mlflow_in_its_output_folder_alone(extras, small_phantom, tmp_path):
    torch.manual_seed(0)
    asked = {"target": "findings", "policy": "ignore", "equalize": False}
    network = Classifier(Store(small_phantom).class_names, "resnet10t", image_size=32, asked=asked)
    torch.save(network.state_dict(), tmp_path / "classifier.pt")
    options = {bundle: {**SMALL, **OWN.get(bundle, PRETRAINING)} for bundle in TRAINABLE}
    options["irnet"]["classifier"] = str(tmp_path / "classifier.pt")
    script = str(Path(__file__).with_name("tracked_runs.py"))
    environment = {**extras, "PYTHONPATH": f"{extras['PYTHONPATH']}:{Path(__file__).parents[1]}"}
    command = [sys.executable, script, str(tmp_path / "runs"), str(small_phantom), json.dumps(options)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert list(found) == TRAINABLE
    for bundle, seen in found.items():
        assert set(seen["status"]) == {"FINISHED"}, bundle
        assert {"max_epochs", "epoch_length"} <= set(seen["params"]), bundle
        assert "train_loss" in seen["metrics"], bundle
        assert any(name.startswith("val_") for name in seen["metrics"]), bundle
        assert len(seen["configs"]) == 1, bundle
        assert seen["strays"] == [], bundle
        assert len(seen["events"]) == 1, bundle
