"""Weights in and out: every key, or an error that lists what is wrong."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.encoders import EncoderDescription, encoder

DESCRIPTION_KEY = "_extra_state"
ENCODER_PREFIX = "encoder."
SHOWN = 8


class DescribedNetwork(nn.Module):
    """A network whose state dict says how its encoder is built.

    The description travels as a tensor of JSON bytes in PyTorch's extra state, so that `model.pt` stays a flat
    dictionary of tensors that MONAI, ignite and `weights_only=True` read, and yet suffices to build the encoder.

    Args:
        encoder: made by `networks.encoders.encoder`.
        settings: config keys and values that whoever uses the weights must repeat; `image_size` at least.
    """

    def __init__(self, encoder: nn.Module, settings: Mapping[str, int | str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = dict(settings)

    @torch.jit.unused
    def get_extra_state(self) -> torch.Tensor:
        """The description as (K,) uint8."""
        content = {"encoder": self.encoder.description.as_dict(), "settings": self.settings}
        text = json.dumps(content, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    @torch.jit.unused
    def set_extra_state(self, state: torch.Tensor) -> None:
        """Makes sure that weights were made by an encoder of the same build.

        Raises:
            CxrError: they were not.
        """
        theirs, ours = read_description(state), self.encoder.description
        if theirs != ours:
            raise CxrError(f"the weights belong to {_named(theirs)}, this network is {_named(ours)}")


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


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a state dict without running code.

    Args:
        path: a file of `torch.save`; a flat dictionary of tensors.

    Returns:
        Names and tensors, on the CPU.

    Raises:
        CxrError: the file is missing, no checkpoint, holds more than plain data, or is no flat state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CxrError(f"{path}: no such file; give the weights' file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CxrError(f"{path}: not plain weights (a pickle that could run code, or no checkpoint)") from error
    except Exception as error:  # damaged files raise almost anything
        raise CxrError(f"{path}: not a readable checkpoint; is the file whole?") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CxrError(f"{path}: not a flat dictionary of tensors, as models/model.pt of our bundles is")
    return dict(content)


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """Builds the encoder of a checkpoint of ours and loads all its weights.

    Args:
        path: `models/model.pt` of a bundle.

    Returns:
        The encoder on the CPU, in training mode as PyTorch makes modules.

    Raises:
        CxrError: see `read_weights`; or the file has no description; or keys are missing, left over or misshapen.
    """
    weights = read_weights(path)
    description = _description(weights, path)
    if description is None:
        raise CxrError(f"{path}: no description of an encoder in it; it was not written by a cxrmonai bundle")
    network = encoder(**description.as_dict())
    found = {key[len(ENCODER_PREFIX) :]: value for key, value in weights.items() if key.startswith(ENCODER_PREFIX)}
    load_all(network, found, path)
    return network


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
    faults = [_listed("missing", missing), _listed("left over", extra), _listed("misshapen", misshapen)]
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
        _check_build(theirs.description, network, path)
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
        for key, value in _settings(weights, path).items():
            if network.settings.get(key) != value:
                raise CxrError(f"{path}: was trained with {key} {value}; give --{key} {value}")
    load_all(network, weights, path)
    return network


def trained_size(path: str | os.PathLike[str]) -> int:
    """Edge in pixels of the images that a checkpoint of ours was trained on.

    Raises:
        CxrError: see `read_weights`; or the file does not tell.
    """
    weights = read_weights(path)
    if DESCRIPTION_KEY not in weights:
        raise CxrError(f"{path}: does not tell the size of its images; give --image_size")
    return int(_settings(weights, path)["image_size"])


def _settings(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> dict[str, int | str]:
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
        raise CxrError(f"{path}: holds {_named(theirs)}, the config asks for {_named(ours)}")


def _named(description: EncoderDescription) -> str:
    size = f", {description.image_size} px" if description.image_size else ""
    return f"{description.name} ({description.in_channels} channel, {description.stem} stem{size})"


def _listed(label: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{label} {', '.join(keys[:SHOWN])}{more}"
