"""The SimCLR bundle from its command line: what a user types, and what comes of it."""

import json
import os
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import SMALL, bundle, error_lines, options, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrmonai.data.store import open_store
from cxrmonai.networks import load_encoder

pytestmark = pytest.mark.slow
TRAIN = "bundles/simclr/configs/train.json"
SIZE = SMALL["image_size"]


@pytest.fixture(scope="module")
def events(trained):
    log = EventAccumulator(str(trained / "bundles/simclr/eval/tensorboard"))
    log.Reload()
    return log


def test_readme_command_trains_and_says_what_was_made(trained):
    out = (trained / "train.out").read_text()
    assert "The pretrained encoder is bundles/simclr/models/model.pt" in out
    assert re.search(r"pretrained +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", out)
    assert re.search(r"untrained +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", out)
    assert "synthetic" in out
    assert "tensorboard --logdir bundles/simclr/eval/tensorboard" in out
    bars = (trained / "train.err").read_text()
    assert re.search(r"epoch 2/2: 100%.*loss=\d\.\d+, lr=\S+, img/s=\d+", bars)
    assert {path.name for path in (trained / "bundles/simclr/models").iterdir()} == {
        "checkpoint.pt",
        "model.pt",
        "model_final.pt",
    }


def test_tensorboard_holds_curves_and_views(events):
    scalars = set(events.Tags()["scalars"])
    assert {"train/images_per_second", "validation/val_loss", "validation/val_contrastive_accuracy"} <= scalars
    assert len(events.Scalars("probe/mean_auroc")) == SMALL["max_epochs"]
    assert {"train/loss", "train/learning_rate", "train/contrastive_accuracy"} <= scalars
    assert {"embedding/spread", "embedding/effective_rank"} <= scalars
    image = events.Images("views")[0]
    assert (image.width, image.height) == (2 * SIZE, 8 * SIZE)


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_evaluate_writes_metrics_predictions_and_report(trained, small_phantom, tmp_path, method):
    made = bundle(
        "bundles/simclr/configs/evaluate.json",
        trained,
        data_file=small_phantom,
        method=method,
        split="all",
        resamples=100,
        output_dir=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["synthetic"] is True
    assert metrics["probe"] == method
    assert metrics["by_view"]["AP"]["images"] + metrics["by_view"]["PA"]["images"] == metrics["images"]
    assert set(metrics["findings"]) == set(open_store(small_phantom).class_names)
    assert {"auroc", "auroc_ci", "average_precision", "positives", "negatives"} <= set(metrics["findings"]["Edema"])
    assert 0 <= metrics["mean_auroc"] <= 1
    assert 0 <= metrics["untrained"]["mean_auroc"] <= 1
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    store = open_store(small_phantom)
    held_out = store.table[store.table["split"] != "train"]
    assert set(predictions["image_id"]) == set(held_out["image_id"])
    truth = predictions.pivot_table(index="image_id", columns="finding", values="truth")
    pd.testing.assert_frame_equal(
        truth.sort_index(),
        held_out.set_index("image_id")[sorted(store.class_names)].astype(float).sort_index(),
        check_names=False,
    )
    assert "synthetic" in (tmp_path / "report.html").read_text().lower()


def test_inference_embeds_files_as_the_store_would(trained, small_phantom, tmp_path):
    store = open_store(small_phantom)
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    small = [cv2.resize(store.images[k], (SIZE, SIZE), interpolation=cv2.INTER_AREA) for k in range(3)]
    for k, name in enumerate(["a", "b", "sub/c"]):
        cv2.imwrite(str(folder / f"{name}.png"), small[k])
    (folder / "broken.png").write_text("no image")
    made = bundle(
        "bundles/simclr/configs/inference.json",
        trained,
        dataset_dir=folder,
        image_size=SIZE,
        stem="default",
        output_dir=tmp_path / "out",
        batch_size=2,
    )
    assert made.returncode == 0, made.stderr
    assert "broken.png" in made.stderr
    with np.load(tmp_path / "out/embeddings.npz", allow_pickle=False) as file:
        ids, embedding = list(file["image_id"]), file["embedding"]
    assert sorted(ids) == ["a", "b", "sub_c"]
    encoder = load_encoder(trained / "bundles/simclr/models/model.pt").eval()
    images = torch.from_numpy(np.stack(small))[:, None] / 255
    with torch.no_grad():
        expected = encoder((images - 0.5) / 0.25).numpy()
    order = [ids.index(name) for name in ("a", "b", "sub_c")]
    np.testing.assert_allclose(embedding[order], expected, rtol=1e-3, atol=1e-3)


def test_inference_at_another_size_than_trained_is_refused(trained, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64), np.uint8))
    made = bundle("bundles/simclr/configs/inference.json", trained, dataset_dir=tmp_path, output_dir=tmp_path)
    assert error_lines(made) == [
        f"error: {trained}/bundles/simclr/models/model.pt: was trained with image_size {SIZE}; give --image_size {SIZE}"
    ]


