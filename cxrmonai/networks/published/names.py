"""From timm's names to those of published files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True)
class Origin:
    """Where a weight of a timm model lies in a file.

    Attributes:
        names: of the file's tensors, joined along the first axis.
        change: of the joined tensor.
    """

    names: tuple[str, ...]
    change: Callable[[torch.Tensor], torch.Tensor] = _as_it_is


def plain_origin(name: str) -> Origin:
    """ResNets and DenseNets, whose names timm shares with torchvision."""
    return Origin((name,))


CLIP_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
CLIP_OUTER = {"patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm": "ln_post"}


def clip_origin(name: str) -> Origin:
    """The image tower of CLIP (Radford et al., 2021)."""
    if name == "cls_token":
        return Origin(("class_embedding",), lambda tensor: tensor[None, None])
    if name == "pos_embed":
        return Origin(("positional_embedding",), lambda tensor: tensor[None])
    if name == "head.weight":
        return Origin(("proj",), lambda tensor: tensor.T)
    number, module, kind = _split(name)
    if number is None:
        return Origin((f"{CLIP_OUTER[module]}.{kind}",))
    if module == "attn.qkv":
        return Origin((f"transformer.resblocks.{number}.attn.in_proj_{kind}",))
    return Origin((f"transformer.resblocks.{number}.{CLIP_BLOCK[module]}.{kind}",))


REFERS_BLOCK = {
    "norm1": ("attention_norm",),
    "norm2": ("ffn_norm",),
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "attn.proj": ("attn.out",),
    "mlp.fc1": ("ffn.fc1",),
    "mlp.fc2": ("ffn.fc2",),
}
REFERS_TOKENS = {"cls_token": "cls_token", "pos_embed": "position_embeddings"}
REFERS_OUTER = {"patch_embed.proj": "embeddings.patch_embeddings", "norm": "encoder.encoder_norm"}


def refers_origin(name: str) -> Origin:
    """The vision transformer of REFERS (Zhou et al., 2022)."""
    if name in REFERS_TOKENS:
        return Origin((f"transformer.embeddings.{REFERS_TOKENS[name]}",))
    number, module, kind = _split(name)
    if number is None:
        return Origin((f"transformer.{REFERS_OUTER[module]}.{kind}",))
    return Origin(tuple(f"transformer.encoder.layer.{number}.{part}.{kind}" for part in REFERS_BLOCK[module]))


def _split(name: str) -> tuple[str | None, str, str]:
    """`blocks.3.attn.qkv.bias` → `3`, `attn.qkv`, `bias`; the number is `None` outside the blocks."""
    number, module, kind = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(\w+)", name).groups()
    return number, module, kind
