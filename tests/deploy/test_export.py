"""Bundles exported: a folder that stands alone, in three formats that agree."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cxrmonai.cli import main
from cxrmonai.deploy import export_bundle
from cxrmonai.deploy.formats import check_same
from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles/supervised"
ASKED = {
    "target": "findings", "classes": "Effusion,Mass", "policy": "ignore", "blank": None,
    "grade_column": "edema_severity", "equalize": False,
}  # fmt: skip

WITHOUT_CXRMONAI = """
import sys, numpy, torch, onnxruntime
assert not any("cxrmonai" in name for name in sys.modules)
try:
    import cxrmonai
except ImportError:
    pass
else:
    raise SystemExit("cxrmonai is here")
images = numpy.load(sys.argv[1])
script = torch.jit.load("models/model.ts")(torch.from_numpy(images)).sigmoid().detach().numpy()
(logits,) = onnxruntime.InferenceSession("models/model.onnx").run(None, {"image": images})
numpy.savez(sys.argv[2], script=script, onnx=1 / (1 + numpy.exp(-logits)))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A classifier whose outputs differ from image to image."""
    torch.manual_seed(0)
    network = Classifier("Effusion,Mass", "resnet10t", image_size=32, asked=ASKED)
    torch.nn.init.normal_(network.head.weight, 0, 1)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    points = {"thresholds": [0.4, 0.6], "temperatures": [1.0, 1.0], "origin": "made up"}
    points |= {"reasons": ["", ""], "temperature_reasons": ["", ""]}
    (path.parent / "operating_points.json").write_text(json.dumps(points))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three radiographs of any shape: noise serves as well."""
    import cv2

    folder = tmp_path_factory.mktemp("images")
    for k in range(3):
        grey = np.random.default_rng(k).integers(0, 256, (60 + 10 * k, 50), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{k}.png"), cv2.GaussianBlur(grey, (0, 0), 3 + k))
    return folder


@pytest.fixture(scope="module")
def exported(weights, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "ours"
    return export_bundle(BUNDLE, out, weights, torchscript=True, onnx=True, images=images)


def test_the_formats_agree_and_the_metadata_tell_the_classes(exported):
    assert exported.images == 3
    assert not exported.synthetic
    assert set(exported.formats) == {"models/model.pt", "models/model.ts", "models/model.onnx"}
    assert max(exported.formats.values()) <= 1e-4
    metadata = json.loads((exported.path / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "Effusion", "1": "Mass"}
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 2
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert json.loads((exported.path / "configs/inference.json").read_text())["bundle_root"] == "."
    assert (exported.path / "LICENSE").is_file()
    assert (exported.path / "models/operating_points.json").is_file()
    card = (exported.path / "docs/model_card.md").read_text()
    assert "| outputs | Effusion, Mass |" in card
    assert exported.to_fill == card.count("TO FILL:") > 0
    assert [path for path in exported.path.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_the_formats_give_the_same_where_the_package_is_and_where_it_is_not(exported, images, tmp_path):
    """In a fresh virtual environment: first without cxrmonai, then with it."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("no uv to make a virtual environment with")
    fresh = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = tmp_path / "venv/bin/python"
    call = {"check": True, "capture_output": True, "text": True, "env": fresh}
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], **call)
    install = [uv, "pip", "install", "--quiet", "--system-certs", "--python", python, "--no-deps"]
    subprocess.run([*install, "-r", REPOSITORY / "requirements.lock"], **call)

    batch = _prepared(images)
    np.save(tmp_path / "batch.npy", batch)
    command = [python, "-c", WITHOUT_CXRMONAI, tmp_path / "batch.npy", tmp_path / "found.npz"]
    subprocess.run(command, cwd=exported.path, **call)
    found = np.load(tmp_path / "found.npz")

    subprocess.run([*install, REPOSITORY], **call)
    command = [python, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    options = ["--dataset_dir", images, "--output_dir", tmp_path / "out", "--device", "cpu"]
    subprocess.run([*command, *options], cwd=exported.path, **call)
    written = pd.read_csv(tmp_path / "out/predictions.csv")
    assert {"Effusion positive", "Mass positive"} <= set(written)
    table = written[["Effusion", "Mass"]].to_numpy()
    assert np.ptp(table, axis=0).min() > 1e-3  # the images are told apart
    np.testing.assert_allclose(found["script"], table, atol=1e-4)
    np.testing.assert_allclose(found["onnx"], table, atol=1e-4)


def _prepared(images):
    """What the metadata ask for: letterboxed to the size, (grey / 255 - 0.5) / 0.25."""
    from cxrmonai.data.geometry import letterbox
    from cxrmonai.data.reading import read_image

    squares = [letterbox(read_image(path).pixels, 32) for path in sorted(images.glob("*.png"))]
    return ((np.stack(squares)[:, None] / 255 - 0.5) / 0.25).astype(np.float32)


def test_a_zip_for_the_hub_has_a_card(weights, tmp_path, capsys):
    options = ["--out", str(tmp_path / "hub"), "--ckpt_path", str(weights), "--zip", "--target", "hf"]
    with pytest.raises(SystemExit) as left:
        main(["export", str(BUNDLE), *options])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "8 synthetic radiographs" in said
    assert "places marked TO FILL are left to you" in said
    assert not (tmp_path / "hub").exists()
    with zipfile.ZipFile(tmp_path / "hub.zip") as archive:
        names = archive.namelist()
        card = archive.read("hub/README.md").decode()
    assert {"hub/models/model.pt", "hub/configs/inference.json", "hub/LICENSE"} <= set(names)
    assert "hub/models/model.onnx" not in names
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "monai"
    assert "| outputs | Effusion, Mass |" in card


def test_a_format_that_differs_is_refused_and_leaves_nothing(weights, images, tmp_path, monkeypatch):
    def wrong(path):
        return lambda batch: np.zeros((len(batch), 2), np.float32)

    monkeypatch.setattr("cxrmonai.deploy.export.torchscript_runner", wrong)
    with pytest.raises(CxrError, match=r"model\.ts: differs from the network by"):
        export_bundle(BUNDLE, tmp_path / "out", weights, torchscript=True, images=images)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_a_difference():
    network = torch.nn.Identity()
    with pytest.raises(CxrError, match="differs"):
        check_same(network, lambda batch: batch * np.nan, torch.ones(2, 1), lambda output: output, Path("model.ts"))


def test_faults_are_one_line(weights, tmp_path, refused):
    (tmp_path / "there").mkdir()
    out = ["--out", tmp_path / "x"]
    assert "configs/inference.json" in refused("export", tmp_path, *out)
    assert "no such file; train the bundle first" in refused("export", BUNDLE, *out, "--ckpt_path", tmp_path / "no.pt")
    assert "is there already" in refused("export", BUNDLE, "--out", tmp_path / "there", "--ckpt_path", weights)
    assert "known are folder, hf" in refused("export", BUNDLE, *out, "--ckpt_path", weights, "--target", "x")
    assert "--out is missing" in refused("export", BUNDLE)
