"""What a fine-tuning starts from: an encoder out of a file, timm's, or untrained, with the input it expects."""

from __future__ import annotations

import os

import torch
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import OWN_MEAN, OWN_STD, DescribedNetwork, load_encoder
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.transforms.preprocessing import Preprocessing

USUAL_ENCODER, USUAL_SIZE = "resnet18", 96


def encoder_to_tune(
    pretrained: str | os.PathLike[str] | None,
    name: str | None = None,
    image_size: int | None = None,
    untrained: bool = False,
) -> nn.Module:
    """The encoder that a fine-tuning or a probe starts from.

    Args:
        pretrained: what `load_encoder` reads; `None` for an untrained encoder, which rank 0 says.
        name: a timm model name; with `pretrained` it must be that of the file. `resnet18` by default without.
        image_size: edge of the input in pixels; by default that of the checkpoint, or 96.
        untrained: take the build and the input of `pretrained` and leave its weights: the control that shows what
            these are worth.

    Returns:
        The encoder on the CPU with its `preprocessing`.

    Raises:
        CxrError: see `load_encoder`; the file holds another encoder than `name`, or does not tell the size of its
            images; or `untrained` without `pretrained`.
    """
    if pretrained is None:
        if untrained:
            raise CxrError("untrained needs --pretrained FILE, whose build and input are taken without the weights")
        return _untrained(name or USUAL_ENCODER, image_size or USUAL_SIZE)
    network = load_encoder(pretrained)
    build, preprocessing = network.description, network.preprocessing
    if name is not None and name != build.name:
        raise CxrError(f"{pretrained}: holds encoder '{build.name}', the config asks for '{name}'; leave --encoder out")
    if preprocessing is None and not image_size:
        raise CxrError(f"{pretrained}: does not tell the size of its images; give --image_size")
    if preprocessing is None:
        channels = build.in_channels
        preprocessing = Preprocessing(image_size, mean=OWN_MEAN * channels, std=OWN_STD * channels)
    if image_size and build.image_size and image_size != build.image_size:
        raise CxrError(
            f"{pretrained}: its encoder takes images of {build.image_size} pixels alone; leave --image_size out"
        )
    if untrained:
        network = make_encoder(**build.as_dict())
    network.preprocessing = preprocessing.at(image_size) if image_size else preprocessing
    return network


def _untrained(name: str, image_size: int) -> nn.Module:
    if distributed.rank() == 0:
        print(
            f"note: no --pretrained given, so that an untrained {name} is taken; give an encoder's file, such as "
            "--pretrained bundles/simclr/models/model.pt"
        )
    network = make_encoder(name, image_size=image_size)
    network.preprocessing = Preprocessing(image_size, mean=OWN_MEAN, std=OWN_STD)
    return network


def input_of(network: DescribedNetwork) -> Preprocessing:
    """What a network expects of its input: what its encoder tells, else what our bundles do at its `image_size`.

    Raises:
        CxrError: neither is known.
    """
    stored = getattr(network.encoder, "preprocessing", None)
    if stored is not None:
        return stored
    size, channels = int(network.settings.get("image_size", 0)), network.encoder.description.in_channels
    if not size:
        raise CxrError("the network does not tell the size of its images; train it with --image_size")
    return Preprocessing(size, mean=OWN_MEAN * channels, std=OWN_STD * channels)


def usual_pooling(pooling: str, encoder: nn.Module) -> str:
    """The pooling of a classifier on an encoder.

    Args:
        pooling: of `networks.Classifier`, returned as it is; or `auto`.
        encoder: with a `preprocessing`.

    Returns:
        For `auto`: `AVG` where that is what the encoder itself does with its maps, so that maps of classes exist; else
        `NATIVE`. In both cases the pooled features are those that the encoder gives.
    """
    if pooling != "auto":
        return pooling
    size, channels = encoder.preprocessing.image_size, encoder.description.in_channels
    images = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            maps, features = encoder.forward_features(images), encoder(images)
    finally:
        encoder.train(was_training)
    averaged = maps.ndim == 4 and maps.shape[1] == features.shape[1]
    return "AVG" if averaged and torch.allclose(maps.mean((2, 3)), features, rtol=1e-4, atol=1e-5) else "NATIVE"
