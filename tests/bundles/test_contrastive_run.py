"""The contrastive bundle: every preset trains, resumes exactly, runs on two ranks, and is evaluated and used."""

import json
import os
import socket
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY, initialized
from resuming import break_off, checkpoint, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrmonai.bundle.checking import check
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.store import open_store, write_store
from cxrmonai.errors import user_error
from cxrmonai.networks import load_encoder, preprocessing
from cxrmonai.transforms import preprocess

pytestmark = pytest.mark.slow
CONFIGS = REPOSITORY / "bundles/contrastive/configs"
PRESETS = sorted(path.stem for path in (CONFIGS / "presets").glob("*.json"))
SMALL = {
    "max_epochs": 2,
    "batch_size": 8,
    "image_size": 32,
    "encoder": "resnet10t",
    "stem": "default",
    "probe_every": 0,
}
MEMORY_SIZES = {"moco_v1": 20, "moco_v2": 20, "moco_cxr": 20, "medaug": 20, "infomin": 20}  # queues; banks hold all


workflow = partial(initialized, CONFIGS.parent)


def train(folder, store, preset, **overrides):
    files = ["train.json", f"presets/{preset}.json"]
    values = {**SMALL, "queue_size": 20, "data_file": str(store), "ckpt_dir": str(folder), **overrides}
    return workflow(files, output_dir=str(folder / "eval"), **values)


def part(made, name):
    return made.parser.get_parsed_content(name)


@pytest.fixture(scope="module")
def paired_store(small_phantom, tmp_path_factory):
    """The small phantom's images as frontal and lateral pairs of one study; the last training image has no lateral."""
    path = tmp_path_factory.mktemp("paired") / "paired.h5"
    store = open_store(small_phantom)
    table = store.table.copy()
    order = np.argsort(table["split"].to_numpy(), kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    for _, rows in table.groupby("split").groups.items():
        pair = np.arange(len(rows)) // 2
        table.loc[rows, "patient_id"] = [f"{table['split'][rows[0]]}{k}" for k in pair]
        table.loc[rows, "study_id"] = table.loc[rows, "patient_id"]
        table.loc[rows, "view"] = np.where(np.arange(len(rows)) % 2, "LATERAL", "PA")
    write_store(
        path,
        images=store.images[order],
        geometry=np.tile(letterbox_geometry(64, 64, 64), (len(table), 1)),
        table=table,
        class_names=store.class_names,
        source="test",
        synthetic=True,
    )
    return path


@pytest.fixture
def store_of(small_phantom, paired_store):
    """The store that a preset can learn from."""
    return lambda preset: paired_store if preset == "cmc_pa_lateral" else small_phantom


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_trains_and_its_encoder_is_read(preset, store_of, tmp_path, capsys):
    assert check([str(CONFIGS / "train.json"), str(CONFIGS / f"presets/{preset}.json")], {}) == []
    made = train(tmp_path, store_of(preset), preset, probe_every=2)
    begun = {name: value.clone() for name, value in part(made, "start").encoder.named_parameters()}
    made.run()
    encoder = load_encoder(tmp_path / "model.pt").eval()
    assert encoder(torch.zeros(2, 1, 32, 32)).shape == (2, 512)
    moved = [name for name, value in encoder.named_parameters() if not torch.equal(value, begun[name])]
    assert len(moved) == len(begun)
    assert preprocessing(tmp_path / "model.pt").mean == ((0.502,) if preset in ("moco_cxr", "medaug") else (0.5,))
    part(made, "writer").close()
    log = EventAccumulator(str(tmp_path / "eval/tensorboard"))
    log.Reload()
    expected = {f"train/{name}" for name in ("loss", "learning_rate", "images_per_second", "key_accuracy")}
    expected |= {"embedding/spread", "embedding/effective_rank", "validation/val_loss", "probe/mean_auroc"}
    assert expected <= set(log.Tags()["scalars"])
    assert log.Tags()["images"] == ["views"]
    saved = checkpoint(tmp_path)["loss"]
    kept = [value for name, value in saved.items() if name.endswith((".keys", ".embeddings"))]
    assert len(kept) == {"cmc": 2, "cmc_pa_lateral": 2}.get(
        preset, preset in MEMORY_SIZES or preset in ("insdis", "pirl")
    )
    rows = part(made, "train::dataset").rows
    assert {len(value) for value in kept} <= {MEMORY_SIZES.get(preset, len(rows))}


def test_what_dino_keeps_is_the_teacher(small_phantom, tmp_path):
    made = train(tmp_path, small_phantom, "dino")
    made.run()
    teacher = part(made, "start").momentum.copy[0].state_dict()
    same(dict(load_encoder(tmp_path / "model_final.pt").state_dict()), dict(teacher))


@pytest.mark.parametrize("preset", ["moco_v2", "pirl", "byol"])
def test_resumed_equals_uninterrupted(preset, small_phantom, tmp_path):
    options = {"accumulation_steps": 2 if preset == "byol" else 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, small_phantom, preset, **options).run()
    break_off(train(parts, small_phantom, preset, **options), epoch=2, step=2)
    assert checkpoint(parts)["state"]["epoch"] == 1
    train(parts, small_phantom, preset, resume=True, **options).run()
    same(checkpoint(whole), checkpoint(parts))
    for name in ("model.pt", "model_final.pt"):
        same(torch.load(whole / name, weights_only=True), torch.load(parts / name, weights_only=True), name)


def test_copy_moves_with_the_weights_and_the_queue_with_each_step(small_phantom, tmp_path):
    made = train(tmp_path, small_phantom, "moco_v2", accumulation_steps=3, batch_size=5)
    network, steps = part(made, "start"), len(part(made, "train::dataloader"))
    assert steps % 3
    moves = []
    network.update = lambda: moves.append(part(made, "train::trainer").state.iteration)
    made.run()
    assert moves == [step for step in range(1, 2 * steps + 1) if (step - 1) % steps % 3 == 2 or step % steps == 0]
    assert part(made, "loss").memories[0].place == 2 * steps * 5 % 20


def _rank(rank, folder, store, port):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    made = train(folder, store, "moco_v2", device="cpu", batch_size=4)
    made.run()
    network = part(made, "start")
    state = {"momentum": network.momentum.state_dict(), "loss": part(made, "loss").state_dict()}
    state["weights"] = dict(network.named_parameters())
    torch.save(state, folder / f"rank{rank}.pt")
    made.finalize()


def test_two_ranks_remember_the_same_and_only_one_writes(small_phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torch.multiprocessing.start_processes(_rank, (tmp_path, small_phantom, port), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("weights", "loss"):
        same(first[name], second[name], name)
    weights = [name for name, _ in first["momentum"].items() if "running" not in name and "tracked" not in name]
    same({name: first["momentum"][name] for name in weights}, {name: second["momentum"][name] for name in weights})
    rows = first["loss"]["memories.0.rows"]
    assert len(set(rows.tolist())) > 10
    assert len(list((tmp_path / "eval/tensorboard").iterdir())) == 1
    assert not any(name.startswith("module.") for name in checkpoint(tmp_path)["network"])


def test_a_collapsed_run_is_told(small_phantom, tmp_path, capsys):
    """Without a predictor and a copy nothing keeps BYOL's loss from being met by one embedding for all."""
    made = train(
        tmp_path, small_phantom, "byol", predictor=0, key_momentum=0, head="linear", learning_rate=0.03,
        max_epochs=6, schedule="constant",
    )  # fmt: skip
    made.run()
    assert capsys.readouterr().err.count("warning: the embeddings have collapsed") == 1


def test_pretrained_weights_are_what_all_encoders_start_from(small_phantom, tmp_path):
    train(tmp_path / "first", small_phantom, "moco_v2", max_epochs=1).run()
    path = tmp_path / "first/model.pt"
    expected = dict(load_encoder(path).state_dict())
    start = part(train(tmp_path / "second", small_phantom, "moco_v2", pretrained=str(path)), "start")
    same(dict(start.encoder.state_dict()), expected)
    same(dict(start.momentum.copy[0].state_dict()), expected)
    start = part(train(tmp_path / "third", small_phantom, "cmc", pretrained=str(path)), "start")
    same(dict(start.second[0].state_dict()), expected)


def test_evaluation_and_inference_see_what_training_saw(small_phantom, tmp_path):
    train(tmp_path, small_phantom, "moco_cxr", max_epochs=1).run()
    weights = str(tmp_path / "model.pt")
    workflow(
        ["evaluate.json"], "infer", ckpt_path=weights, data_file=str(small_phantom), output_dir=str(tmp_path / "probe"),
        resamples=100,
    ).run()  # fmt: skip
    assert json.loads((tmp_path / "probe/metrics.json").read_text())
    assert (tmp_path / "probe/report.html").exists()
    store, folder = open_store(small_phantom), tmp_path / "images"
    folder.mkdir()
    small = [cv2.resize(store.images[k], (32, 32), interpolation=cv2.INTER_AREA) for k in range(3)]
    for k, image in enumerate(small):
        cv2.imwrite(str(folder / f"{k}.png"), image)
    options = {
        "ckpt_path": weights,
        "dataset_dir": str(folder),
        "output_dir": str(tmp_path / "out"),
        "encoder": "resnet10t",
    }
    workflow(["inference.json"], "infer", image_size=32, stem="default", **options).run()
    with np.load(tmp_path / "out/embeddings.npz", allow_pickle=False) as file:
        embedding = file["embedding"][np.argsort(file["image_id"])]
    with torch.no_grad():
        images = preprocess(torch.from_numpy(np.stack(small))[:, None], preprocessing(weights))
        expected = load_encoder(weights).eval()(images).numpy()
    np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        workflow(["inference.json"], "infer", image_size=48, stem="default", **options).run()
    assert "was trained with image_size 32" in str(user_error(refused.value))


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("medaug", {"pair_study": "same"}, "no image has a partner of its patient with pair_study same"),
        ("cmc_pa_lateral", {}, "no study of the split train has a frontal"),
        ("moco_v2", {"keep": "momentum", "key_momentum": 0.0}, "no momentum copy"),
        ("pirl", {"encoder": "vit_tiny_patch16_224"}, "images of one size"),
        ("insdis", {"view_count": 1, "key_momentum": 0.9}, "momentum 0"),
    ],
)
def test_what_a_method_cannot_do_is_refused_in_a_sentence(preset, overrides, words, small_phantom, tmp_path):
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        train(tmp_path, small_phantom, preset, **overrides).run()
    assert words in str(user_error(refused.value))
    assert not (tmp_path / "model.pt").exists()


def test_resuming_with_another_memory_is_refused(small_phantom, tmp_path):
    train(tmp_path, small_phantom, "moco_v2", max_epochs=1).run()
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        train(tmp_path, small_phantom, "moco_v2", queue_size=16, resume=True).run()
    assert "memory of another size" in str(user_error(refused.value))


def test_images_without_a_lateral_are_counted(paired_store, tmp_path, capsys):
    made = train(tmp_path, paired_store, "cmc_pa_lateral")
    rows = part(made, "train::dataset").rows
    table = pd.DataFrame({name: open_store(paired_store).column(name) for name in ("split", "view", "study_id")})
    known = table[table["split"] == "train"]
    laterals = known.loc[known["view"] == "LATERAL", "study_id"]
    expected = known.index[(known["view"] == "PA") & known["study_id"].isin(laterals)]
    assert rows.tolist() == expected.tolist()
    assert f"note: {len(rows)} of {len(known)} images (train)" in capsys.readouterr().err
