"""The pretext bundle: every preset trains, resumes exactly, and is evaluated and used."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from bundle_runs import REPOSITORY, initialized
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrmonai.bundle.checking import check
from cxrmonai.data.store import open_store
from cxrmonai.errors import user_error
from cxrmonai.networks import load_encoder, load_pretext

pytestmark = pytest.mark.slow
CONFIGS = REPOSITORY / "bundles/ssl_pretext/configs"
PRESETS = sorted(path.stem for path in (CONFIGS / "presets").glob("*.json"))
SMALL = {
    "max_epochs": 2,
    "batch_size": 8,
    "image_size": 32,
    "encoder": "resnet10t",
    "probe_every": 0,
    "stem": "default",
}
METRICS = {
    "rotation_shift": {"rotation_accuracy", "shift_x_accuracy", "shift_y_accuracy"},
    "age": {"age_mae"},
    "sex": {"sex_auroc"},
    "age_sex": {"age_mae", "sex_auroc"},
    "reconstruction": {"psnr", "ssim"},
    "masked": {"psnr", "ssim"},
    "study_pair": {"pair_auroc", "order_accuracy"},
}


def configs(name, preset=None):
    return [str(CONFIGS / f"{name}.json"), *([str(CONFIGS / f"presets/{preset}.json")] if preset else [])]


workflow = partial(initialized, CONFIGS.parent)


def train(folder, store, preset, **overrides):
    folders = {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    return workflow(configs("train", preset), data_file=str(store), **folders, **{**SMALL, **overrides})


@pytest.fixture(scope="module", params=PRESETS)
def trained(request, small_phantom, tmp_path_factory):
    """A run of each preset: its name, its folder and its workflow."""
    folder = tmp_path_factory.mktemp(request.param)
    made = train(folder, small_phantom, request.param)
    assert made.check_properties() == []
    made.run()
    made.parser.get_parsed_content("writer").close()
    return request.param, folder, made


def test_there_is_a_preset_for_each_task():
    assert set(PRESETS) == set(METRICS)
    for preset in PRESETS:
        assert check(configs("train", preset), {"run_id": "run", "data_file": None}) == []


def test_every_preset_trains_and_its_encoder_is_read(trained):
    preset, folder, made = trained
    encoder, network = load_encoder(folder / "models/model.pt"), load_pretext(folder / "models/model.pt")
    assert encoder.preprocessing.image_size == 32
    assert network.settings["task"]["name"] == preset
    start = made.parser.get_parsed_content("untrained").state_dict()
    final = torch.load(folder / "models/model_final.pt", weights_only=True)
    assert not torch.equal(start["conv1.0.weight"], final["encoder.conv1.0.weight"])


def test_tensorboard_has_the_tasks_figures_and_pictures(trained):
    preset, folder, _ = trained
    log = EventAccumulator(str(folder / "eval/tensorboard"))
    log.Reload()
    scalars = set(log.Tags()["scalars"])
    wanted = {f"validation/val_{name}" for name in METRICS[preset]} | {"validation/val_loss", "train/loss"}
    assert wanted | {"embedding/spread", "embedding/effective_rank"} <= scalars
    pictures = log.Images("pictures")
    assert [event.step for event in pictures] == [1, 2]
    shown = 3 if preset in ("reconstruction", "masked") else 1
    assert pictures[0].width == shown * 32


@pytest.mark.parametrize("trained", ["study_pair"], indirect=True)
def test_evaluation_and_inference(trained, small_phantom, tmp_path):
    preset, folder, _ = trained
    common = {"ckpt_path": str(folder / "models/model.pt"), "output_dir": str(tmp_path)}
    workflow(configs("evaluate"), "infer", data_file=str(small_phantom), resamples=100, split="val", **common).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["pretext"]["task"] == preset
    assert set(metrics["pretext"]["figures"]) == METRICS[preset]
    assert {"value", "ci", "items"} == set(next(iter(metrics["pretext"]["figures"].values())))
    assert metrics["untrained"]["mean_auroc"] > 0
    assert (tmp_path / "report.html").exists()

    store = open_store(small_phantom)
    (tmp_path / "images").mkdir()
    small = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in store.images[:2]]
    for name, image in zip("ab", small, strict=True):
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), image)
    workflow(configs("inference"), "infer", dataset_dir=str(tmp_path / "images"), **common).run()
    with np.load(tmp_path / "embeddings.npz", allow_pickle=False) as file:
        ids, embedding = list(file["image_id"]), file["embedding"]
    encoder = load_encoder(folder / "models/model.pt").eval()
    with torch.no_grad():
        expected = encoder((torch.from_numpy(np.stack(small))[:, None] / 255 - 0.5) / 0.25).numpy()
    np.testing.assert_allclose(embedding[[ids.index("a"), ids.index("b")]], expected, rtol=1e-3, atol=1e-3)


class BrokenOff(Exception):  # noqa: N818 - stands for a kill
    pass


@pytest.mark.parametrize(("preset", "size"), [("masked", 6), ("study_pair", 14)])
def test_resumed_equals_uninterrupted(tmp_path, small_phantom, preset, size):
    """Masks, pairs, turns and views are functions of the seed and the epoch."""
    options = {"accumulation_steps": 2, "batch_size": size}
    train(tmp_path / "whole", small_phantom, preset, **options).run()
    first = train(tmp_path / "parts", small_phantom, preset, **options)
    trainer = first.parser.get_parsed_content("train::trainer")

    def break_off(engine):
        raise BrokenOff

    trainer.add_event_handler(Events.ITERATION_STARTED(once=trainer.state.epoch_length + 2), break_off)
    with pytest.raises(Exception):  # noqa: B017, PT011 - MONAI wraps what an expression raises
        first.run()
    train(tmp_path / "parts", small_phantom, preset, resume=True, **options).run()
    whole, parts = (
        torch.load(tmp_path / name / "models/checkpoint.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["state"] == parts["state"]
    assert all(torch.equal(value, parts["network"][name]) for name, value in whole["network"].items())


def test_the_class_loss_gives_the_network_a_head(tmp_path, small_phantom):
    made = train(tmp_path, small_phantom, "reconstruction", class_loss_weight=0.5, max_epochs=1)
    made.run()
    count = len(open_store(small_phantom).class_names)
    assert load_pretext(tmp_path / "models/model.pt").settings["heads"] == [["findings", count]]


def test_masks_change_with_the_epoch_unless_they_are_fixed(tmp_path, small_phantom):
    for mask, changes, encoder in (("dynamic", True, "vit_tiny_patch16_224"), ("fixed", False, "resnet10t")):
        made = train(tmp_path / mask, small_phantom, "masked", mask=mask, encoder=encoder, batch_size=64)
        seen = {}
        trainer = made.parser.get_parsed_content("train::trainer")

        @trainer.on(Events.ITERATION_COMPLETED)
        def keep(engine, seen=seen):
            label, rows = engine.state.output["label"], engine.state.batch["index"].tolist()
            for row, weight in zip(rows, label["weight"], strict=True):
                seen.setdefault(row, []).append(weight)

        made.run()
        assert all(len(masks) == 2 for masks in seen.values())
        assert any(not torch.equal(*masks) for masks in seen.values()) is changes


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("masked", {"mask_patch": 5}, "does not divide"),
        ("study_pair", {"images_on_device": True}, "images_on_device"),
        ("rotation_shift", {"shift": 0.001}, "0 pixels"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, small_phantom, preset, overrides, words):
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        train(tmp_path, small_phantom, preset, **overrides).run()
    assert words in str(user_error(refused.value))
