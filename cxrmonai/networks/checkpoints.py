"""Weights in and out: every key, or an error that lists what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.encoders import EncoderDescription, encoder
from cxrmonai.networks.published import imagenet
from cxrmonai.networks.published.fitting import fit_weights
from cxrmonai.networks.published.layouts import Layout, recognise
from cxrmonai.networks.published.reading import read_checkpoint
from cxrmonai.networks.published.report import CheckpointReport, DroppedKeys, listed, named
from cxrmonai.transforms.preprocessing import Preprocessing

DESCRIPTION_KEY = "_extra_state"
ENCODER_PREFIX = "encoder."
OWN_MEAN, OWN_STD = (0.5,), (0.25,)  # of BatchNormalized, in every bundle
Setting = str | int | float | bool | list | dict | None  # what JSON gives back as it was


class DescribedNetwork(nn.Module):
    """A network whose state dict says how its encoder is built.

    The description travels as a tensor of JSON bytes in PyTorch's extra state, so that `model.pt` stays a flat
    dictionary of tensors that MONAI, ignite and `weights_only=True` read, and yet suffices to build the encoder. Where
    the encoder has a `preprocessing` (those of `load_encoder` do; set it where the network is fed otherwise), it
    travels along.

    Args:
        encoder: made by `networks.encoders.encoder` or `load_encoder`.
        settings: config keys and values that whoever uses the weights must repeat; `image_size` at least; of JSON's
            types, lists and not tuples.
    """

    def __init__(self, encoder: nn.Module, settings: Mapping[str, Setting]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = dict(settings)

    @torch.jit.unused
    def get_extra_state(self) -> torch.Tensor:
        """The description as (K,) uint8."""
        content = {"encoder": self.encoder.description.as_dict(), "settings": self.settings}
        if getattr(self.encoder, "preprocessing", None) is not None:
            content["preprocessing"] = self.encoder.preprocessing.as_dict()
        text = json.dumps(content, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    @torch.jit.unused
    def set_extra_state(self, state: torch.Tensor) -> None:
        """Makes sure that weights were made by an encoder of the same build, and takes over its preprocessing.

        Raises:
            CxrError: they were not.
        """
        theirs, ours = read_description(state), self.encoder.description
        if theirs != ours:
            raise CxrError(f"the weights belong to {named(theirs)}, this network is {named(ours)}")
        stored = read_preprocessing(state)
        if stored is not None:
            self.encoder.preprocessing = stored


def read_description(state: torch.Tensor) -> EncoderDescription:
    """The encoder's description from a network's extra state.

    Raises:
        CxrError: it is not one that this version writes.
    """
    try:
        return EncoderDescription(**json.loads(bytes(state.tolist()))["encoder"])
    except (ValueError, KeyError, TypeError) as error:
        raise CxrError(
            "the description of the encoder is not readable; upgrade cxrmonai, or use other weights"
        ) from error


def read_preprocessing(state: torch.Tensor) -> Preprocessing | None:
    """The preprocessing of the encoder's input in a network's extra state; `None` where none is stored.

    Raises:
        CxrError: it is not one that this version writes.
    """
    stored = json.loads(bytes(state.tolist())).get("preprocessing")
    try:
        return None if stored is None else Preprocessing(**stored)
    except (CxrError, TypeError, ValueError) as error:
        raise CxrError(
            "the preprocessing of the encoder is not readable; upgrade cxrmonai, or use other weights"
        ) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a state dict without running code.

    Args:
        path: a file of `torch.save`; a flat dictionary of tensors.

    Returns:
        Names and tensors, on the CPU.

    Raises:
        CxrError: the file is missing, no checkpoint, holds more than plain data, or is no flat state dict.
    """
    content = read_checkpoint(path)
    if not _is_flat(content):
        raise CxrError(f"{path}: not a flat dictionary of tensors, as models/model.pt of our bundles is")
    return dict(content)


def load_encoder(path: str | os.PathLike[str], projection: bool = False) -> nn.Module:
    """Builds the encoder of a checkpoint and loads all its weights.

    Args:
        path: `models/model.pt` of a bundle; or a file of MoCo-CXR, MedAug, ConVIRT, GLoRIA, S2MTS2, CheXzero (any CLIP
            of its kind) or REFERS, as published; or `timm:NAME` for weights that timm provides.
        projection: for CLIP, whether the features end with its projection into the space of texts.

    Returns:
        The encoder in float32 on the CPU, in training mode as PyTorch makes modules. `encoder.description` tells its
        build, `encoder.preprocessing` its input (`None` where one of ours does not tell).

    Raises:
        CxrError: see `read_checkpoint`; or the layout is unknown; or keys are missing, left over or misshapen.
    """
    return _open(path, projection)[0]