def test_runs_from_inside_the_bundle_and_from_anywhere(trained, small_phantom, tmp_path):
    small = {**SMALL, "max_epochs": 1, "data_file": small_phantom, "ckpt_dir": tmp_path / "m", "probe_every": 0}
    inside = bundle("configs/train.json", trained / "bundles/simclr", output_dir=tmp_path / "inside", **small)
    assert inside.returncode == 0, inside.stderr
    anywhere = bundle(
        trained / TRAIN, tmp_path, bundle_root=trained / "bundles/simclr", output_dir=tmp_path / "any", **small
    )
    assert anywhere.returncode == 0, anywhere.stderr
    assert (tmp_path / "m/model.pt").exists()


@pytest.mark.parametrize("preset", ["lars", "monai_transforms"])
def test_presets_train(trained, small_phantom, tmp_path, preset):
    config = f"['{TRAIN}','bundles/simclr/configs/presets/{preset}.json']"
    made = bundle(
        config,
        trained,
        **{**SMALL, "max_epochs": 1},
        data_file=small_phantom,
        ckpt_dir=tmp_path / "models",
        output_dir=tmp_path / "eval",
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "models/model.pt").exists()


def test_two_ranks_train_and_only_one_writes(trained, small_phantom, tmp_path):
    configs = f"['{TRAIN}','bundles/simclr/configs/multi_gpu_train.json']"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    made = run(
        [
            *launcher,
            "-m",
            "monai.bundle",
            "run",
            "--config_file",
            configs,
            *options({**SMALL, "batch_size": 8, "data_file": small_phantom}),
            *options({"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}),
        ],
        trained,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("Done.") == 1
    assert len(list((tmp_path / "eval/tensorboard").iterdir())) == 1
    assert made.stderr.count("epoch 2/2: 100%") >= 1
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"checkpoint.pt", "model.pt", "model_final.pt"}
    state = torch.load(tmp_path / "models/checkpoint.pt", weights_only=True)["state"]
    assert state["epoch_length"] == len(open_store(small_phantom).rows("train")) // 2 // 8
    keys = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert not any(key.startswith("module.") for key in keys)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data_file": "absent.h5"}, ["data_file", "absent.h5"]),
        ({"data_file": "README.txt"}, ["README.txt", "not a store"]),
        ({"max_epoch": 3}, ["max_epoch", "did you mean", "max_epochs"]),
        ({"encoder": "resnet81"}, ["resnet81"]),
        ({"amp": "false"}, ["amp", "False"]),
        ({"output_dir": "README.txt/eval"}, ["README.txt/eval"]),
        ({"pretrained": "README.txt"}, ["README.txt"]),
    ],
)
def test_bad_input_is_one_line(workplace, small_phantom, overrides, words):
    (workplace / "README.txt").write_text("no store")
    values = {"data_file": small_phantom, **SMALL, **overrides}
    lines = error_lines(bundle(TRAIN, workplace, **values))
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines
