"""A run that was broken off and resumed equals one that was not, bit for bit on the CPU."""

import json

import pytest
import torch
from bundle_runs import REPOSITORY, SMALL
from monai.bundle import create_workflow
from resuming import break_off, checkpoint, same

from cxrmonai.errors import user_error

CONFIG = REPOSITORY / "bundles/simclr/configs/train.json"


def workflow(folder, store, **overrides):
    values = {**SMALL, "max_epochs": 3, "probe_every": 0, "data_file": str(store), "output_dir": str(folder / "eval")}
    made = create_workflow(
        config_file=str(CONFIG), workflow_type="train", **{**values, "ckpt_dir": str(folder), **overrides}
    )
    made.initialize()
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [{}, {"accumulation_steps": 2, "encoder": "densenet121"}], ids=["plain", "accumulating"]
)
def test_resumed_equals_uninterrupted(tmp_path, small_phantom, overrides):
    if overrides:
        overrides = {**overrides, "batch_size": 8}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    workflow(whole, small_phantom, **overrides).run()

    break_off(workflow(parts, small_phantom, **overrides), epoch=3, step=2)
    assert checkpoint(parts)["state"]["epoch"] == 2
    workflow(parts, small_phantom, resume=True, **overrides).run()

    same(checkpoint(whole), checkpoint(parts))
    for name in ("model.pt", "model_final.pt"):
        same(torch.load(whole / name, weights_only=True), torch.load(parts / name, weights_only=True), name)


def test_seeds_matter(tmp_path, small_phantom):
    for seed in (0, 1):
        workflow(tmp_path / str(seed), small_phantom, max_epochs=1, seed=seed).run()
    left, right = (checkpoint(tmp_path / str(seed))["network"] for seed in (0, 1))
    assert not torch.equal(left["encoder.conv1.weight"], right["encoder.conv1.weight"])


def test_images_on_the_device_train_as_those_in_the_file(tmp_path, small_phantom):
    for resident in (False, True):
        made = workflow(tmp_path / str(resident), small_phantom, max_epochs=1, images_on_device=resident)
        assert (made.train_dataset._resident is not None) is resident
        made.run()
    same(checkpoint(tmp_path / "False"), checkpoint(tmp_path / "True"))


def test_pretrained_weights_are_what_a_run_starts_from(tmp_path, small_phantom):
    workflow(tmp_path / "first", small_phantom, max_epochs=1).run()
    second = workflow(tmp_path / "second", small_phantom, pretrained=str(tmp_path / "first/model.pt"), seed=9)
    weights = torch.load(tmp_path / "first/model.pt", weights_only=True)
    started = second.parser.get_parsed_content("network").state_dict()
    same({key: value for key, value in started.items() if key.startswith("encoder.")},
         {key: value for key, value in weights.items() if key.startswith("encoder.")})  # fmt: skip


def test_resuming_nothing_starts_anew_and_says_so(tmp_path, small_phantom, capsys):
    workflow(tmp_path, small_phantom, max_epochs=1, resume=True).run()
    assert "starts anew" in capsys.readouterr().out
    assert checkpoint(tmp_path)["state"]["epoch"] == 1


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.5), ("weight_decay", 0.1), ("accumulation_steps", 2)])
def test_resuming_with_another_setting_is_refused(tmp_path, small_phantom, key, value):
    if not (tmp_path / "checkpoint.pt").exists():
        workflow(tmp_path, small_phantom, max_epochs=1).run()
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        workflow(tmp_path, small_phantom, max_epochs=2, resume=True, **{key: value}).run()
    assert f"was made with {key}" in str(user_error(refused.value))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, small_phantom):
    with pytest.raises(Exception) as ended:  # noqa: PT011 - MONAI wraps what an expression raises
        workflow(tmp_path, small_phantom, learning_rate=1e30, warmup_epochs=0).run()
    assert "lower --learning_rate" in str(user_error(ended.value))
    assert all(torch.isfinite(value).all() for value in checkpoint_networks(tmp_path))


def checkpoint_networks(folder):
    return checkpoint(folder)["network"].values() if (folder / "checkpoint.pt").exists() else []


def test_train_evaluate_and_inference_see_images_alike():
    configs = {
        name: json.loads((CONFIG.parent / f"{name}.json").read_text()) for name in ("train", "evaluate", "inference")
    }
    plain = {name: config["plain_view"]["transforms"] for name, config in configs.items()}
    assert plain["train"] == plain["evaluate"]
    assert plain["inference"] == [step for step in plain["train"] if "Resize" not in step["_target_"]]
    assert configs["train"]["stem"] == configs["inference"]["stem"]
    assert configs["train"]["views"]["transforms"][-1] == plain["train"][-1]
