"""DeepLabV3+ on any convolutional encoder of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import nn

from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import DescribedNetwork, input_of, load_all, read_described
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.feature_maps import QUARTER, SIXTEENTH, FeatureEncoder
from cxrmonai.networks.normalisation import LenientBatchNorm2d
from cxrmonai.networks.start import starting_encoder
from cxrmonai.transforms.preprocessing import Preprocessing

SETTINGS = ("class_names", "image_size", "output_stride", "atrous_rates", "decoder_channels", "dropout", "asked")


class Segmenter(DescribedNetwork):
    """DeepLabV3+ (Chen et al., ECCV 2018) with one logit a pixel for each class, each class by itself.

    The decoder is that of segmentation-models-pytorch: atrous spatial pyramid pooling on the encoder's last maps,
    joined with its maps at a quarter of the image's size.

    Args:
        class_names: K names, or one text with commas.
        encoder: a timm model name; or a module of `encoders.encoder` or `load_encoder`, whose own channels, stem, norm
            and preprocessing then count.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`; a small stem has no maps at the sizes that are needed.
        norm: `batch`, `group` or `instance`, in the encoder.
        image_size: edge of the input in pixels, a multiple of 32.
        output_stride: 16 or 32, see `FeatureEncoder`.
        atrous_rates: three dilations of the pyramid, in pixels of the last maps; 12, 24, 36 as published fit images of
            320 pixels and more.
        decoder_channels: of the decoder.
        dropout: share of the pyramid's features that a training step leaves out, 0 to below 1.
        asked: what else whoever uses the weights must know of the training run; plain types.

    Attributes:
        class_names: (K,) in the order of the logits.

    Raises:
        CxrError: an unknown word or number, or an encoder without such maps.
    """

    def __init__(
        self,
        class_names: Sequence[str] | str,
        encoder: str | nn.Module = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        norm: str = "batch",
        image_size: int = 128,
        output_stride: int = SIXTEENTH,
        atrous_rates: Sequence[int] = (12, 24, 36),
        decoder_channels: int = 256,
        dropout: float = 0.5,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        names, rates = name_list(class_names), [int(rate) for rate in atrous_rates]
        _check(names, image_size, rates, decoder_channels, dropout)
        if isinstance(encoder, str):
            encoder = make_encoder(encoder, in_channels, stem, norm=norm)
        values = (names, image_size, output_stride, rates, decoder_channels, float(dropout), dict(asked or {}))
        super().__init__(FeatureEncoder(encoder, output_stride), dict(zip(SETTINGS, values, strict=True)))
        self.encoder.preprocessing = _at_size(self.encoder, image_size)
        self.class_names = names
        quarter, last = self.encoder.channels
        self.decoder = DeepLabV3PlusDecoder([0, 0, quarter, last], 5, decoder_channels, rates, SIXTEENTH, True, dropout)
        self.decoder.up = nn.Upsample(scale_factor=output_stride // QUARTER, mode="bilinear", align_corners=True)
        pooling = self.decoder.aspp[0].convs[-1]
        pooling[2] = LenientBatchNorm2d(pooling[2].num_features)  # of maps of one pixel: a batch of one has no variance
        self.head = nn.Conv2d(decoder_channels, len(names), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) → (B, K, H, W) logits; H and W multiples of 32."""
        quarter, last = self.encoder(images)
        maps = self.head(self.decoder([quarter, quarter, quarter, last]))
        return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _check(names: list[str], image_size: int, rates: list[int], decoder_channels: int, dropout: float) -> None:
    if not names:
        raise CxrError("class_names: give at least one name")
    if image_size < 32 or image_size % 32:
        raise CxrError(f"image_size {image_size}: must be a multiple of 32")
    if len(rates) != 3 or min(rates) < 1:
        raise CxrError(f"atrous_rates {rates}: must be three whole numbers of 1 or more, such as [12, 24, 36]")
    if decoder_channels < 1 or not 0 <= dropout < 1:
        raise CxrError(f"decoder_channels {decoder_channels}, dropout {dropout}: must be 1 or more, and 0 to below 1")


def _at_size(encoder: nn.Module, image_size: int) -> Preprocessing:
    """The encoder's own means, of whole images at the segmenter's size: nothing is cropped away."""
    return replace(input_of(encoder, image_size), image_size=image_size, fit="letterbox", fit_size=0)


def make_segmenter(
    class_names: Sequence[str] | str,
    encoder: str,
    pretrained: str | os.PathLike[str] | None = None,
    stem: str = "default",
    norm: str = "batch",
    image_size: int = 128,
    **options: Any,
) -> Segmenter:
    """A segmenter to be trained.

    Args:
        class_names: see `Segmenter`.
        encoder: a timm model name.
        pretrained: encoder weights to start from, in any form that `load_encoder` reads; its channels and
            preprocessing then count.
        stem: see `Segmenter`.
        norm: see `Segmenter`.
        image_size: see `Segmenter`.
        **options: of `Segmenter`.

    Raises:
        CxrError: see `Segmenter` and `starting_encoder`.
    """
    start = starting_encoder(pretrained, encoder, stem, norm, image_size)
    return Segmenter(class_names, start, image_size=image_size, **options)


def load_segmenter(path: str | os.PathLike[str]) -> Segmenter:
    """Builds the segmenter of a checkpoint of ours and loads all its weights.

    Args:
        path: `models/model.pt` of the bundle `deeplabv3plus`.

    Returns:
        The segmenter on the CPU, in training mode as PyTorch makes modules.

    Raises:
        CxrError: see `checkpoints.read_described`; or the file holds no segmenter; or a key does not fit.
    """
    weights, description, settings = read_described(path)
    if set(settings) != set(SETTINGS):
        raise CxrError(f"{path}: holds no segmenter of this version; give models/model.pt of the bundle deeplabv3plus")
    network = Segmenter(encoder=make_encoder(**description.as_dict()), **settings)
    load_all(network, weights, path)
    return network


def segmenter_like(path: str | os.PathLike[str], otherwise: Segmenter) -> Segmenter:
    """The segmenter of a checkpoint, or another where there is no such file yet: what a bundle is checked as."""
    return load_segmenter(path) if os.path.exists(path) else otherwise
