"""Evaluations on two ranks leave the files that one rank leaves, to the last byte of their figures.

Their launch also trains IRNet, whose labels are made by one rank while the others wait.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY
from monai.bundle import create_workflow

from cxrmonai.bundle import check
from cxrmonai.data.mask_store import MaskStore
from cxrmonai.data.store import open_store
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.networks import Classifier, ContrastiveNetwork, IRNet, PretextNetwork, Segmenter, load_irnet

pytestmark = pytest.mark.slow
ASKED = {
    "target": "findings", "classes": None, "policy": "ignore", "blank": None, "grade_column": "edema_severity",
    "equalize": False,
}  # fmt: skip
WALK = {
    "attribution": "gradcam", "equalize": False, "walk_radius": 3, "walk_beta": 5, "walk_doublings": 2,
    "threshold": 0.3,
}  # fmt: skip
BATCH = 4


def torchrun(arguments, folder):
    """Runs a module or script on two gloo ranks, and returns what they said."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        *map(str, arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def configs(name, config="evaluate"):
    return [str(REPOSITORY / f"bundles/{name}/configs/{file}.json") for file in (config, f"multi_gpu_{config}")]


def same_files(one, other, names=("metrics.json", "predictions.csv")):
    """Whether two folders hold the same figures; the names of the folders may differ."""
    for name in names:
        first, second = (Path(folder, name).read_text() for folder in (one, other))
        assert first.replace(str(one), "") == second.replace(str(other), ""), name


@pytest.fixture(scope="module")
def weights(small_phantom, tmp_path_factory):
    """Bundle → folder with the weights of a network that was never trained, but tells images apart."""
    torch.manual_seed(0)
    folder, names = tmp_path_factory.mktemp("weights"), open_store(small_phantom).class_names
    tiny = {"encoder": "resnet10t", "image_size": 32}
    task = {"name": "rotation_shift", "shift": 0.109375}
    heads = [["rotation", 4], ["shift_x", 3], ["shift_y", 3]]
    networks = {
        "supervised": Classifier(names, asked=ASKED, **tiny),
        "simclr": ContrastiveNetwork(**tiny),
        "ssl_pretext": PretextNetwork(heads=heads, task=task, **tiny),
        "deeplabv3plus": Segmenter(names, asked={"seed": 0, "fold": 0, "folds": 0}, **tiny),
        "irnet": IRNet(names, asked=WALK, **tiny),
    }
    for name, network in networks.items():
        (folder / name / "models").mkdir(parents=True)
        for part in network.modules():
            if isinstance(part, torch.nn.Linear):
                torch.nn.init.normal_(part.weight, 0, 1)
        torch.save(network.state_dict(), folder / name / "models/model.pt")
    shutil.copy(folder / "supervised/models/model.pt", folder / "irnet/models/classifier.pt")
    (folder / "cam_localization").symlink_to(folder / "supervised")
    return folder


def options_of(config, name, weights, store, out, **more):
    """Of a config of a bundle, for both numbers of ranks."""
    places = {"data_file": str(store), "ckpt_path": str(weights / name / "models/model.pt"), "output_dir": str(out)}
    resamples = {"resamples": 100} if config == "evaluate" else {}
    return {"bundle_root": str(REPOSITORY / "bundles" / name), "batch_size": BATCH, **places, **resamples, **more}


def one_rank(name, weights, store, out, config="evaluate", **more):
    """Runs a config in this process, and returns its metrics, where it leaves some."""
    given = options_of(config, name, weights, store, out, **more)
    work = create_workflow(config_file=configs(name, config)[0], workflow_type="infer", device="cpu", **given)
    work.initialize()
    work.run()
    return json.loads((out / "metrics.json").read_text()) if (out / "metrics.json").exists() else None


def training(weights, store, folder):
    """How IRNet is trained."""
    return {
        "workflow_type": "train", "bundle_root": str(REPOSITORY / "bundles/irnet"), "data_file": str(store),
        "classifier": str(weights / "supervised/models/model.pt"), "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"), "image_size": 64, "batch_size": BATCH, "max_epochs": 1, "subset": 8,
        "crf_iterations": 0, "check_every": 0, "attribution": "saliency",  # other maps are of one cell at 32 pixels
    }  # fmt: skip


RUNS = {
    "supervised": ("supervised", "evaluate", {"split": "all"}),
    "simclr": ("simclr", "evaluate", {}),
    "ssl_pretext": ("ssl_pretext", "evaluate", {}),
    "deeplabv3plus": ("deeplabv3plus", "evaluate", {"split": "all", "export": "masks"}),
    "irnet": ("irnet", "evaluate", {}),
    "pseudo": ("irnet", "propagate", {}),
    "cam": ("cam_localization", "evaluate", {"method": "cam", "mask_rule": "otsu", "overlays": 0}),
    "small": ("supervised", "evaluate", {"batch_size": 1000}),
}


