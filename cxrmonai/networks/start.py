"""What a training starts from: a fresh encoder as its config asks, or a pretrained one with all that it brings."""

from __future__ import annotations

import os
from dataclasses import replace

from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import input_of, load_encoder
from cxrmonai.networks.encoders import EncoderDescription
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.published.report import named

Checkpoint = str | os.PathLike[str]


def build_of(
    path: Checkpoint | None,
    encoder: str,
    stem: str = "default",
    norm: str = "batch",
    image_size: int = 224,
    output_stride: int = 0,
    depth: int = 0,
) -> dict[str, str | int]:
    """The build and the input size that a training starts with: those of a checkpoint, else those given.

    Args:
        path: a checkpoint that `load_encoder` reads, or `None`.
        encoder: a timm model name.
        stem: see `networks.encoder`.
        norm: likewise.
        image_size: edge of the input in pixels; counts as well where a checkpoint does not tell it.
        output_stride: see `networks.encoder`.
        depth: likewise.

    Returns:
        `encoder`, `stem`, `norm`, `image_size`, `output_stride` and `depth`.

    Raises:
        CxrError: see `load_encoder`.
    """
    if path is None:
        build = EncoderDescription(encoder, stem=stem, norm=norm, output_stride=output_stride, depth=depth)
        return _as_settings(build, image_size)
    theirs = load_encoder(path)
    size = theirs.preprocessing.image_size if theirs.preprocessing else image_size
    return _as_settings(theirs.description, size)


def _as_settings(build: EncoderDescription, image_size: int) -> dict[str, str | int]:
    return {
        "encoder": build.name,
        "stem": build.stem,
        "norm": build.norm,
        "image_size": image_size,
        "output_stride": build.output_stride,
        "depth": build.depth,
    }


def starting_encoder(
    path: Checkpoint | None,
    name: str,
    stem: str = "default",
    norm: str = "batch",
    image_size: int = 224,
    output_stride: int = 0,
    depth: int = 0,
) -> nn.Module:
    """Builds the encoder that a training starts with, and says how its input is made.

    A fresh one sees one grey channel. That of a checkpoint sees what it was trained on (channels, mean, standard
    deviation, padding and crop), at `image_size`.

    Args:
        path: a checkpoint that `load_encoder` reads, or `None` for random weights.
        name: a timm model name; must be the checkpoint's.
        stem: likewise.
        norm: likewise.
        image_size: edge of the input in pixels.
        output_stride: see `networks.encoder`; need not be the checkpoint's, since weights fit every stride.
        depth: see `networks.encoder`; for a checkpoint 0 takes its own.

    Returns:
        The encoder; `encoder.preprocessing` is its input.

    Raises:
        CxrError: see `load_encoder` and `networks.encoder`; or the checkpoint's encoder is of another build or size.
    """
    if path is None:
        network = make_encoder(name, 1, stem, image_size, norm, output_stride, depth=depth)
        network.preprocessing = input_of(network, image_size)
        return network
    network = load_encoder(path)
    build = network.description
    asked = {"encoder": name, "stem": stem, "norm": norm, "depth": depth or build.depth}
    for key, theirs in (("encoder", build.name), ("stem", build.stem), ("norm", build.norm), ("depth", build.depth)):
        if asked[key] != theirs:
            raise CxrError(
                f"{path}: holds {named(build)}, the config asks for {key} {asked[key]}; "
                f"give --{key} {theirs}, or use other weights"
            )
    if build.image_size not in (0, image_size):
        raise CxrError(f"{path}: is built for {build.image_size} pixels; give --image_size {build.image_size}")
    preprocessing = input_of(network, image_size)
    network = with_stride(network, output_stride)
    network.preprocessing = preprocessing
    return network


def with_stride(network: nn.Module, output_stride: int) -> nn.Module:
    """An encoder with the same weights at another `output_stride`, see `networks.encoder`."""
    build = network.description
    if build.output_stride == output_stride:
        return network
    made = make_encoder(**replace(build, output_stride=output_stride).as_dict())
    made.load_state_dict(network.state_dict())
    made.preprocessing = network.preprocessing
    return made
