"""IRNet: edges between what belongs together, read off a frozen encoder (Ahn, Cho and Kwak, CVPR 2019)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import (
    OWN_MEAN,
    OWN_STD,
    DescribedNetwork,
    load_all,
    load_encoder,
    read_described,
)
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.feature_maps import LAST, SIXTEENTH, FeatureEncoder
from cxrmonai.networks.start import with_stride
from cxrmonai.transforms.preprocessing import Preprocessing

SETTINGS = ("class_names", "image_size", "displacement", "output_stride", "asked")
EDGE_CHANNELS, MOVE_CHANNELS = 32, 64


class IRNet(DescribedNetwork):
    """An edge for each pixel at a quarter of the image's size, and on request a displacement to its region's centre.

    The encoder is that of a classifier. It is frozen: its weights have no gradients, its norms keep their statistics
    and its maps are detached. As published, but for any encoder: each of its maps goes to 32 channels and to a quarter
    of the image's size, and all of them together to one edge. The displacement branch narrows its maps to 64 to 256
    channels and joins them from the coarsest to the quarter.

    Args:
        class_names: K names of the findings whose labels the network learns from; it tells none of them apart.
        encoder: a timm model name; or a module of `encoders.encoder` or `load_encoder`, whose own channels, stem, norm
            and preprocessing then count.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`; a small stem has no maps at the sizes that are needed.
        norm: `batch`, `group` or `instance`, in the encoder.
        image_size: edge of the input in pixels, a multiple of 32.
        displacement: whether there is a displacement branch.
        output_stride: of the encoder's last maps: 16, without the stride of the last stage, or 32 as the encoder has
            it.
        asked: what else whoever uses the weights must know of the training run; plain types.

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
        image_size: int = 96,
        displacement: bool = False,
        output_stride: int = SIXTEENTH,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        names = name_list(class_names)
        if not names:
            raise CxrError("class_names: give at least one name")
        if image_size < LAST or image_size % LAST:
            raise CxrError(f"image_size {image_size}: must be a multiple of {LAST}")
        if isinstance(encoder, str):
            encoder = make_encoder(encoder, in_channels, stem, norm=norm)
        values = (names, int(image_size), bool(displacement), int(output_stride), dict(asked or {}))
        super().__init__(FeatureEncoder(encoder, output_stride, every=True), dict(zip(SETTINGS, values, strict=True)))
        own = self.encoder.preprocessing
        if own is None:
            channels = encoder.description.in_channels
            own = Preprocessing(image_size, mean=OWN_MEAN * channels, std=OWN_STD * channels)
        self.encoder.preprocessing = replace(own, image_size=image_size, fit="letterbox", fit_size=0)
        self.class_names, self.displacement = names, bool(displacement)
        self.encoder.requires_grad_(False).eval()
        self.edges = nn.ModuleList(_narrowed(channels, EDGE_CHANNELS, 4) for channels in self.encoder.channels)
        self.edge = nn.Conv2d(EDGE_CHANNELS * len(self.edges), 1, 1)
        self.moves = _DisplacementBranch(self.encoder.channels) if displacement else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) → (B, 1, H/4, W/4) logits of an edge; or (B, 3, …), then displacements [y, x]."""
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        maps = [each.detach() for each in self.encoder(images)]
        narrow: list[torch.Tensor] = []
        for k, branch in enumerate(self.edges):
            narrow.append(_at(branch(maps[k]), height, width).relu())
        edge = self.edge(torch.cat(narrow, dim=1))
        if self.moves is None:
            return edge
        return torch.cat([edge, self.moves(maps, height, width)], dim=1)

    def train(self, mode: bool = True) -> IRNet:
        """Training or evaluation mode of the branches; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self


class _DisplacementBranch(nn.Module):
    """Maps joined from the coarsest on: (B, 2, h, w), centred by a running mean."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [min(MOVE_CHANNELS * 2 ** max(0, k - 1), 256) for k in range(len(channels))]
        groups = [8 if width == MOVE_CHANNELS else 16 for width in widths]
        pairs = zip(channels, widths, groups, strict=True)
        self.narrow = nn.ModuleList(_narrowed(given, width, group) for given, width, group in pairs)
        self.coarse = _narrowed(sum(widths[-3:]), 256, 16)
        self.fine = _narrowed(sum(widths[:-3]) + 256, 256, 16)
        self.last = nn.Conv2d(256, 2, 1, bias=False)
        self.register_buffer("mean", torch.zeros(1, 2, 1, 1))

    def forward(self, maps: list[torch.Tensor], height: int, width: int) -> torch.Tensor:
        narrow: list[torch.Tensor] = []
        for k, branch in enumerate(self.narrow):
            narrow.append(branch(maps[k]).relu())
        deep = [_at(each, height // 2, width // 2) for each in narrow[-3:]]
        joined = [_at(each, height, width) for each in narrow[:-3]]
        joined.append(_at(self.coarse(torch.cat(deep, dim=1)).relu(), height, width))
        moves = self.last(self.fine(torch.cat(joined, dim=1)).relu())
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(moves.detach().float().mean(dim=(0, 2, 3), keepdim=True), 0.1)
            return moves
        return moves - self.mean


def _narrowed(channels: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _at(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Maps brought to a size: means of whole blocks where they shrink, bilinear where they grow."""
    if maps.shape[-2] > height:
        return F.adaptive_avg_pool2d(maps, [height, width])
    return F.interpolate(maps, size=[height, width], mode="bilinear", align_corners=False)


def make_irnet(
    class_names: Sequence[str] | str,
    encoder: str,
    pretrained: str | os.PathLike[str],
    stem: str = "default",
    norm: str = "batch",
    **options: Any,
) -> IRNet:
    """An IRNet to be trained, on the encoder of a checkpoint.

    Args:
        class_names: see `IRNet`.
        encoder: a timm model name that the checkpoint must be of; `auto` takes whatever it is.
        pretrained: encoder weights, in any form that `load_encoder` reads; a frozen encoder without any would tell
            nothing.
        stem: which the checkpoint must have, but for `auto`.
        norm: likewise.
        **options: of `IRNet`.

    Raises:
        CxrError: see `IRNet` and `load_encoder`; or the weights belong to another encoder.
    """
    found = load_encoder(pretrained)
    theirs = found.description
    pairs = (("encoder", encoder, theirs.name), ("stem", stem, theirs.stem), ("norm", norm, theirs.norm))
    for key, asked, there in pairs if encoder != "auto" else ():
        if asked != there:
            raise CxrError(f"{pretrained}: holds an encoder of {key} {there}, the config asks for {asked}")
    return IRNet(class_names, with_stride(found, 0), **options)


def load_irnet(path: str | os.PathLike[str]) -> IRNet:
    """Builds the IRNet of a checkpoint of ours and loads all its weights.

    Args:
        path: `models/model.pt` of the bundle `irnet`.

    Returns:
        The network on the CPU, in training mode as PyTorch makes modules, but for its encoder.

    Raises:
        CxrError: see `checkpoints.read_described`; or the file holds no IRNet; or a key does not fit.
    """
    weights, description, settings = read_described(path)
    if set(settings) != set(SETTINGS):
        raise CxrError(f"{path}: holds no IRNet of this version; give models/model.pt of the bundle irnet")
    network = IRNet(encoder=make_encoder(**description.as_dict()), **settings)
    load_all(network, weights, path)
    return network


def irnet_like(path: str | os.PathLike[str], otherwise: IRNet) -> IRNet:
    """The IRNet of a checkpoint, or another where there is no such file yet: what a bundle is checked as."""
    return load_irnet(path) if os.path.exists(path) else otherwise


def branch_groups(network: IRNet, learning_rate: float, displacement_factor: float = 10.0) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser: the edge branch, and the displacement branch, which learns faster.

    Args:
        network: to be trained.
        learning_rate: of the edge branch.
        displacement_factor: times that, of the displacement branch.
    """
    groups = [{"params": [*network.edges.parameters(), *network.edge.parameters()], "lr": learning_rate}]
    if network.moves is not None:
        groups.append({"params": list(network.moves.parameters()), "lr": learning_rate * displacement_factor})
    return groups


__all__ = ["IRNet", "branch_groups", "irnet_like", "load_irnet", "make_irnet"]
