"""The benchmark runs and reports; its times and ratios are no matter of a test."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/benchmark.py"
RATIOS = {
    "prepare_vs_decode",
    "prepare_two_processes",
    "dicom_vs_decode",
    "split_vs_sklearn",
    "open_vs_csv",
    "serve_vs_map",
    "serve_vs_cachedataset",
    "views_vs_monai",
    "ntxent_vs_monai",
    "step_vs_plain",
    "explain_vs_gradcam_loop",
    "cam_cost_in_forwards",
    "pcam_cost_in_forwards",
    "gradcam_cost_in_forwards",
}
WITH_PYDENSECRF = {"crf_vs_pydensecrf"}  # left out where the reference is not installed


@pytest.mark.slow
def test_all_ratios_are_reported(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("images", 4), ("images_256", 12)):
        (tmp_path / name).mkdir()
        for k in range(count):
            cv2.imwrite(str(tmp_path / name / f"{k}.png"), rng.integers(0, 256, (256, 256), np.uint8))
    command = [sys.executable, SCRIPT, "--quick", "--data", tmp_path, "--json", tmp_path / "ratios.json"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ratios = json.loads((tmp_path / "ratios.json").read_text())
    assert set(ratios) == RATIOS | (WITH_PYDENSECRF if importlib.util.find_spec("pydensecrf") else set())
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    lines = made.stdout.splitlines()
    assert lines[1].split() == ["comparison", "ours", "other", "unit", "ratio", "target"]
    assert len(lines) >= 2 + len(RATIOS)


def test_a_folder_without_images_is_named(tmp_path):
    made = subprocess.run([sys.executable, SCRIPT, "load", "--data", tmp_path], capture_output=True, text=True)
    assert made.returncode == 1
    assert "images_256/" in made.stderr
    assert "Traceback" not in made.stderr
