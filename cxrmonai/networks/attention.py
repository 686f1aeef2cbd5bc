"""Attention on the encoder's last maps, before they are pooled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks import ChannelSELayer
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.normalisation import make_norm

ATTENTIONS = ("none", "CAM", "SAM", "FPA")


class PositionAttention(nn.Module):
    """SAM: each position gathers from all others that resemble it (Fu et al., Dual attention network, 2019).

    Memory grows with the fourth power of the map's edge. The gate starts at 0: the maps pass unchanged at first.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        query, key, value = self.query(maps).flatten(2), self.key(maps).flatten(2), self.value(maps).flatten(2)
        share = torch.bmm(query.transpose(1, 2), key).softmax(dim=2)
        gathered = torch.bmm(value, share.transpose(1, 2).to(value.dtype))
        return maps + self.gate * gathered.reshape(maps.shape)


class PyramidAttention(nn.Module):
    """FPA: one attention map from a pyramid of three scales, plus the image's average.

    After Li et al., Pyramid attention network, 2018, with a pyramid of one channel as in X_RAY. Convolutions of 7, 5
    and 3 with stride 2 lead down, each to one channel; a second one at each scale and bilinear enlargement lead up
    again. The result is pyramid × middle + global, where middle is a 1×1 convolution of the maps and global one of
    their average. The pyramid's maps shrink to 1×1, where a norm over one image leaves nothing: with group and instance
    norm the pyramid has none, and leaky ReLUs, which cannot die.

    Args:
        channels: of the maps.
        norm: `batch`, `group` or `instance`.

    Raises:
        CxrError: unknown norm.
    """

    def __init__(self, channels: int, norm: str = "batch") -> None:
        super().__init__()
        self.middle = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), make_norm(norm, channels), nn.ReLU(inplace=True)
        )
        self.overall = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True))
        self.down1 = _level(channels, 7, 2, norm)
        self.down2 = _level(1, 5, 2, norm)
        self.down3 = _level(1, 3, 2, norm)
        self.across1 = _level(1, 7, 1, norm)
        self.across2 = _level(1, 5, 1, norm)
        self.across3 = _level(1, 3, 1, norm)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        first = self.down1(maps)
        second = self.down2(first)
        third = self.down3(second)
        upper = self.across2(second) + _enlarged(self.across3(third), second)
        whole = self.across1(first) + _enlarged(upper, first)
        return _enlarged(whole, maps) * self.middle(maps) + self.overall(maps)


def _enlarged(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)


def _level(channels: int, kernel: int, stride: int, norm: str) -> nn.Sequential:
    if norm == "batch":
        convolution = nn.Conv2d(channels, 1, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(convolution, make_norm(norm, 1), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Conv2d(channels, 1, kernel, stride, kernel // 2), nn.LeakyReLU(0.1, inplace=True))


def make_attention(name: str, channels: int, norm: str = "batch") -> nn.Module:
    """An attention that keeps the shape of maps.

    Args:
        name: `none`; `CAM`, channel attention, which is squeeze and excitation with ratio 2; `SAM`, see
            `PositionAttention`; `FPA`, see `PyramidAttention`.
        channels: of the maps.
        norm: of FPA.

    Raises:
        CxrError: unknown name or norm.
    """
    if name == "none":
        return nn.Identity()
    if name == "CAM":
        return ChannelSELayer(spatial_dims=2, in_channels=channels, r=2)
    if name == "SAM":
        return PositionAttention(channels)
    if name == "FPA":
        return PyramidAttention(channels, norm)
    raise CxrError(f"attention '{name}': known are {', '.join(ATTENTIONS)}")
