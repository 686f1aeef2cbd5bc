"""Synthesis, robustness and faithfulness as a user runs them, on a tiny classifier and the small phantom."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY, bundle, error_lines
from monai.bundle import create_workflow
from PIL import Image

from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import make_task
from cxrmonai.engines import predict
from cxrmonai.metrics import auroc
from cxrmonai.networks import Classifier, load_classifier
from cxrmonai.transforms import BatchNormalized, BatchResized, BatchScaleIntensityd

FOLDER = REPOSITORY / "bundles/cam_localization"
CLASSES = ["Cardiomegaly", "Pleural Effusion", "Edema"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A classifier of random weights whose head is large enough for its probabilities to move."""
    torch.manual_seed(0)
    asked = {
        "target": "findings",
        "classes": None,
        "policy": "ignore",
        "blank": None,
        "grade_column": "edema_severity",
        "equalize": False,
    }
    network = Classifier(CLASSES, encoder="resnet10t", image_size=32, asked=asked)
    with torch.no_grad():
        network.head.weight.mul_(100)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def run(config, store, weights, folder, **overrides):
    """Runs a config in this process, and returns what metrics.json holds."""
    places = {"data_file": str(store), "ckpt_path": str(weights), "output_dir": str(folder), "device": "cpu"}
    work = create_workflow(
        config_file=str(FOLDER / f"configs/{config}.json"),
        workflow_type="infer",
        bundle_root=str(FOLDER),
        **places,
        **overrides,
    )
    work.initialize()
    work.run()
    work.finalize()
    assert "ynthetic" in (folder / "report.html").read_text()
    return json.loads((folder / "metrics.json").read_text())


def test_maximise_raises_each_finding(small_phantom, weights, tmp_path, capsys):
    metrics = run("maximize", small_phantom, weights, tmp_path, iterations=12, frames=5, fit_limit=30)
    assert [item["findings"] for item in metrics["items"]] == [[name] for name in CLASSES]
    for item in metrics["items"]:
        (name,) = item["findings"]
        assert item["probability_after"][name] > item["probability_before"][name] + 0.05
        assert 0 < item["L2"] <= 50 * 32 / 256 + 1e-4
    assert metrics["synthetic"] is True
    strip = Image.open(tmp_path / "trajectory.png")
    assert strip.size[0] > 1000
    moving = Image.open(tmp_path / "trajectory.gif")
    assert moving.n_frames == 5
    told = capsys.readouterr().out
    assert "Cardiomegaly: probability" in told


def test_maximise_begins_with_an_image_and_raises_two_findings(small_phantom, weights, tmp_path):
    options = {"start": "image", "row": 3, "findings": "Effusion,Cardiomegaly", "norm": "Linf", "iterations": 5}
    regularised = {"tv_weight": 0.1, "jitter": 2, "blur": 0.5, "blur_every": 2}
    (item,) = run("maximize", small_phantom, weights, tmp_path, **options, **regularised)["items"]
    assert item["findings"] == ["Cardiomegaly", "Pleural Effusion"]
    assert item["Linf"] <= 0.1 + 1e-6


def plain(images):
    for step in (BatchScaleIntensityd("image"), BatchResized("image", 32), BatchNormalized("image")):
        images = step(images)
    return images


def test_robustness_begins_with_the_clean_auroc(small_phantom, weights, tmp_path):
    options = {"split": "all", "limit": 0, "iterations": 3, "resamples": 100}
    radii = {"epsilons_linf": [0, 0.01, 0.05], "epsilons_l2": [0, 0.5]}
    curves = run("robustness", small_phantom, weights, tmp_path, **options, **radii)["curves"]
    rows = np.arange(len(open_store(small_phantom)))
    task = make_task(small_phantom, classes=CLASSES)
    clean = predict(load_classifier(weights).eval(), small_phantom, rows, plain, "cpu", batch_size=64)
    expected = auroc(task.targets, clean)
    for norm in ("Linf", "L2"):
        for name in ("attack", "noise"):
            found = [curves[norm][0][name]["findings"][each]["auroc"] for each in CLASSES]
            np.testing.assert_array_equal(found, expected)
        areas = [point["attack"]["mean_auroc"] for point in curves[norm]]
        assert areas == sorted(areas, reverse=True)
        assert areas[-1] < areas[0] - 0.1
        low, high = curves[norm][0]["attack"]["mean_auroc_ci"]
        assert low < areas[0] < high
    assert abs(curves["Linf"][1]["noise"]["mean_auroc"] - np.mean(expected)) < 0.1
    assert Image.open(tmp_path / "robustness.png").size[0] > 1000


@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_faithfulness_writes_both_tests(small_phantom, weights, tmp_path, method):
    options = {"split": "all", "limit": 4, "check_limit": 2, "steps": 5, "resamples": 100, "baseline": "blur"}
    metrics = run("faithfulness", small_phantom, weights, tmp_path, method=method, **options)
    assert metrics["method"] == method
    assert metrics["curves"]["items"] == 12
    assert set(metrics["curves"]["findings"]) == set(CLASSES)
    steps = [row["randomised_down_to"] for row in metrics["randomisation"]["cascade"]]
    assert steps == ["head", "stage 4", "stage 3", "stage 2", "stage 1", "stem"]
    assert metrics["randomisation"]["items"] == 6
    table = pd.read_csv(tmp_path / "faithfulness.csv")
    assert len(table) == 12
    assert table["deletion"].mean() == pytest.approx(metrics["curves"]["deletion"])
    for name in ("curves", "randomisation"):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 1000


def test_classes_that_are_named_are_tested_alone(small_phantom, weights, tmp_path):
    options = {"split": "all", "limit": 2, "check_limit": 1, "steps": 2, "resamples": 100, "classes": "Effusion"}
    metrics = run("faithfulness", small_phantom, weights, tmp_path, method="saliency", **options)
    assert list(metrics["curves"]["findings"]) == ["Pleural Effusion"]


@pytest.mark.slow
def test_without_a_classifier_the_way_to_one_is_told(small_phantom, tmp_path):
    options = {"data_file": small_phantom, "device": "cpu", "output_dir": tmp_path / "out"}
    moved = {"ckpt_path": f"$'{tmp_path}/model.pt'"}
    made = bundle(FOLDER / "configs/maximize.json", tmp_path, **options, **moved)
    (line,) = error_lines(made)
    assert "no classifier here; train one with `python -m monai.bundle run" in line
    assert not (tmp_path / "out").exists()
