"""A trained bundle as a folder that stands alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from cxrmonai.data.files import list_radiographs
from cxrmonai.data.phantom import draw_population, render
from cxrmonai.deploy.card import count_to_fill, fill_card
from cxrmonai.deploy.formats import (
    check_same,
    onnx_runner,
    torchscript_runner,
    write_onnx,
    write_torchscript,
)
from cxrmonai.deploy.hub import hub_page
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json, write_text
from cxrmonai.networks.checkpoints import stored_settings

TARGETS = ("folder", "hf", "monailabel")
OWN_WEIGHTS = "$@bundle_root + '/models/model.pt'"
COPIED = ("LICENSE", "docs", "configs/logging.conf", "configs/inference.json", "configs/metadata.json")
SHOWN_IMAGES = 8
PHANTOM_EDGE = 256


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        path: the folder, or the ZIP file.
        formats: file below the folder → its largest difference from the network on the images of the check.
        images: number of images of the check.
        synthetic: whether they were phantoms.
        to_fill: number of places of the model card that are left to a person.
    """

    path: Path
    formats: dict[str, float]
    images: int
    synthetic: bool
    to_fill: int


def export_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    ckpt_path: str | os.PathLike[str] | None = None,
    torchscript: bool = False,
    onnx: bool = False,
    zipped: bool = False,
    target: str = "folder",
    images: str | os.PathLike[str] | None = None,
    metrics: str | os.PathLike[str] | None = None,
) -> Exported:
    """Makes a folder of a trained bundle that needs nothing of this repository but the installed package.

    `configs/inference.json` has `bundle_root` "." and the settings that the weights were trained with,
    `configs/metadata.json` the classes and the size of the input; `models/` holds model.pt, and where asked for
    model.ts and model.onnx, whose outputs are compared with the network's before anything is put in place;
    `docs/model_card.md` describes the weights, as far as the program knows.

    Args:
        bundle: folder of the bundle.
        out: the folder to make (with `zipped`, that plus `.zip`).
        ckpt_path: the weights; by default those that the bundle's inference.json names, `models/model.pt` of the bundle
            (of `supervised` for `cam_localization`).
        torchscript: also write model.ts.
        onnx: also write model.onnx, with a batch of any size.
        zipped: write one ZIP file in place of the folder.
        target: `folder`; `hf`: with a model card as README.md, as the Hugging Face hub shows it; or `monailabel`: an
            app folder with this one bundle, see `label_app.write_app`.
        images: radiographs to compare the formats on, a folder or a file; phantoms by default.
        metrics: `metrics.json` of an evaluation of these weights, for the model card.

    Raises:
        CxrError: the bundle or its weights are not there, `out` is there already, or a format differs.
    """
    bundle, out = Path(bundle), Path(out)
    if target not in TARGETS:
        raise CxrError(f"target '{target}': known are {', '.join(TARGETS)}")
    weights = find_weights(bundle, ckpt_path)
    final = out.with_name(out.name + ".zip") if zipped else out
    if final.exists():
        raise CxrError(f"{final}: is there already; give another --out, or remove it")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=final.parent) as temporary:
        folder = Path(temporary) / out.name
        if target == "monailabel":
            from cxrmonai.deploy.label_app import write_app  # which exports bundles in its turn

            (made,) = write_app(folder, [(bundle, weights)], torchscript, onnx, images, metrics).values()
        else:
            made = write_bundle(folder, bundle, weights, torchscript, onnx, images, metrics)
        if target == "hf":
            write_text(folder / "README.md", hub_page(folder))
        if zipped:
            _zip(folder, Path(temporary) / final.name)
            folder = Path(temporary) / final.name
        os.replace(folder, final)
    return Exported(final, made[0], made[1], images is None, made[2])


def find_weights(bundle: Path, ckpt_path: str | os.PathLike[str] | None, flag: str = "--ckpt_path") -> Path:
    """The weights to export a bundle with.

    Args:
        bundle: its folder.
        ckpt_path: see `export_bundle`.
        flag: that names weights on the command line.

    Returns:
        Their path.

    Raises:
        CxrError: the bundle or the weights are not there.
    """
    config = bundle / "configs/inference.json"
    if not config.is_file():
        raise CxrError(
            f"{bundle}: no bundle (it holds no configs/inference.json); give a folder such as bundles/supervised"
        )
    if ckpt_path is None:
        parser = ConfigParser({**json.loads(config.read_text(encoding="utf-8")), "bundle_root": str(bundle)})
        ckpt_path = os.path.normpath(parser.get_parsed_content("ckpt_path"))
    weights = Path(ckpt_path)
    if not weights.is_file():
        raise CxrError(f"{weights}: no such file; train the bundle first, or name the weights with {flag}")
    return weights


