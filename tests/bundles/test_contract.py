"""What every bundle must be: complete, described, exportable. A new bundle is tested here by being there."""

import json
import re

import pytest
import torch
from bundle_runs import REPOSITORY
from monai.bundle import ConfigParser, ckpt_export, create_workflow, verify_net_in_out

BUNDLES = sorted(path.parents[1] for path in REPOSITORY.glob("bundles/*/configs/metadata.json"))
NAMES = [path.name for path in BUNDLES]
TRAINING_FILES = ("configs/train.json", "configs/multi_gpu_train.json")  # both, or neither where nothing is trained
FILES = (
    "LICENSE",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
)
COMMON_KEYS = (
    "dataset_dir", "data_file", "output_dir", "ckpt_dir", "device", "seed", "encoder", "image_size", "batch_size",
    "accumulation_steps", "max_epochs", "learning_rate", "num_workers", "amp", "resume", "pretrained",
)  # fmt: skip


@pytest.fixture(params=BUNDLES, ids=NAMES)
def folder(request):
    return request.param


def test_files_are_there(folder):
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert len({(folder / name).is_file() for name in TRAINING_FILES}) == 1


def test_common_keys_are_there(folder):
    if _trains(folder):
        config = json.loads((folder / "configs/train.json").read_text())
        assert [key for key in COMMON_KEYS if key not in config] == []
    evaluate = json.loads((folder / "configs/evaluate.json").read_text())
    assert {"ckpt_path", "split", "data_file", "output_dir"} <= evaluate.keys()


def test_metadata_fits_the_published_schema(folder, shared_data):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((shared_data / "meta_schema_20240725.json").read_text())
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer"), ("evaluate", "infer")])
def test_properties_are_complete(folder, small_phantom, tmp_path, config, kind):
    if config == "train" and not _trains(folder):
        pytest.skip("nothing is trained")
    weights = tmp_path / "model.pt"
    overrides = {"bundle_root": str(folder), "output_dir": str(tmp_path)}
    if config == "inference":
        overrides |= {"dataset_dir": str(_image_folder(tmp_path))}
    else:
        overrides |= {"data_file": str(small_phantom)}
    if kind == "infer":
        torch.save(_network(folder).state_dict(), weights)
        overrides |= {"ckpt_path": str(weights)}
    workflow = create_workflow(config_file=str(folder / f"configs/{config}.json"), workflow_type=kind, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_the_metadata_say(folder):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs/metadata.json"),
        config_file=str(folder / "configs/inference.json"),
        device="cpu",
        bundle_root=str(folder),
    )


def test_exports_to_torchscript(folder, tmp_path):
    network = _network(folder).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(folder / "configs/metadata.json"),
        config_file=str(folder / "configs/inference.json"),
        bundle_root=str(folder),
    )
    image = json.loads((folder / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    images = torch.rand(3, image["num_channels"], *image["spatial_shape"])
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(images), network(images))


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


def _network(folder):
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    return parser.get_parsed_content("network_def")


def _image_folder(tmp_path):
    import cv2
    import numpy as np

    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), np.zeros((32, 32), np.uint8))
    return images
