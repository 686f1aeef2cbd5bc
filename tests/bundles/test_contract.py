"""What every bundle must be: what the model zoo asks, and our own rules. A new bundle is tested here by being there."""

import json
import re

import pytest
from verify_bundles import BUNDLES, STEPS, find, trials, verify

FOLDERS = find([])
COMMON_KEYS = (
    "dataset_dir", "data_file", "output_dir", "ckpt_dir", "device", "seed", "encoder", "image_size", "batch_size",
    "accumulation_steps", "max_epochs", "learning_rate", "num_workers", "amp", "resume", "pretrained",
)  # fmt: skip


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def trial(request, small_phantom):
    """A copy of a bundle with freshly initialised weights."""
    with trials([request.param], small_phantom) as (found,):
        for step in STEPS:
            if step.needed:
                verify(found, step)
        yield found


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_all_bundles_are_found():
    assert {folder.name for folder in FOLDERS} == {folder.name for folder in BUNDLES.iterdir() if folder.is_dir()}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_the_zoo_takes_it(trial, step):
    mark, said = verify(trial, step)
    assert mark != "FAIL", said
    assert mark == "ok" or not trial.trains


def test_common_keys_are_there(folder):
    if _trains(folder):
        config = json.loads((folder / "configs/train.json").read_text())
        assert [key for key in COMMON_KEYS if key not in config] == []
    evaluate = json.loads((folder / "configs/evaluate.json").read_text())
    assert {"ckpt_path", "split", "data_file", "output_dir"} <= evaluate.keys()


def test_evaluation_serves_one_rank_and_many(folder):
    configs = {path.stem: json.loads(path.read_text()) for path in (folder / "configs").glob("*.json")}
    evaluate = configs["evaluate"]
    assert "$distributed.start(@device)" in evaluate["initialize"]
    assert evaluate["finalize"][-1] == "$distributed.stop()"
    assert "shard" not in evaluate["dataloader"]
    assert configs["multi_gpu_evaluate"] == {"device": "$distributed.local_device()"}
    if _trains(folder):
        assert configs["multi_gpu_train"] == configs["multi_gpu_evaluate"]
        validate = configs["train"]["validate"]
        assert validate["dataloader"]["shard"] is False
        assert validate["handlers"][0] == {"_target_": "cxrmonai.engines.SameBuffers"}


def test_expressions_are_short(folder):
    for file in folder.glob("configs/**/*.json"):
        for text in re.findall(r'"(\$[^"]*)"', file.read_text()):
            assert len(text) <= 160, f"{file.name}: {text}"


def test_every_key_a_user_sets_is_used(folder):
    for file in ("train", "evaluate", "inference") if _trains(folder) else ("evaluate", "inference"):
        text = (folder / f"configs/{file}.json").read_text()
        plain = (str, int, float, bool, type(None))
        for key, value in json.loads(text).items():
            if key not in ("imports", "initialize", "run", "finalize") and isinstance(value, (*plain, list)):
                assert re.search(rf"@{key}\b", text), f"{file}.json: {key} does nothing"


def _trains(folder):
    return (folder / "configs/train.json").is_file()
