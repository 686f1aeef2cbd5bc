"""The supervised bundle: what a user runs, and what must hold of it."""

from __future__ import annotations

import json
import os
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY, bundle, error_lines, evaluate_here, options, run, train_here
from monai.bundle import ConfigParser, ckpt_export, onnx_export
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms.v2 import functional as tv

from cxrmonai.cli import main
from cxrmonai.data.dataset import StoreDataset
from cxrmonai.data.store import open_store
from cxrmonai.networks import encoder, load_classifier

pytestmark = pytest.mark.slow
FOLDER = REPOSITORY / "bundles/supervised"
SMALL = {"max_epochs": 2, "batch_size": 16, "image_size": 32, "device": "cpu"}
CLASSES = "Cardiomegaly,Effusion"  # the phantom writes Pleural Effusion


def train(store, folder, *presets, **overrides):
    return train_here(FOLDER, store, folder, *presets, **{**SMALL, **overrides})


def evaluate(folder, store, out, **overrides):
    return evaluate_here(FOLDER, folder, store, out, **overrides)


@pytest.fixture(scope="module")
def trained(small_phantom, tmp_path_factory):
    return train(small_phantom, tmp_path_factory.mktemp("supervised"), classes=CLASSES)


def copy_of(store, path, change):
    """A copy of a store whose labels (N, C) and splits went through `change`."""
    shutil.copy(store, path)
    with h5py.File(path, "r+") as file:
        labels = file["labels"][:]
        splits = file["table/split"][:].astype(str).astype(object)
        change(labels, splits)
        file["labels"][:] = labels
        file["table/split"][:] = splits
    return path


def test_a_run_leaves_weights_that_tell_all_and_what_was_chosen_on_validation(trained):
    models = {path.name for path in (trained / "models").iterdir()}
    assert models == {"checkpoint.pt", "model.pt", "model_final.pt", "operating_points.json"}
    network = load_classifier(trained / "models/model.pt")
    assert network.class_names == CLASSES.split(",")
    assert network.settings["asked"]["classes"] == CLASSES
    points = json.loads((trained / "models/operating_points.json").read_text())
    assert len(points["thresholds"]) == len(points["temperatures"]) == 2
    assert "validation" in points["origin"]
    log = EventAccumulator(str(trained / "eval/tensorboard"))
    log.Reload()
    assert {"train/loss", "validation/val_mean_auroc", "validation/val_loss"} <= set(log.Tags()["scalars"])


def test_evaluation_writes_all_files_and_keeps_ids(trained, small_phantom, tmp_path):
    metrics = evaluate(trained, small_phantom, tmp_path, split="all", batch_size=7)
    store = open_store(small_phantom)
    assert metrics["images"] == len(store)
    assert set(metrics["findings"]) == {"Cardiomegaly", "Effusion"}
    for finding in metrics["findings"].values():
        assert {"auroc", "auroc_ci", "average_precision", "positives", "negatives"} <= finding.keys()
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions["image_id"].tolist() == store.table["image_id"].tolist()
    assert predictions["split"].tolist() == store.table["split"].tolist()
    np.testing.assert_array_equal(predictions["truth_Effusion"], store.table["Pleural Effusion"])
    report = (tmp_path / "report.html").read_text()
    assert "ynthetic" in report
    assert (tmp_path / "roc.png").stat().st_size > 1000
    log = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    assert "evaluation/roc" in log.Tags()["images"]


def test_probabilities_do_not_depend_on_the_batch(trained, small_phantom, tmp_path):
    tables = []
    for size in (1, 16, 128):
        evaluate(trained, small_phantom, tmp_path / str(size), batch_size=size)
        tables.append(pd.read_csv(tmp_path / str(size) / "predictions.csv")["probability_Effusion"])
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-5)
    np.testing.assert_allclose(tables[2], tables[0], atol=1e-5)


def test_test_labels_touch_nothing_before_the_evaluation(trained, small_phantom, tmp_path):
    def poison(labels, splits):
        labels[splits == "test"] = 1 - labels[splits == "test"]

    poisoned = copy_of(small_phantom, tmp_path / "poisoned.h5", poison)
    again = train(poisoned, tmp_path / "again", classes=CLASSES)
    for name in ("model.pt", "model_final.pt"):
        one = torch.load(trained / "models" / name, weights_only=True)
        other = torch.load(again / "models" / name, weights_only=True)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    points = "models/operating_points.json"
    assert (again / points).read_text() == (trained / points).read_text()
    assert evaluate(again, poisoned, tmp_path / "a") != evaluate(trained, small_phantom, tmp_path / "b")