def describe_checkpoint(path: str | os.PathLike[str]) -> CheckpointReport:
    """What a checkpoint is, found out by loading its encoder.

    Args:
        path: see `load_encoder`.

    Returns:
        The report; `str()` of it is for a person.

    Raises:
        CxrError: see `load_encoder`; the reason why it is none.
    """
    return _open(path)[1]


def preprocessing(path: str | os.PathLike[str]) -> Preprocessing:
    """What the encoder of a checkpoint expects of its input.

    Args:
        path: see `load_encoder`.

    Raises:
        CxrError: see `load_encoder`; or the file does not tell.
    """
    if _is_timm(path):
        return imagenet.imagenet_preprocessing(_timm_name(path))
    content = read_checkpoint(path)
    found = _own_preprocessing(content, path) if _is_ours(content) else _layout(content, path).preprocessing
    if found is None:
        raise CxrError(f"{path}: does not tell the size of its images; give --image_size")
    return found


def _open(path: str | os.PathLike[str], projection: bool = False) -> tuple[nn.Module, CheckpointReport]:
    """The encoder of a checkpoint, loaded, and what the checkpoint is."""
    if _is_timm(path):
        network, report = imagenet.load_imagenet(_timm_name(path))
    else:
        content = read_checkpoint(path)
        if not _is_ours(content):
            return _open_published(_layout(content, path, projection), path)
        network, report = _open_own(content, path)
    if projection:
        raise CxrError(f"{path}: has no projection; leave --projection out")
    return network, report


def _open_own(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> tuple[nn.Module, CheckpointReport]:
    description = _description(weights, path)
    network = encoder(**description.as_dict())
    found = {key[len(ENCODER_PREFIX) :]: value for key, value in weights.items() if key.startswith(ENCODER_PREFIX)}
    load_all(network, found, path)
    network.preprocessing = _own_preprocessing(weights, path)
    parts: dict[str, int] = {}
    for key in weights:
        if not key.startswith(ENCODER_PREFIX) and key != DESCRIPTION_KEY:
            part = f"{key.split('.')[0]}."
            parts[part] = parts.get(part, 0) + 1
    report = CheckpointReport(
        path=str(path),
        layout="cxrmonai, model.pt of a bundle",
        description=description,
        feature_size=network.num_features,
        preprocessing=network.preprocessing,
        used=len(found),
        dropped=tuple(DroppedKeys(part, count, "behind the encoder") for part, count in parts.items()),
        settings=_settings(weights, path),
    )
    return network, report


def _open_published(layout: Layout, path: str | os.PathLike[str]) -> tuple[nn.Module, CheckpointReport]:
    try:
        network = encoder(**layout.description.as_dict())
        weights, dropped = fit_weights(layout, network)
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error
    network.load_state_dict(weights)
    network.preprocessing = layout.preprocessing
    report = CheckpointReport(
        path=str(path),
        layout=layout.name,
        description=network.description,
        feature_size=network.num_features,
        preprocessing=layout.preprocessing,
        used=len(layout.weights) - sum(one.count for one in dropped),
        dropped=dropped,
        others=layout.others,
    )
    return network, report


def _layout(content: Any, path: str | os.PathLike[str], projection: bool = False) -> Layout:
    """The layout of a published checkpoint.

    Raises:
        CxrError: it is none.
    """
    if not isinstance(content, Mapping):
        raise CxrError(f"{path}: holds no dictionary of weights but a {type(content).__name__}; use another file")
    try:
        layout = recognise(content, projection)
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error
    if layout is None:
        begins = ", ".join(dict.fromkeys(".".join(str(key).split(".")[:2]) for key in content)) or "nothing"
        raise CxrError(
            f"{path}: no description of an encoder in it, as cxrmonai's bundles write, nor the layout of a published "
            f"one; it holds {begins if len(begins) < 100 else begins[:97] + '…'}"
        )
    return layout


def _is_timm(path: str | os.PathLike[str]) -> bool:
    return str(path).startswith(imagenet.PREFIX)


def _timm_name(path: str | os.PathLike[str]) -> str:
    return str(path)[len(imagenet.PREFIX) :]


def _is_flat(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, torch.Tensor) for value in content.values())


def _is_ours(content: Any) -> bool:
    return _is_flat(content) and DESCRIPTION_KEY in content


