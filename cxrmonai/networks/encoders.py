"""Encoders: any timm backbone, for one-channel radiographs, by one factory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches

import timm
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.normalisation import check_norm, replace_batch_norm
from cxrmonai.networks.published.builds import add_projection, make_relus_leaky, upsample_input
from cxrmonai.networks.strides import keep_resolution

STEMS = ("default", "cifar")
HEAD_WIDTH = 64  # of one attention head, in every vision transformer of CLIP and ViT


@dataclass(frozen=True)
class EncoderDescription:
    """All that is needed to build an encoder again.

    Attributes:
        name: a timm model name, such as `resnet18`, `densenet121`, `convnext_tiny`, `vit_small_patch16_224`.
        in_channels: channels of the input.
        stem: `default`, or `cifar` for small images.
        image_size: edge of the input in pixels, where the backbone is built for one (vision transformers); else 0.
        norm: `batch`: the backbone's own norms; or `group` or `instance` in place of its batch norms.
        output_stride: how much smaller than the input the last maps are; 0 where as timm builds it.
        negative_slope, upsample, width, depth, projection: see `encoder`; 0 where the backbone is as timm builds it.
    """

    name: str
    in_channels: int = 1
    stem: str = "default"
    image_size: int = 0
    norm: str = "batch"
    output_stride: int = 0
    negative_slope: float = 0.0
    upsample: int = 0
    width: int = 0
    depth: int = 0
    projection: int = 0

    def as_dict(self) -> dict[str, str | int | float]:
        """As plain types."""
        return asdict(self)


def encoder(
    name: str,
    in_channels: int = 1,
    stem: str = "default",
    image_size: int = 0,
    norm: str = "batch",
    output_stride: int = 0,
    *,
    negative_slope: float = 0.0,
    upsample: int = 0,
    width: int = 0,
    depth: int = 0,
    projection: int = 0,
) -> nn.Module:
    """Builds a backbone without its classifier.

    The result is the timm module itself, so that state dicts carry timm's (and, for ResNets and DenseNets,
    torchvision's) names. `encoder(x)` gives (B, C) features, `encoder.num_features` is C, `encoder.forward_features(x)`
    gives (B, C', h, w) maps or tokens, where C' differs from C in a few backbones (MobileNetV3, VGG),
    `encoder.description` tells how to build it again, and `encoder.window_offset` where positions of the maps look,
    see `strides.keep_resolution` (0 without an `output_stride`).

    Args:
        name: a timm model name.
        in_channels: channels of the input.
        stem: `default`; or `cifar`: first convolution 3×3 with stride 1 and no pooling after it (Chen et al., SimCLR,
            2020, appendix B.9), which keeps four times the resolution on each axis.
        image_size: for vision transformers, edge of the input in pixels; 0 keeps the model's own.
        norm: `batch` keeps the backbone's own norms; `group` (32 groups, or the most below that fit) and `instance`
            take the place of every batch norm.
        output_stride: for convolutional backbones, how much smaller than the input the last maps are: 4, 8 or 16, where
            most backbones have 32. Late strides are left out, without dilation (`strides.keep_resolution`): maps are
            finer and tell of smaller parts of the image, at about four times the work of a stage for each halving.
            Weights fit whatever the stride. 0 keeps the backbone's own.
        negative_slope: makes every ReLU a leaky one of this slope (S2MTS2: 0.1); 0 leaves them.
        upsample: for ResNets, edge in pixels to which the input is enlarged before the first convolution, bilinearly
            with corners aligned (GLoRIA: 299); 0 for none.
        width: for vision transformers, length of a token, of which each attention head takes 64; 0 keeps the model's.
        depth: for vision transformers, number of blocks; for ResNets, number of stages, of which the later ones are
            left out; 0 keeps the model's.
        projection: for vision transformers, length of a linear projection of the features, without bias, which then
            is what `encoder(x)` gives (CLIP: 512); 0 for none.

    Returns:
        The module, with random weights.

    Raises:
        CxrError: unknown name, stem or norm, or an option that this backbone cannot have.
    """
    if stem not in STEMS:
        raise CxrError(f"stem '{stem}': known are {', '.join(STEMS)}")
    check_norm(norm)
    if not timm.is_model(name):
        close = ", ".join(get_close_matches(name, timm.list_models(), 4) or timm.list_models(f"*{name}*")[:4])
        raise CxrError(f"encoder '{name}' is no timm model{f'; there are {close}' if close else ''}")
    try:
        stages = depth if _is_resnet(name) else 0
        network, built_for = _build(name, in_channels, image_size, _transformer_size(width, depth - stages))
    except (AssertionError, ValueError) as error:
        raise CxrError(f"encoder '{name}' cannot be built for {image_size} pixels: {error}") from error
    except TypeError as error:
        if not (width or depth):
            raise
        raise CxrError(f"encoder '{name}' takes no width and depth; leave them at 0") from error
    if stem == "cifar":
        _use_cifar_stem(network, name)
    if stages:
        _keep_stages(network, stages, name)
    network.window_offset = keep_resolution(network, output_stride, in_channels, name) if output_stride else 0.0
    if norm != "batch":
        replace_batch_norm(network, norm, name)
    if negative_slope:
        make_relus_leaky(network, negative_slope, name)
    if upsample:
        upsample_input(network, upsample, name)
    if projection:
        add_projection(network, projection, name)
    network.num_features = projection or network.head_hidden_size
    network.description = EncoderDescription(
        name, in_channels, stem, built_for, norm, output_stride, negative_slope, upsample, width, depth, projection
    )
    return network


def _is_resnet(name: str) -> bool:
    return timm.model_entrypoint(name).__module__ == "timm.models.resnet"


def _keep_stages(network: nn.Module, stages: int, name: str) -> None:
    names = [key for key, _ in network.named_children() if key.startswith("layer")]
    if not 1 <= stages <= len(names):
        raise CxrError(f"depth {stages}: encoder '{name}' has {len(names)} stages; give 1 to {len(names)}, or 0")
    for key in names[stages:]:
        network.set_submodule(key, nn.Identity())
    network.feature_info = network.feature_info[: stages + 1]
    network.head_hidden_size = network.feature_info[-1]["num_chs"]


def _transformer_size(width: int, depth: int) -> dict[str, int]:
    if width % HEAD_WIDTH:
        raise CxrError(f"width {width}: must be a multiple of {HEAD_WIDTH}, the width of an attention head")
    options = {"embed_dim": width, "num_heads": width // HEAD_WIDTH} if width else {}
    return {**options, "depth": depth} if depth else options


def _build(name: str, in_channels: int, image_size: int, options: dict[str, int]) -> tuple[nn.Module, int]:
    """The backbone, and the edge that it was built for: 0 where it takes images of any size."""
    options = {"pretrained": False, "num_classes": 0, "in_chans": in_channels, **options}
    if image_size:
        try:
            return timm.create_model(name, img_size=image_size, **options), image_size
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    return timm.create_model(name, **options), 0


def _use_cifar_stem(network: nn.Module, name: str) -> None:
    if isinstance(getattr(network, "conv1", None), nn.Conv2d) and hasattr(network, "maxpool"):
        network.conv1 = _small_convolution(network.conv1)
        network.maxpool = nn.Identity()
    elif hasattr(network, "features") and isinstance(getattr(network.features, "conv0", None), nn.Conv2d):
        network.features.conv0 = _small_convolution(network.features.conv0)
        network.features.pool0 = nn.Identity()
    elif isinstance(getattr(network, "conv_stem", None), nn.Conv2d):
        network.conv_stem = _small_convolution(network.conv_stem)
    else:
        raise CxrError(f"encoder '{name}' has no stem that can be made small; use --stem default")


def _small_convolution(old: nn.Conv2d) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