def test_columns_of_one_class_or_none_and_unknown_batches_end_with_numbers(small_phantom, tmp_path):
    names = open_store(small_phantom).class_names

    def strange(labels, splits):
        labels[:, names.index("Edema")] = 0
        labels[:, names.index("Mass")] = np.nan
        labels[: len(labels) // 2] = np.nan  # whole batches of which nothing is known

    store = copy_of(small_phantom, tmp_path / "strange.h5", strange)
    classes = "Edema,Mass,Cardiomegaly"
    made = train(store, tmp_path / "run", classes=classes, batch_size=4, sampling="balanced", class_weighting="inverse")
    state = torch.load(made / "models/model_final.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
    metrics = evaluate(made, store, tmp_path / "eval", split="all")
    assert metrics["findings"]["Edema"]["auroc"] is None
    assert metrics["findings"]["Mass"]["positives"] == metrics["findings"]["Mass"]["negatives"] == 0
    assert any("under test" in note for note in metrics["findings"]["Edema"]["notes"])


def test_a_class_missing_from_training_is_named_and_evaluated(small_phantom, tmp_path, capsys):
    names = open_store(small_phantom).class_names

    def scarce(labels, splits):
        labels[splits == "train", names.index("Cardiomegaly")] = 0
        labels[splits == "val", names.index("Cardiomegaly")] = np.nan

    store = copy_of(small_phantom, tmp_path / "scarce.h5", scarce)
    made = train(store, tmp_path, classes="Cardiomegaly,Edema", encoder="test_resnet", max_epochs=1)
    assert "note: Cardiomegaly is present in none of the " in capsys.readouterr().out
    state = torch.load(made / "models/model_final.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
    metrics = evaluate(made, store, tmp_path / "eval", split="all")
    assert 0 <= metrics["findings"]["Cardiomegaly"]["auroc"] <= 1


def only_one_in(split):
    def change(labels, splits):
        splits[:] = ["train" if split == "test" else "val"] * len(splits)
        splits[3] = split

    return change


def test_a_single_image_is_learned_from(small_phantom, tmp_path, capsys):
    store = copy_of(small_phantom, tmp_path / "one.h5", only_one_in("train"))
    train(store, tmp_path, classes=CLASSES, encoder="test_resnet", image_size=64, max_epochs=2)
    lines = {line for line in capsys.readouterr().out.splitlines() if "of the 1 training images" in line}
    assert len(lines) == 2
    log = EventAccumulator(str(tmp_path / "eval/tensorboard"))
    log.Reload()
    assert np.isfinite([event.value for event in log.Scalars("train/loss")]).all()
    assert (tmp_path / "models/model.pt").exists()


def test_a_single_image_is_evaluated(trained, small_phantom, tmp_path):
    store = copy_of(small_phantom, tmp_path / "one.h5", only_one_in("test"))
    metrics = evaluate(trained, store, tmp_path / "eval")
    assert metrics["images"] == 1
    assert metrics["mean_auroc"] is None
    assert len(pd.read_csv(tmp_path / "eval/predictions.csv")) == 1


@pytest.mark.parametrize("preset", ["abnormal", "cardiomegaly", "localize", "pcam"])
def test_presets_train_and_are_evaluated_by_what_the_weights_tell(small_phantom, tmp_path, preset):
    small = {"encoder": "resnet10t", "max_epochs": 1}
    made = train(small_phantom, tmp_path, preset, **small)
    network = load_classifier(made / "models/model.pt")
    expected = {"abnormal": ["Abnormal"], "cardiomegaly": ["Cardiomegaly"]}
    assert network.class_names == expected.get(preset, open_store(small_phantom).class_names)
    assert network.settings["asked"]["equalize"] is (preset == "cardiomegaly")
    assert network.pooling == ("PCAM" if preset in ("localize", "pcam") else "AVG")
    assert network.encoder.description.output_stride == (4 if preset == "localize" else 0)
    assert set(evaluate(made, small_phantom, tmp_path / "out")["findings"]) == set(network.class_names)


def test_a_published_encoder_brings_its_input_and_evaluation_repeats_it(small_phantom, tmp_path):
    weights = encoder("resnet18", in_channels=3).state_dict()
    content = {"arch": "resnet18", "state_dict": {f"module.encoder_q.{key}": each for key, each in weights.items()}}
    torch.save(content, tmp_path / "moco.pth")
    parser = ConfigParser()
    parser.read_config(str(FOLDER / "configs/train.json"))
    parser["pretrained"] = str(tmp_path / "moco.pth")
    assert [parser.get_parsed_content(key) for key in ("encoder", "image_size")] == ["resnet18", 320]

    made = train(small_phantom, tmp_path, pretrained=str(tmp_path / "moco.pth"), classes=CLASSES, max_epochs=1)
    evaluate(made, small_phantom, tmp_path / "out", split="all")
    network = load_classifier(made / "models/model.pt").eval()
    grey = torch.from_numpy(np.asarray(open_store(small_phantom).images))[:, None] / 255
    images = (tv.resize(grey, [32, 32], antialias=True).expand(-1, 3, -1, -1) - 0.5020) / 0.085585
    with torch.no_grad():
        expected = network(images).sigmoid()[:, 1]
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    np.testing.assert_allclose(table["probability_Effusion"], expected, atol=1e-4)
    check_exports(made / "models/model.pt", images, tmp_path)


def check_exports(weights, images, folder):
    """MONAI's own exports of the bundle, as its README says, give the logits of the network at any batch size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    names = {"input_names": ["image"], "output_names": ["logits"]}
    common = {
        "net_id": "network_def",
        "ckpt_file": str(weights),
        "meta_file": str(FOLDER / "configs/metadata.json"),
        "config_file": str(FOLDER / "configs/inference.json"),
        "ckpt_path": str(weights),
        "bundle_root": str(FOLDER),
        "input_shape": [2, *images.shape[1:]],
    }
    ckpt_export(filepath=str(folder / "model.ts"), **common)
    dynamic = {**names, "dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}}}
    onnx_export(filepath=str(folder / "model.onnx"), converter_kwargs=dynamic, **common)
    network, script = load_classifier(weights).eval(), torch.jit.load(folder / "model.ts").eval()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    for count in (1, 2, 5):
        with torch.no_grad():
            expected = network(images[:count])
            torch.testing.assert_close(script(images[:count]), expected, rtol=1e-4, atol=1e-4)
        (logits,) = session.run(None, {"image": images[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


TINY = {"encoder": "test_resnet", "max_epochs": 1, "classes": CLASSES}


@pytest.mark.parametrize(("attention", "pooling"), [("SAM", "LSE"), ("FPA", "AVG_MAX")])
def test_attention_trains_and_is_evaluated(small_phantom, tmp_path, attention, pooling):
    made = train(small_phantom, tmp_path, attention=attention, pooling=pooling, image_size=64, **TINY)
    network = load_classifier(made / "models/model.pt")
    assert (network.settings["attention"], network.pooling) == (attention, pooling)
    assert 0 <= evaluate(made, small_phantom, tmp_path / "out", split="all")["mean_auroc"] <= 1
    assert f"{attention}" in (tmp_path / "out/report.html").read_text()


@pytest.fixture(scope="module")
def weights_of(small_phantom, tmp_path_factory):
    """`make(**options)` gives the final weights of a run with these options, made once for each."""
    made = {}

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            folder = train(small_phantom, tmp_path_factory.mktemp("options"), **TINY, **options)
            made[key] = torch.load(folder / "models/model_final.pt", weights_only=True)["head.weight"]
        return made[key]

    return make


@pytest.mark.parametrize(
    ("plain", "changed"),
    [
        ({}, {"flip": 1.0}),
        ({"optimizer_name": "SGD"}, {"momentum": 0.0}),
        ({"loss_name": "focal"}, {"focal_gamma": 0.5}),
    ],
)
def test_an_option_changes_the_weights_of_a_run(weights_of, plain, changed):
    assert not torch.equal(weights_of(**plain), weights_of(**plain, **changed))


def test_images_on_the_device_are_the_same_and_the_file_is_read_once(weights_of, monkeypatch):
    plain = weights_of()
    served = []
    fetch = StoreDataset.__getitems__
    monkeypatch.setattr(StoreDataset, "__getitems__", lambda self, k: served.append(self._resident) or fetch(self, k))
    assert torch.equal(weights_of(images_on_device=True), plain)
    assert served[0].shape[1:] == (64, 64)  # the training images as one tensor


def test_the_rule_decides_the_thresholds(small_phantom, tmp_path):
    def many_to_validate(labels, splits):
        splits[::2] = "val"

    store = copy_of(small_phantom, tmp_path / "store.h5", many_to_validate)
    chosen = []
    for rule in ("youden", "max_f1"):
        made = train(store, tmp_path / rule, threshold_rule=rule, **TINY)
        points = json.loads((made / "models/operating_points.json").read_text())
        chosen.append(points["thresholds"])
    assert chosen[0] != chosen[1]


def test_two_ranks_train_and_only_one_writes(small_phantom, tmp_path):
    configs = f"['{FOLDER}/configs/train.json','{FOLDER}/configs/multi_gpu_train.json']"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2", "-m", "monai.bundle"]
    places = {"data_file": small_phantom, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    made = run(
        [*launcher, "run", "--config_file", configs, *options({**TINY, "batch_size": 8, "image_size": 32, **places})],
        tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("Done.") == 1
    assert made.stdout.count("Mean AUROC on ") == 1
    assert len(list((tmp_path / "eval/tensorboard").iterdir())) == 1
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names == {"checkpoint.pt", "model.pt", "model_final.pt", "operating_points.json"}
    state = torch.load(tmp_path / "models/checkpoint.pt", weights_only=True)["state"]
    store = open_store(small_phantom)
    assert state["epoch_length"] == len(store.rows("train")) // 2 // 8
    evaluate(tmp_path, small_phantom, tmp_path / "out", split="all", batch_size=5)
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert table["image_id"].tolist() == store.table["image_id"].tolist()
    np.testing.assert_array_equal(table["truth_Effusion"], store.table["Pleural Effusion"])


def test_grades_are_learned_as_classes_in_order(small_phantom, tmp_path):
    store = tmp_path / "grades.h5"
    shutil.copy(small_phantom, store)
    with h5py.File(store, "r+") as file:
        count = len(file["labels"])
        file["table"].create_dataset("edema_severity", data=np.arange(count) % 4)
        file["table"].attrs["columns"] = json.dumps([*json.loads(file["table"].attrs["columns"]), "edema_severity"])
    made = train(store, tmp_path, "edema4", max_epochs=1, ema_decay=0.9, schedule="plateau", optimizer_name="SGD")
    metrics = evaluate(made, store, tmp_path / "out")
    assert metrics["task"] == "multiclass"
    assert len(metrics["multiclass"]["confusion"]) == 4
    assert "quadratic_kappa" in metrics["multiclass"]


def test_the_other_presets_hold_their_keys():
    known = json.loads((FOLDER / "configs/train.json").read_text())
    presets = list((FOLDER / "configs/presets").glob("*.json"))
    assert len(presets) == 9
    for preset in presets:
        assert json.loads(preset.read_text()).keys() <= known.keys(), preset.name


def test_a_resumed_run_with_an_average_equals_one_that_was_not_interrupted(small_phantom, tmp_path):
    options = {"classes": CLASSES, "ema_decay": 0.9, "encoder": "resnet10t", "schedule": "constant"}
    whole = train(small_phantom, tmp_path / "whole", max_epochs=2, **options)
    train(small_phantom, tmp_path / "half", max_epochs=1, **options)
    resumed = train(small_phantom, tmp_path / "half", max_epochs=2, resume=True, **options)
    one, other = (torch.load(each / "models/model_final.pt", weights_only=True) for each in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    plain = torch.load(whole / "models/checkpoint.pt", weights_only=True)["network"]
    assert any(not torch.equal(one[key], plain[key]) for key in one)  # the average is what was kept


def test_inference_on_files_names_what_cannot_be_read(trained, small_phantom, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    store = open_store(small_phantom)
    for row in range(3):
        Image.fromarray(store.images[row]).save(folder / f"{row}.png")
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
    table = pd.read_csv(tmp_path / "out/predictions.csv", dtype={"image_id": str})
    assert table["image_id"].tolist() == ["0", "1", "2"]
    assert table[["Cardiomegaly", "Effusion"]].to_numpy().min() > 0
    points = json.loads((trained / "models/operating_points.json").read_text())
    called = [name for name, value in zip(CLASSES.split(","), points["thresholds"], strict=True) if value is not None]
    assert [name for name in table if name.endswith(" positive")] == [f"{name} positive" for name in called]


def test_faults_are_one_line(small_phantom, tmp_path):
    def fails(**overrides):
        made = bundle(FOLDER / "configs/train.json", tmp_path, data_file=small_phantom, device="cpu", **overrides)
        (line,) = error_lines(made)
        return line

    assert "no class 'Tuberculosis'" in fails(classes="Tuberculosis")
    assert "attention CAM needs maps, and pooling NATIVE has none" in fails(attention="CAM", pooling="NATIVE")


def test_range_test_suggests_a_rate_and_trains_nothing(small_phantom, tmp_path, capsys):
    train(small_phantom, tmp_path, lr_find=True, encoder="resnet10t")
    assert "suggestion: --learning_rate" in capsys.readouterr().out
    assert (tmp_path / "eval/learning_rates.png").stat().st_size > 1000
    assert not (tmp_path / "models").exists()


def test_two_evaluations_are_compared(trained, small_phantom, tmp_path, capsys):
    evaluate(trained, small_phantom, tmp_path / "a", split="all")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["delong", str(tmp_path / "a/predictions.csv"), str(tmp_path / "b/predictions.csv")])
    assert left.value.code == 0
    assert "Effusion" in capsys.readouterr().out
