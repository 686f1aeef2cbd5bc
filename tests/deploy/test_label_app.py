"""App folders for MONAI Label, and what their bundles say of a file, without its server."""

import json

import cv2
import nibabel
import numpy as np
import pytest
import torch
from label_models import CLASSES, REPOSITORY, classifier_weights, make_app_folder, segmenter_weights

from cxrmonai.cli import main
from cxrmonai.deploy import export_bundle
from cxrmonai.deploy.label_app import make_app
from cxrmonai.deploy.serving.bundles import bands, open_bundle
from cxrmonai.deploy.serving.training import LabelledImage, TrainingSettings, train_segmenter
from cxrmonai.errors import CxrError
from cxrmonai.explain import attribute
from cxrmonai.networks import load_classifier, load_segmenter

BUNDLES = REPOSITORY / "bundles"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return make_app_folder(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory):
    """Smooth noise of 90 rows and 150 columns, as PNG and as NIfTI."""
    folder = tmp_path_factory.mktemp("images")
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((90, 150)), (0, 0), 6)
    grey = np.uint8(255 * (noise - noise.min()) / np.ptp(noise))
    cv2.imwrite(str(folder / "a.png"), grey)
    nibabel.save(nibabel.Nifti1Image(grey.T[:, :, None], np.eye(4)), folder / "a.nii.gz")
    return folder / "a.png", folder / "a.nii.gz"


def test_the_folder_is_what_monai_label_starts_from(app):
    models = json.loads((app / "app.json").read_text())["models"]
    assert {name: model["kind"] for name, model in models.items()} == {
        "supervised": "classification", "deeplabv3plus": "segmentation", "cam_localization": "heatmap",
    }  # fmt: skip
    assert models["deeplabv3plus"]["labels"] == {"lungs": 1, "Effusion": 2}
    assert "RadiographApp" in (app / "main.py").read_text()
    assert (app / "model/deeplabv3plus/configs/train.json").is_file()
    assert "-m cxrmonai serve" in (app / "README.md").read_text()
    for name in models:
        config = json.loads((app / f"model/{name}/configs/inference.json").read_text())
        assert (config["bundle_root"], config["ckpt_path"]) == (".", "$@bundle_root + '/models/model.pt'")
    assert [path for path in app.parent.iterdir() if path.name.startswith(".")] == []


def test_pins_of_the_server_are_those_that_the_package_is_tested_with(app):
    def pins(path):
        return {line.split("==")[0]: line for line in path.read_text().splitlines() if ";" not in line}

    server, own = pins(app / "requirements.txt"), pins(REPOSITORY / "requirements.lock")
    shared = server.keys() & own.keys()
    assert {"pydicom", "timm", "monai", "torchvision"} <= shared
    assert {name: server[name] for name in shared} == {name: own[name] for name in shared}, "make lock writes both"
    assert server["monailabel"] == "monailabel==0.8.5"
    assert "://" not in (app / "requirements.txt").read_text()


def test_scores_are_the_networks_recalibrated(app, radiograph):
    bundle = open_bundle(app / "model/supervised", "cpu")
    png, nifti = (bundle.scores(path) for path in radiograph)
    np.testing.assert_array_equal(png, nifti)
    images, _ = bundle.load(radiograph[0])
    logits = load_classifier(app / "model/supervised/models/model.pt").eval()(images)[0].detach().numpy()
    np.testing.assert_allclose(png, 1 / (1 + np.exp(-logits / [1.5, 1.0])), atol=1e-6)  # the temperatures


def test_a_label_map_holds_the_most_probable_of_the_masks(app, radiograph):
    bundle = open_bundle(app / "model/deeplabv3plus", "cpu")
    lungs, effusion = (bundle.label_map(radiograph[0], name) for name in ("lungs", "effusion"))
    both = bundle.label_map(radiograph[1])
    assert both.shape == (90, 150)
    assert set(np.unique(lungs)) == {0, 1}
    assert set(np.unique(effusion)) == {0, 2}
    np.testing.assert_array_equal(both > 0, (lungs > 0) | (effusion > 0))
    np.testing.assert_array_equal(both[effusion == 0], lungs[effusion == 0])
    np.testing.assert_array_equal(both[lungs == 0], effusion[lungs == 0])
    with pytest.raises(CxrError, match="no class 'Hernia'; there are lungs, Effusion"):
        bundle.label_map(radiograph[0], "Hernia")


