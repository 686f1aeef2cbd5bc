"""What published encoders change in a backbone of timm, without renaming a weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError


def make_relus_leaky(network: nn.Module, negative_slope: float, name: str) -> None:
    """Puts a leaky ReLU in place of every ReLU.

    Args:
        network: changed in place.
        negative_slope: of the leaky ReLUs.
        name: of the backbone, for the message.

    Raises:
        CxrError: the backbone has no ReLU.
    """
    places = [
        (parent, key, child.inplace)
        for parent in network.modules()
        for key, child in parent.named_children()
        if isinstance(child, nn.ReLU)
    ]
    if not places:
        raise CxrError(f"encoder '{name}' has no ReLU, so it takes no negative_slope; leave it at 0")
    for parent, key, inplace in places:
        setattr(parent, key, nn.LeakyReLU(negative_slope, inplace))


class UpsampledConv2d(nn.Conv2d):
    """A convolution whose input is first enlarged to a square, bilinearly with corners aligned.

    Args:
        size: edge of the square in pixels.
        old: the convolution that it takes the place of, with its weights.
    """

    def __init__(self, size: int, old: nn.Conv2d) -> None:
        super().__init__(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            dilation=old.dilation,
            groups=old.groups,
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
        self.weight, self.bias = old.weight, old.bias
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → (B, C', h, w), as of a (B, C, size, size) input."""
        larger = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=True)
        return self._conv_forward(larger, self.weight, self.bias)


def upsample_input(network: nn.Module, size: int, name: str) -> None:
    """Makes a ResNet enlarge its input to a square of `size` pixels.

    Raises:
        CxrError: the backbone does not begin with a convolution `conv1`, as ResNets do.
    """
    if not isinstance(getattr(network, "conv1", None), nn.Conv2d):
        raise CxrError(f"encoder '{name}' is no ResNet, so it takes no upsample; leave it at 0")
    network.conv1 = UpsampledConv2d(size, network.conv1)


def add_projection(network: nn.Module, size: int, name: str) -> None:
    """Gives a vision transformer a linear projection of `size` outputs, without bias, as its `head`.

    Raises:
        CxrError: the backbone has no `head` that is left open.
    """
    if not isinstance(getattr(network, "head", None), nn.Identity):
        raise CxrError(f"encoder '{name}' is no vision transformer, so it takes no projection; leave it at 0")
    network.head = nn.Linear(network.head_hidden_size, size, bias=False)
