"""Synthesis, robustness and faithfulness as a user runs them, on a tiny classifier and the small phantom."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from bundle_runs import REPOSITORY
from monai.bundle import create_workflow
from PIL import Image

from cxrmonai.data.mask_file import read_mask_file
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import make_task
from cxrmonai.engines import predict
from cxrmonai.errors import CxrError, user_error
from cxrmonai.explain.dicom_export import export_dicom
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
    plain = {"jitter": 0, "blur": 0.0}
    metrics = run("maximize", small_phantom, weights, tmp_path, iterations=12, frames=5, fit_limit=30, **plain)
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


@pytest.mark.parametrize(("method", "of_method"), [("gradcam", {"layer": "encoder.layer2"}), ("saliency", {})])
def test_faithfulness_writes_both_tests(small_phantom, weights, tmp_path, method, of_method):
    options = {"split": "all", "limit": 4, "check_limit": 2, "steps": 5, "resamples": 100, "baseline": "blur"}
    metrics = run("faithfulness", small_phantom, weights, tmp_path, method=method, options=of_method, **options)
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
    options = {"split": "all", "limit": 2, "check_limit": 2, "steps": 2, "resamples": 100, "classes": "Effusion"}
    metrics = run("faithfulness", small_phantom, weights, tmp_path, method="saliency", **options)
    assert list(metrics["curves"]["findings"]) == ["Pleural Effusion"]


@pytest.mark.parametrize("config", ["maximize", "robustness", "faithfulness"])
def test_without_a_classifier_the_way_to_one_is_told(small_phantom, tmp_path, config):
    with pytest.raises((RuntimeError, CxrError)) as raised:
        run(config, small_phantom, f"${str(tmp_path / 'model.pt')!r}", tmp_path / "out")
    told = str(user_error(raised.value))
    assert "train one with `python -m monai.bundle run --config_file bundles/supervised/configs/train.json`" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["maximize", "robustness", "faithfulness"])
def test_configs_are_short_and_every_key_is_used(config):
    text = (FOLDER / f"configs/{config}.json").read_text()
    assert [words for words in re.findall(r'"(\$[^"]*)"', text) if len(words) > 160] == []
    plain = (str, int, float, bool, type(None), list)
    kept = ("imports", "initialize", "run")
    keys = [key for key, value in json.loads(text).items() if isinstance(value, plain) and key not in kept]
    assert len(keys) > 15
    assert [key for key in keys if not re.search(rf"@{key}\b", text)] == []


def test_masks_of_a_dicom_file_go_back_into_its_study(shared_data, weights, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    (tmp_path / "in").mkdir()
    shutil.copy(shared_data / "dicom/rsna_sample.dcm", tmp_path / "in/one.dcm")
    work = create_workflow(
        config_file=str(FOLDER / "configs/inference.json"),
        workflow_type="infer",
        bundle_root=str(FOLDER),
        dataset_dir=str(tmp_path / "in"),
        ckpt_path=str(weights),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        method="saliency",
    )
    work.initialize()
    work.run()
    masks = read_mask_file(tmp_path / "out/masks.json")
    files = {"masks": tmp_path / "out/masks.json", "heatmaps": tmp_path / "out/heatmaps.h5"}
    made = export_dicom(tmp_path / "in", tmp_path / "dicom", **files, segment=True, capture=True)
    filled = [name for name in masks.tasks("one") if masks.mask("one", name).any()]
    assert (made.segmentations, made.captures, made.skipped) == (1, len(filled), [])
    assert filled
    found = highdicom.seg.segread(tmp_path / "dicom/one.seg.dcm")
    source = pydicom.dcmread(tmp_path / "in/one.dcm", stop_before_pixels=True)
    assert found.StudyInstanceUID == source.StudyInstanceUID
    frames = found.get_pixels_by_source_instance([source.SOPInstanceUID])[0]
    for place, name in enumerate(filled):
        assert np.array_equal(frames[:, :, place], masks.mask("one", name))
