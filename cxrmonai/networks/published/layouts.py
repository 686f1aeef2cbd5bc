"""The layouts of published checkpoints: how each is recognised, and where its image encoder's weights lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks.encoders import HEAD_WIDTH, EncoderDescription
from cxrmonai.networks.published.names import Origin, clip_origin, plain_origin, refers_origin
from cxrmonai.transforms.preprocessing import Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOCO_INPUT = Preprocessing(320, fit="crop", interpolation="bilinear", mean=(0.5020,) * 3, std=(0.085585,) * 3)
CONVIRT_INPUT = Preprocessing(224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
GLORIA_INPUT = Preprocessing(224, fit_size=256, then="crop", mean=(0.5,) * 3, std=(0.5,) * 3)
GLORIA_UPSAMPLE = 299
S2MTS2_INPUT = Preprocessing(256, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)
S2MTS2_SLOPE = 0.1
CHEXZERO_EDGE = 320
CHEXZERO_MEAN, CHEXZERO_STD = 101.48761 / 255, 83.43944 / 255

CLIP_MODELS = {
    14: "vit_large_patch14_clip_quickgelu_224",
    16: "vit_base_patch16_clip_quickgelu_224",
    32: "vit_base_patch32_clip_quickgelu_224",
}
REFERS_MODELS = {16: "vit_base_patch16_224"}
OWN_SIZES = {True: (1024, 24), False: (768, 12)}  # width and depth, of a large model and of a base model

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """A checkpoint whose layout is known.

    Attributes:
        name: of the published model or models that have this layout.
        weights: all tensors of the part that holds the encoder, under the file's own names.
        prefix: of the encoder's names.
        origin: from a name in timm's state dict to where it lies below the prefix.
        description: of the encoder.
        preprocessing: of its input.
        dropped: prefixes of weights that the encoder does not need, and what they are.
        others: further entries of the file.
    """

    name: str
    weights: Weights
    prefix: str
    origin: Callable[[str], Origin]
    description: EncoderDescription
    preprocessing: Preprocessing
    dropped: tuple[tuple[str, str], ...]
    others: tuple[str, ...] = ()


def recognise(content: Any, projection: bool = False) -> Layout | None:
    """The layout of a checkpoint's content, by its containers, keys and shapes.

    Args:
        content: see `read_checkpoint`.
        projection: whether CLIP's projection into the space of texts is wanted as well.

    Returns:
        `None` where it is none of the known ones.

    Raises:
        CxrError: the layout is known but the content contradicts it; without the file's name.
    """
    if not isinstance(content, Mapping):
        return None
    layouts = (_momentum_contrast, _gloria, _convirt, lambda content: _chexzero(content, projection), _refers)
    found = next(filter(None, (layout(content) for layout in layouts)), None)
    if found is not None and projection and not found.description.projection:
        raise CxrError(f"{found.name} has no projection; leave --projection out")
    return found


def _momentum_contrast(content: Mapping[str, Any]) -> Layout | None:
    """MoCo-CXR, MedAug (Sowrirajan et al., 2021; Vu et al., 2021) and S2MTS2 (Liu et al., 2021)."""
    weights = _tensors(content.get("state_dict"))
    outer = next((outer for outer in ("module.", "") if _has_prefix(weights, f"{outer}encoder_q.")), None)
    if outer is None:
        return None
    prefix = f"{outer}encoder_q."
    backbone = _backbone(weights, prefix)
    if backbone is None:
        return None
    head = "classifier" if backbone == "densenet121" else "fc."
    dropped = (
        (f"{prefix}{head}", "projection head"),
        (f"{outer}encoder_k.", "momentum encoder"),
        (f"{outer}queue", "queue of negatives"),
    )
    others = _others(content, "state_dict")
    if backbone == "densenet121" and "arch" not in content:
        if not {"epoch", "optimizer"} <= set(content):
            raise CxrError(
                "a DenseNet121 of MoCo-CXR has the entry 'arch', one of S2MTS2 has 'epoch' and 'optimizer' but no "
                "'arch', and this file fits neither; use the file as published"
            )
        description = EncoderDescription(backbone, in_channels=3, negative_slope=S2MTS2_SLOPE)
        return Layout("S2MTS2", weights, prefix, plain_origin, description, S2MTS2_INPUT, dropped, others)
    named = content.get("arch", backbone)
    if named != backbone:
        raise CxrError(f"its entry 'arch' says {named}, its weights say {backbone}; use the file as published")
    description = EncoderDescription(backbone, in_channels=3)
    return Layout("MoCo-CXR or MedAug", weights, prefix, plain_origin, description, MOCO_INPUT, dropped, others)


def _gloria(content: Mapping[str, Any]) -> Layout | None:
    """GLoRIA (Huang et al., 2021)."""
    weights = _tensors(content.get("state_dict"))
    outer = "gloria.img_encoder."
    backbone = _backbone(weights, f"{outer}model.")
    if backbone not in ("resnet18", "resnet50"):
        return None
    dropped = (
        (f"{outer}global_embedder.", "projection of the whole image"),
        (f"{outer}local_embedder.", "projection of regions"),
        ("gloria.text_encoder.", "text encoder"),
    )
    description = EncoderDescription(backbone, in_channels=3, upsample=GLORIA_UPSAMPLE)
    others = _others(content, "state_dict")
    return Layout("GLoRIA", weights, f"{outer}model.", plain_origin, description, GLORIA_INPUT, dropped, others)


def _convirt(content: Mapping[str, Any]) -> Layout | None:
    """ConVIRT (Zhang et al., 2022), whole or its image encoder alone."""
    nested = "image_encoder" in content
    weights = _tensors(content.get("image_encoder")) if nested else _tensors(content)
    if _backbone(weights, "") != "resnet50":
        return None
    return Layout(
        "ConVIRT" if nested else "ConVIRT, or another ResNet50 in torchvision's own names",
        weights,
        "",
        plain_origin,
        EncoderDescription("resnet50", in_channels=3),
        CONVIRT_INPUT,
        (("fc.", "classifier or projection head"),),
        _others(content, "image_encoder") if nested else (),
    )


def _chexzero(content: Mapping[str, Any], projection: bool) -> Layout | None:
    """CheXzero and CXR-RePaiR-CLIP (Tiu et al., 2022; Endo et al., 2021)."""
    weights, prefix = _tensors(content), "visual."
    if not _has_prefix(weights, f"{prefix}transformer.resblocks."):
        return None
    description = _transformer(
        CLIP_MODELS,
        patches=_needed(weights, f"{prefix}conv1.weight", 4),
        positions=_needed(weights, f"{prefix}positional_embedding", 2),
        blocks=_count(weights, f"{prefix}transformer.resblocks."),
        projection=_needed(weights, f"{prefix}proj", 2).shape[1] if projection else 0,
    )
    dropped = (
        *(() if projection else ((f"{prefix}proj", "projection into the space of texts"),)),
        ("transformer.", "text tower"),
        ("token_embedding.", "text tower"),
        ("positional_embedding", "text tower"),
        ("ln_final.", "text tower"),
        ("text_projection", "text tower"),
        ("logit_scale", "temperature of the loss"),
        ("input_resolution", "a setting"),
        ("context_length", "a setting"),
        ("vocab_size", "a setting"),
    )
    size = description.image_size
    preprocessing = Preprocessing(
        size,
        fit_size=0 if size == CHEXZERO_EDGE else CHEXZERO_EDGE,
        then="resize",
        interpolation="bicubic",
        mean=(CHEXZERO_MEAN,) * 3,
        std=(CHEXZERO_STD,) * 3,
    )
    return Layout("CheXzero (CLIP)", weights, prefix, clip_origin, description, preprocessing, dropped)


def _refers(content: Mapping[str, Any]) -> Layout | None:
    """REFERS (Zhou et al., 2022), fine-tuned or as pretraining wrote it."""
    raw = "model" in content
    weights = _tensors(content["model"]) if raw else _tensors(content)
    prefix = "visual.vit." if raw else ""
    if not _has_prefix(weights, f"{prefix}transformer.embeddings."):
        return None
    inner = f"{prefix}transformer."
    description = _transformer(
        REFERS_MODELS,
        patches=_needed(weights, f"{inner}embeddings.patch_embeddings.weight", 4),
        positions=_needed(weights, f"{inner}embeddings.position_embeddings", 3)[0],
        blocks=_count(weights, f"{inner}encoder.layer."),
    )
    preprocessing = Preprocessing(
        description.image_size, fit="crop", interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    dropped = ((f"{prefix}head.", "classifier"),)
    return Layout(
        "REFERS (pretraining)" if raw else "REFERS",
        {key: value for key, value in weights.items() if key.startswith(prefix)},
        prefix,
        refers_origin,
        description,
        preprocessing,
        dropped,
        (*_others(content, "model"), *_other_parts(weights, prefix)) if raw else (),
    )


def _tensors(part: Any) -> Weights:
    """A part of a checkpoint if it is a flat dictionary of tensors, else an empty one."""
    if not isinstance(part, Mapping):
        return {}
    flat = all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in part.items())
    return part if flat else {}


def _has_prefix(weights: Weights, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in weights)


def _others(content: Mapping[str, Any], used: str) -> tuple[str, ...]:
    return tuple(str(key) for key in content if key != used)


def _other_parts(weights: Weights, prefix: str) -> tuple[str, ...]:
    """First names of the weights outside a prefix: the parts of a larger network."""
    return tuple(dict.fromkeys(f"model.{key.split('.')[0]}.*" for key in weights if not key.startswith(prefix)))


def _backbone(weights: Weights, prefix: str) -> str | None:
    """Which of the three convolutional backbones has its names below a prefix."""
    if _has_prefix(weights, f"{prefix}features.denseblock"):
        return "densenet121"
    if not _has_prefix(weights, f"{prefix}layer1."):
        return None
    bottlenecks = re.compile(re.escape(prefix) + r"layer\d\.\d+\.conv3\.")
    return "resnet50" if any(bottlenecks.match(key) for key in weights) else "resnet18"


def _needed(weights: Weights, key: str, dimensions: int) -> torch.Tensor:
    if key not in weights:
        raise CxrError(f"missing {key}")
    if weights[key].ndim != dimensions:
        raise CxrError(f"misshapen {key} {tuple(weights[key].shape)}, which must have {dimensions} dimensions")
    return weights[key]


def _count(weights: Weights, prefix: str) -> int:
    """Number of the blocks below a prefix, by the highest of their numbers."""
    numbers = (key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix))
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def _transformer(
    models: Mapping[int, str], patches: torch.Tensor, positions: torch.Tensor, blocks: int, projection: int = 0
) -> EncoderDescription:
    """A vision transformer by its shapes.

    Args:
        models: timm's names by patch size.
        patches: (width, channels, p, p) weights of the patch embedding.
        positions: (1 + tokens, width) positional embedding.
        blocks: number of blocks.
        projection: length of the projection, or 0.

    Raises:
        CxrError: no model has these shapes.
    """
    width, channels, patch = patches.shape[:3]
    edge = isqrt(max(0, len(positions) - 1))
    if edge == 0 or edge**2 != len(positions) - 1:
        raise CxrError(f"misshapen positional embedding {tuple(positions.shape)}, which is none of a square of patches")
    if patch not in models:
        raise CxrError(f"patches of {patch} pixels; known are {', '.join(map(str, sorted(models)))}")
    if width % HEAD_WIDTH:
        raise CxrError(f"misshapen tokens of {width} numbers, which must be a multiple of {HEAD_WIDTH}")
    own_width, own_depth = OWN_SIZES["large" in models[patch]]
    return EncoderDescription(
        models[patch],
        in_channels=channels,
        image_size=edge * patch,
        width=0 if width == own_width else width,
        depth=0 if blocks == own_depth else blocks,
        projection=projection,
    )