@pytest.fixture(scope="module")
def on_two(small_phantom, weights, tmp_path_factory):
    """Folder with what two ranks leave of all runs, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    works = [
        {
            "config_file": configs(name, config),
            "workflow_type": "infer",
            **options_of(config, name, weights, small_phantom, folder / out, **more),
        }
        for out, (name, config, more) in RUNS.items()
    ]
    works.append({"config_file": configs("irnet", "train"), **training(weights, small_phantom, folder / "trained")})
    said = torchrun([REPOSITORY / "tests/bundles/run_on_ranks.py", json.dumps(works)], folder)
    (folder / "said.txt").write_text(said)
    return folder


@pytest.fixture
def on_one(small_phantom, weights, tmp_path):
    """`run(out)` does one of the runs in this process, and returns its folder and metrics."""

    def run(out):
        name, config, more = RUNS[out]
        return tmp_path, one_rank(name, weights, small_phantom, tmp_path, config, **more)

    return run


def test_a_classifier(on_two, on_one):
    folder, metrics = on_one("supervised")
    assert metrics["images"] % (2 * BATCH)  # the ranks have unlike many images
    same_files(folder, on_two / "supervised")
    assert not pd.read_csv(on_two / "supervised/predictions.csv").duplicated().any()


def test_one_rank_speaks(on_two):
    said = (on_two / "said.txt").read_text()
    assert said.count("supervised/report.html") == said.count("simclr/report.html") == 1
    assert said.count("note: no ") == 3  # beside two classifiers and a segmenter lies nothing chosen on validation


@pytest.mark.parametrize("name", sorted({(name, config) for name, config, _ in RUNS.values()}))
def test_the_configs_pass_the_check_of_a_start(name, small_phantom, weights):
    bundle, config = name
    places = {"data_file": str(small_phantom), "ckpt_path": str(weights / bundle / "models/model.pt")}
    assert check(configs(bundle, config), places) == []


@pytest.mark.parametrize("name", ["simclr", "ssl_pretext"])
def test_a_probe_and_a_pretext_task(name, on_two, on_one, small_phantom):
    folder, metrics = on_one(name)
    same_files(folder, on_two / name)
    store = open_store(small_phantom)
    assert (len(store.rows("train")) + len(store.rows("test"))) % (2 * BATCH)
    if name == "ssl_pretext":
        assert metrics["pretext"]["figures"]["rotation_accuracy"]["items"] == len(store.rows("test"))


def test_a_segmenter(on_two, on_one):
    folder, metrics = on_one("deeplabv3plus")
    assert metrics["images"] % (2 * BATCH)
    same_files(folder, on_two / "deeplabv3plus", ("metrics.json", "overlap.csv", "masks.json"))


def test_masks_from_labels(on_two, on_one):
    folder, _ = on_one("irnet")
    same_files(folder, on_two / "irnet", ("metrics.json", "overlap.csv", "cam/overlap.csv"))


def test_pseudo_masks(on_two, on_one):
    folder, _ = on_one("pseudo")
    one, two = (MaskStore(path / "pseudo_masks.h5") for path in (folder, on_two / "pseudo"))
    np.testing.assert_array_equal(one.rows, two.rows)
    assert one.image_ids == two.image_ids
    assert len(one) % (2 * BATCH)
    places = range(len(one))
    np.testing.assert_array_equal(one.get(places), two.get(places))
    assert [path.name for path in (on_two / "pseudo").iterdir()] == ["pseudo_masks.h5"]


def test_a_training_of_irnet(on_two, small_phantom, weights, tmp_path):
    """One set of labels, each rank its half of every step, and weights whose loss is what one rank finds."""
    assert (on_two / "said.txt").read_text().count("Done. IRNet is ") == 1
    made = on_two / "trained"
    config, options = configs("irnet", "train")[0], training(weights, small_phantom, tmp_path)
    work = create_workflow(config_file=config, device="cpu", **options)
    work.initialize()
    evaluator, start = (work.parser.get_parsed_content(key) for key in ("validate::evaluator", "start"))
    one, two = (MaskStore(folder / "eval/ir_labels.h5") for folder in (tmp_path, made))
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.get(range(len(one))), two.get(range(len(two))))
    state = torch.load(made / "models/checkpoint.pt", weights_only=True)["state"]
    assert (state["epoch"], state["epoch_length"]) == (1, 8 // (2 * BATCH))
    assert state["best"] > 0
    network = load_irnet(made / "models/model.pt")
    assert any(not torch.equal(value, start.state_dict()[key]) for key, value in network.state_dict().items())
    start.load_state_dict(network.state_dict())
    evaluator.run()
    assert evaluator.state.metrics["val_loss"] == pytest.approx(state["best"], rel=1e-5)


def test_heatmaps_and_their_scores(on_two, on_one):
    folder, _ = on_one("cam")
    one, two = (Heatmaps(path / "heatmaps.h5") for path in (folder, on_two / "cam"))
    assert one.image_ids == two.image_ids
    np.testing.assert_array_equal(one.probability, two.probability)
    np.testing.assert_array_equal(one.maps(range(len(one))), two.maps(range(len(one))))
    same_files(folder, on_two / "cam", ("metrics.json",))


def test_fewer_images_than_a_batch_for_each_rank(on_two, on_one):
    """Batches are then cut, and the figures are the same to the rounding of float32."""
    _, one = on_one("small")
    two = json.loads((on_two / "small/metrics.json").read_text())
    assert two["images"] == one["images"] < 2000
    assert two["mean_auroc"] == pytest.approx(one["mean_auroc"], abs=1e-5)
