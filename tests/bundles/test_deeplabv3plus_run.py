"""The bundle deeplabv3plus: trained, evaluated, used on files, resumed, cross-validated."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY, bundle, error_lines, evaluate_here, train_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrmonai.cli import main
from cxrmonai.data.dataset import mask_places
from cxrmonai.data.mask_file import read_mask_file
from cxrmonai.data.mask_store import MaskStoreWriter
from cxrmonai.data.store import open_store
from cxrmonai.networks import Classifier, load_segmenter

pytestmark = pytest.mark.slow
FOLDER = REPOSITORY / "bundles/deeplabv3plus"
SMALL = {
    "max_epochs": 2, "batch_size": 16, "image_size": 32, "encoder": "resnet10t", "decoder_channels": 16,
    "atrous_rates": [1, 1, 1], "device": "cpu", "classes": "lungs,Effusion",
}  # fmt: skip


def train(store, folder, *presets, **overrides):
    return train_here(FOLDER, store, folder, *presets, **{**SMALL, **overrides})


def evaluate(folder, store, out, **overrides):
    return evaluate_here(FOLDER, folder, store, out, **overrides)


@pytest.fixture(scope="module")
def trained(small_phantom, tmp_path_factory):
    return train(small_phantom, tmp_path_factory.mktemp("deeplab"), max_epochs=3)


def test_a_run_leaves_weights_that_tell_all_and_thresholds(trained):
    models = {path.name for path in (trained / "models").iterdir()}
    assert models == {"checkpoint.pt", "model.pt", "model_final.pt", "thresholds.json"}
    network = load_segmenter(trained / "models/model.pt")
    assert network.class_names == ["lungs", "Effusion"]
    assert network.settings["image_size"] == 32
    content = json.loads((trained / "models/thresholds.json").read_text())
    assert set(content["thresholds"]) == {"lungs", "Effusion"}
    assert "validation" in content["origin"]
    log = EventAccumulator(str(trained / "eval/tensorboard"), size_guidance={"images": 0})
    log.Reload()
    assert {"train/loss", "validation/val_mean_overlap", "validation/val_loss"} <= set(log.Tags()["scalars"])
    pictures = log.Images("validation/masks")
    assert [picture.step for picture in pictures] == [1, 2, 3]


def test_evaluation_writes_all_files(trained, small_phantom, tmp_path):
    metrics = evaluate(trained, small_phantom, tmp_path, split="all", export="masks", batch_size=7)
    store = open_store(small_phantom)
    assert metrics["images"] == len(store)
    assert metrics["synthetic"] is True
    for row in metrics["classes"].values():
        assert {"dice", "dice_ci", "miou", "miou_true_positive", "miou_pooled"} <= row.keys()
    low, high = metrics["classes"]["lungs"]["dice_ci"]
    assert 0 < low < metrics["classes"]["lungs"]["dice"] < high
    masks = read_mask_file(tmp_path / "masks.json")
    assert list(masks) == store.table["image_id"].tolist()
    assert masks[store.table["image_id"].iloc[0]]["lungs"].shape == (64, 64)
    table = pd.read_csv(tmp_path / "overlap.csv")
    lungs = table[table["class"] == "lungs"]
    pooled = lungs["intersection"].sum() / (lungs["predicted"] + lungs["true"] - lungs["intersection"]).sum()
    assert metrics["classes"]["lungs"]["miou_pooled"] == pytest.approx(pooled)
    report = (tmp_path / "report.html").read_text()
    assert "ynthetic" in report
    assert report.count("data:image/png") == 1


def test_a_resumed_run_with_an_average_equals_one_that_was_not_interrupted(small_phantom, tmp_path):
    options = {"ema_decay": 0.9, "schedule": "constant"}
    whole = train(small_phantom, tmp_path / "whole", max_epochs=2, **options)
    train(small_phantom, tmp_path / "half", max_epochs=1, **options)
    resumed = train(small_phantom, tmp_path / "half", max_epochs=2, resume=True, **options)
    one, other = (torch.load(each / "models/model_final.pt", weights_only=True) for each in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    plain = torch.load(whole / "models/checkpoint.pt", weights_only=True)["network"]
    assert any(not torch.equal(one[key], plain[key]) for key in one)  # the average is what was kept


def test_weak_and_semi_learn_from_pseudo_masks_and_a_classifier(small_phantom, tmp_path):
    store = open_store(small_phantom)
    rows = store.rows("train")
    values = store.masks(rows)[0][:, mask_places(store, ["lungs"])].astype(np.uint8)
    with MaskStoreWriter(tmp_path / "pseudo.h5", ["lungs"], store.size) as writer:
        writer.add(rows, store.column("image_id")[rows], values)
    torch.save(Classifier("a", "resnet10t", image_size=32).state_dict(), tmp_path / "classifier.pt")
    options = {"pseudo_masks": str(tmp_path / "pseudo.h5"), "classes": "lungs", "max_epochs": 1}
    for preset in ("weak", "semi"):
        more = {"pretrained": str(tmp_path / "classifier.pt")} if preset == "weak" else {"expert_masks": 3}
        made = train(small_phantom, tmp_path / preset, preset, **options, **more)
        assert load_segmenter(made / "models/model.pt").class_names == ["lungs"]


def test_inference_gives_masks_in_each_files_own_geometry(trained, small_phantom, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    store = open_store(small_phantom)
    shapes = {"a": (150, 90), "b": (64, 64), "c": (70, 133)}
    for row, (name, (height, width)) in enumerate(shapes.items()):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(store.images[row], (width, height)))
    (folder / "broken.png").write_text("a text")
    made = bundle(
        FOLDER / "configs/inference.json",
        tmp_path,
        dataset_dir=folder,
        ckpt_path=trained / "models/model.pt",
        output_dir=tmp_path / "out",
        device="cpu",
    )
    assert made.returncode == 0, made.stderr
    assert "broken.png: not a PNG" in made.stderr
    masks = read_mask_file(tmp_path / "out/masks.json")
    assert list(masks) == ["a", "b", "c"]
    for name, shape in shapes.items():
        for task in ("lungs", "Effusion"):
            png = cv2.imread(str(tmp_path / f"out/masks/{task}/{name}.png"), cv2.IMREAD_UNCHANGED)
            assert png.shape == shape
            np.testing.assert_array_equal(png, masks.mask(name, task) * np.uint8(255))


def test_cross_validation_tests_each_image_once_and_is_not_done_twice(small_phantom, tmp_path, capsys):
    options = [f"--{key}={value}" for key, value in {**SMALL, "max_epochs": 1, "classes": "lungs"}.items()]
    arguments = [
        "cross-validate", str(FOLDER / "configs/train.json"), "--folds=3", f"--work_dir={tmp_path}",
        f"--data_file={small_phantom}", *options,
    ]  # fmt: skip
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
    assert capsys.readouterr().out.count("was done before with the same options") == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    store = open_store(small_phantom)
    assert metrics["images"] == len(store)
    assert metrics["patients"] == len(set(store.column("patient_id")))
    assert len(metrics["folds"]) == 3
    parts = [pd.read_csv(tmp_path / f"fold_{k}/eval/overlap.csv") for k in range(3)]
    patients = [set(part["patient_id"]) for part in parts]
    assert not patients[0] & patients[1] | patients[1] & patients[2]
    assert sorted(pd.concat(parts)["image_id"]) == sorted(store.column("image_id"))


def test_faults_are_one_line(small_phantom, tmp_path):
    def fails(**overrides):
        made = bundle(FOLDER / "configs/train.json", tmp_path, data_file=small_phantom, device="cpu", **overrides)
        (line,) = error_lines(made)
        return line

    assert "no class 'Hernia'; there are" in fails(classes="Hernia")
    assert "pseudo_masks is missing" in fails(supervision="weak")


def test_presets_hold_keys_of_the_config():
    known = json.loads((FOLDER / "configs/train.json").read_text())
    presets = list((FOLDER / "configs/presets").glob("*.json"))
    assert {preset.stem for preset in presets} == {"weak", "full", "semi", "lungs", "chexpert10"}
    for preset in presets:
        assert json.loads(preset.read_text()).keys() <= known.keys(), preset.name