def write_bundle(
    folder: Path,
    bundle: Path,
    weights: Path,
    torchscript: bool = False,
    onnx: bool = False,
    images: str | os.PathLike[str] | None = None,
    metrics: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, float], int, int]:
    """Fills a folder as `export_bundle` describes, and returns what `Exported` holds beside the path."""
    for name in COPIED:
        source, place = bundle / name, folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
    models = folder / "models"
    models.mkdir()
    shutil.copy(weights, models / "model.pt")
    for extra in weights.parent.glob("*.json"):
        shutil.copy(extra, models / extra.name)
    config = _standing_alone(json.loads((folder / "configs/inference.json").read_text()), weights)
    write_json(folder / "configs/inference.json", config)
    parser = ConfigParser({**config, "bundle_root": str(folder), "device": "cpu"})
    network = parser.get_parsed_content("network").eval().to(memory_format=torch.contiguous_format)
    batch = _example(parser, images)
    finish = _finish(network)
    with torch.no_grad():
        output = network(batch)
    _describe(folder / "configs/metadata.json", network, batch, output)
    card = fill_card(folder, metrics)
    write_text(folder / "docs/model_card.md", card)
    formats = {"models/model.pt": 0.0}
    if torchscript:
        write_torchscript(network, models / "model.ts")
        runner = torchscript_runner(models / "model.ts")
        formats["models/model.ts"] = check_same(network, runner, batch, finish, models / "model.ts")
    if onnx:
        write_onnx(network, batch[:2], models / "model.onnx")
        runner = onnx_runner(models / "model.onnx")
        formats["models/model.onnx"] = check_same(network, runner, batch, finish, models / "model.onnx")
    return formats, len(batch), count_to_fill(card)


def _standing_alone(config: dict[str, Any], weights: Path) -> dict[str, Any]:
    """The config with this folder as its root, and what the weights were trained with in place of the defaults."""
    trained = stored_settings(weights)
    for key, value in trained.items():
        if key in config and key != "image_size" and not isinstance(value, (dict, list)):
            config[key] = value
    if isinstance(config.get("image_size"), int):
        config["image_size"] = trained["image_size"]
    config["bundle_root"], config["ckpt_path"] = ".", OWN_WEIGHTS
    return config


def _example(parser: ConfigParser, images: str | os.PathLike[str] | None) -> torch.Tensor:
    """Some radiographs as the network sees them, by the config's own steps: (N, C, S, S), N of at least 2."""
    with tempfile.TemporaryDirectory() as temporary:
        items = _phantoms(Path(temporary)) if images is None else list_radiographs(images)[:SHOWN_IMAGES]
        read = parser.get_parsed_content("preprocessing")
        stored = torch.stack([read(dict(item))["image"] for item in items])
    batch = parser.get_parsed_content("plain_view")({"image": stored})["image"].contiguous()
    return batch if len(batch) > 1 else batch.repeat(2, 1, 1, 1)


def _phantoms(folder: Path) -> list[dict[str, str]]:
    import cv2

    items = []
    for k, study in enumerate(draw_population(SHOWN_IMAGES, seed=0)[:SHOWN_IMAGES]):
        path = folder / f"{k}.png"
        cv2.imwrite(str(path), render(study, PHANTOM_EDGE).image)
        items.append({"image": str(path), "image_id": str(k)})
    return items


def _finish(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return getattr(network, "probabilities", lambda output: output)


def _describe(path: Path, network: nn.Module, batch: torch.Tensor, output: torch.Tensor) -> None:
    """Writes what the trained network takes and gives into the metadata."""
    metadata = json.loads(path.read_text())
    formats = metadata["network_data_format"]
    image = formats["inputs"]["image"]
    image["num_channels"], image["spatial_shape"] = batch.shape[1], list(batch.shape[2:])
    image["value_range"] = [round(float(batch.min()), 3), round(float(batch.max()), 3)]
    image["channel_def"] = {str(k): "image" for k in range(batch.shape[1])}
    pred = formats["outputs"]["pred"]
    pred["num_channels"], pred["spatial_shape"] = output.shape[1], list(output.shape[2:])
    names = getattr(network, "class_names", None)
    if names is not None:
        pred["channel_def"] = {str(k): name for k, name in enumerate(names)}
    write_json(path, metadata)


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