def test_heat_is_the_attribution_of_the_class_at_the_files_own_size(app, radiograph):
    bundle = open_bundle(app / "model/cam_localization", "cpu")
    heat, told = bundle.heat(radiograph[0], "mass", "cam")
    images, _ = bundle.load(radiograph[0])
    expected = attribute(load_classifier(bundle.weights), images, [1], "cam")[0, 0].numpy()
    rows = round(64 * 90 / 150)
    top = (64 - rows) // 2
    np.testing.assert_allclose(heat, cv2.resize(expected[top : top + rows], (150, 90)), atol=1e-6)
    assert (told["finding"], told["method"]) == ("Mass", "cam")
    _, most = bundle.heat(radiograph[0])
    scores = torch.sigmoid(load_classifier(bundle.weights).eval()(images))[0]
    assert most["finding"] == CLASSES[int(scores.argmax())]
    assert most["probability"] == pytest.approx(float(scores.max()), abs=1e-6)
    np.testing.assert_array_equal(bands(np.array([[0.1, 0.25, 0.6, 0.75, 1.0]])), [[0, 1, 2, 3, 3]])


@pytest.mark.slow
def test_training_replaces_weights_and_keeps_the_old(tmp_path, radiograph):
    out = tmp_path / "app"
    make_app(out, [BUNDLES / "deeplabv3plus"], [segmenter_weights(tmp_path)])
    bundle = out / "model/deeplabv3plus"
    before = load_segmenter(bundle / "models/model.pt").state_dict()
    left = np.zeros((90, 150), bool)
    left[20:70, 10:60] = True
    images = [LabelledImage(f"p{k}", str(radiograph[0]), {"lungs": np.roll(left, 3 * k, axis=1)}) for k in range(5)]
    settings = TrainingSettings.of({"max_epochs": 1, "batch_size": 2, "device": "cpu"})
    made = train_segmenter(bundle, images, settings, "cpu")
    assert made == {"train_images": 4, "val_images": 1, "classes": ["lungs", "Effusion"]}
    after = load_segmenter(bundle / "models/model.pt").state_dict()
    old = load_segmenter(bundle / "models/model_before.pt").state_dict()
    assert all(torch.equal(before[key], old[key]) for key in before)
    moved = [(after[key] - before[key]).abs().max().item() for key in before if key.endswith("weight")]
    assert 0 < max(moved) < 0.5  # it went on from there
    assert "validation" in json.loads((bundle / "models/thresholds.json").read_text())["origin"]
    with pytest.raises(CxrError, match="2 labelled images: at least 3 are needed"):
        train_segmenter(bundle, images[:2], settings, "cpu")
    with pytest.raises(CxrError, match="p0: a label of"):
        train_segmenter(bundle, [LabelledImage("p0", str(radiograph[0]), {"lungs": left.T})] * 3, settings, "cpu")
    with pytest.raises(CxrError, match="max_epochs 'many': must be as 20 is"):
        TrainingSettings.of({"max_epochs": "many"})


def test_one_bundle_is_exported_as_an_app(tmp_path):
    made = export_bundle(BUNDLES / "supervised", tmp_path / "x", classifier_weights(tmp_path), target="monailabel")
    assert (made.path / "main.py").is_file()
    assert list(made.formats) == ["models/model.pt"]
    assert list(json.loads((made.path / "app.json").read_text())["models"]) == ["supervised"]


def test_faults_are_one_line(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    weights = classifier_weights(tmp_path)
    out = ["--out", tmp_path / "x"]
    assert "--out is missing" in refused("label-app", "--bundles", "supervised")
    assert "--bundles is missing" in refused("label-app", *out)
    line = refused("label-app", *out, "--bundles", "nothing")
    assert "nothing: no bundle" in line
    line = refused("label-app", *out, "--bundles", "supervised", "--ckpt_paths", tmp_path / "no.pt")
    assert "no.pt: no such file; train the bundle first, or name the weights with --ckpt_paths" in line
    line = refused("label-app", *out, "--bundles", "supervised,finetune", "--ckpt_paths", weights)
    assert "names 1 files for 2 bundles" in line
    line = refused(
        "label-app", *out, "--bundles", "supervised,bundles/supervised", "--ckpt_paths", f"{weights},{weights}"
    )
    assert "two bundles are called supervised" in line
    assert not (tmp_path / "x").exists()
    assert "no app folder" in refused("serve", tmp_path, "--studies", tmp_path)
    assert "--studies is missing" in refused("serve", tmp_path)
    (tmp_path / "app.json").write_text("{}")
    assert "no such folder" in refused("serve", tmp_path, "--studies", tmp_path / "no")
    if not _has_monai_label():
        assert "MONAI Label is not installed here" in refused("serve", tmp_path, "--studies", tmp_path)


def test_the_command_says_what_it_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as left:
        main(
            [
                "label-app",
                "--out",
                str(tmp_path / "a"),
                "--bundles",
                "finetune",
                "--ckpt_paths",
                str(classifier_weights(tmp_path)),
            ]
        )
    assert left.value.code == 0
    assert "app with finetune" in capsys.readouterr().out


def _has_monai_label():
    from importlib.util import find_spec

    return find_spec("monailabel") is not None
