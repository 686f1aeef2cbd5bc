"""What a fine-tuning or a probe starts from, with the same build untrained as its control."""

from __future__ import annotations

import torch
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.start import Checkpoint, starting_encoder


def encoder_to_tune(
    pretrained: Checkpoint | None,
    name: str,
    stem: str = "default",
    norm: str = "batch",
    image_size: int = 224,
    untrained: bool = False,
    output_stride: int = 0,
    depth: int = 0,
) -> nn.Module:
    """The encoder that a fine-tuning or a probe starts from; rank 0 says where it is untrained for want of a file.

    Args:
        pretrained, name, stem, norm, image_size, output_stride, depth: see `starting_encoder`.
        untrained: take the build and the input of `pretrained` and leave its weights: the control that shows what
            these are worth.

    Returns:
        The encoder on the CPU with its `preprocessing`.

    Raises:
        CxrError: see `starting_encoder`; or `untrained` without `pretrained`.
    """
    if pretrained is None:
        if untrained:
            raise CxrError("untrained needs --pretrained FILE, whose build and input are taken without the weights")
        if distributed.rank() == 0:
            print(
                f"note: no --pretrained given, so that an untrained {name} is taken; give an encoder's file, such as "
                "--pretrained bundles/simclr/models/model.pt"
            )
    network = starting_encoder(pretrained, name, stem, norm, image_size, output_stride, depth)
    if not untrained:
        return network
    twin = make_encoder(**network.description.as_dict())
    twin.preprocessing = network.preprocessing
    return twin


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