def _own_preprocessing(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> Preprocessing | None:
    """What is stored; else what our bundles do at the size that the settings tell."""
    description, settings = _description(weights, path), _settings(weights, path)
    try:
        stored = read_preprocessing(weights[DESCRIPTION_KEY])
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error
    size, channels = int(settings.get("image_size", 0)), description.in_channels
    if stored is None and size:
        return Preprocessing(size, mean=OWN_MEAN * channels, std=OWN_STD * channels)
    return stored


def input_of(encoder: nn.Module, image_size: int) -> Preprocessing:
    """What an encoder expects of its input at some size: what came with its weights, else what our bundles do.

    Args:
        encoder: made by `networks.encoders.encoder` or `load_encoder`.
        image_size: edge of the input in pixels.
    """
    channels = encoder.description.in_channels
    own = Preprocessing(image_size, mean=OWN_MEAN * channels, std=OWN_STD * channels)
    return (getattr(encoder, "preprocessing", None) or own).at(image_size)


def load_all(network: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Loads weights of which every key must fit.

    Args:
        network: to load into; untouched when anything does not fit.
        weights: names and tensors.
        path: where they came from, for the message.

    Raises:
        CxrError: lists what is missing, left over or misshapen.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in weights]
    extra = [key for key in weights if key not in own]
    misshapen = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and not key.endswith(DESCRIPTION_KEY) and weights[key].shape != own[key].shape
    ]
    faults = [listed("missing", missing), listed("left over", extra), listed("misshapen", misshapen)]
    if any(faults):
        raise CxrError(f"{path}: the weights do not fit the network: {'; '.join(filter(None, faults))}")
    network.load_state_dict(dict(weights))


def start_from(network: DescribedNetwork, path: str | os.PathLike[str] | None) -> DescribedNetwork:
    """Gives a network the encoder weights of a checkpoint, where one is named; its head keeps its own.

    Args:
        network: with an `encoder`.
        path: a checkpoint that `load_encoder` reads, or `None`.

    Returns:
        The same network.

    Raises:
        CxrError: see `load_encoder`; or the checkpoint's encoder is of another build.
    """
    if path is not None:
        theirs = load_encoder(path)
        stride = network.encoder.description.output_stride  # weights fit every one
        _check_build(replace(theirs.description, output_stride=stride), network, path)
        load_all(network.encoder, theirs.state_dict(), path)
    return network


def load_network(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Loads a whole network's checkpoint, every key, and returns the network.

    Raises:
        CxrError: see `read_weights`; or its encoder is of another build; or a key does not fit.
    """
    weights = read_weights(path)
    description = _description(weights, path)
    if description is not None and isinstance(network, DescribedNetwork):
        _check_build(description, network, path)
        _own_preprocessing(weights, path)  # must be readable before anything is loaded
        for key, value in _settings(weights, path).items():
            if network.settings.get(key) != value:
                raise CxrError(f"{path}: was trained with {key} {value}; give --{key} {value}")
    load_all(network, weights, path)
    return network


def read_described(
    path: str | os.PathLike[str],
) -> tuple[dict[str, torch.Tensor], EncoderDescription, dict[str, Setting]]:
    """Reads a checkpoint of a `DescribedNetwork`: its weights, how its encoder is built, and its settings.

    Raises:
        CxrError: see `read_weights`; or it describes no network that this version knows.
    """
    weights = read_weights(path)
    description = _description(weights, path)
    if description is None:
        raise CxrError(f"{path}: no description of a network in it; it was not written by a cxrmonai bundle")
    return weights, description, _settings(weights, path)


def trained_size(path: str | os.PathLike[str]) -> int:
    """Edge in pixels of the images that a checkpoint's encoder was trained on.

    Raises:
        CxrError: see `preprocessing`.
    """
    return preprocessing(path).image_size


def stored_settings(path: str | os.PathLike[str]) -> dict[str, Setting]:
    """What a checkpoint of ours was trained with: its network's settings, and its encoder's build.

    Raises:
        CxrError: see `read_weights`; or it was not written by one of our bundles.
    """
    weights = read_weights(path)
    description = _description(weights, path)
    if description is None:
        raise CxrError(f"{path}: no description of a network in it; it was not written by a cxrmonai bundle")
    build = {
        "encoder": description.name,
        "stem": description.stem,
        "norm": description.norm,
        "output_stride": description.output_stride,
        "depth": description.depth,
    }
    return {**build, **_settings(weights, path)}


def _settings(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> dict[str, Setting]:
    try:
        return json.loads(bytes(weights[DESCRIPTION_KEY].tolist()))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise CxrError(f"{path}: does not tell how it was trained; upgrade cxrmonai, or use other weights") from error


def untrained_twin(network: nn.Module, seed: int) -> nn.Module:
    """An encoder of the same build with the weights that a run with this seed starts from, on the CPU.

    Args:
        network: made by `networks.encoders.encoder`.
        seed: of the run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoder(**network.description.as_dict())


def _description(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> EncoderDescription | None:
    if DESCRIPTION_KEY not in weights:
        return None
    try:
        return read_description(weights[DESCRIPTION_KEY])
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error


def _check_build(theirs: EncoderDescription, network: DescribedNetwork, path: str | os.PathLike[str]) -> None:
    ours = network.encoder.description
    if theirs != ours:
        raise CxrError(f"{path}: holds {named(theirs)}, the config asks for {named(ours)}")
