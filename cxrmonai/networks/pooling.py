"""Global pooling of feature maps.

As in the sources that these poolings come from, each acts on every channel of the encoder's last maps by itself, before
the linear layer; only PCAM looks at the classes. All are computed in float32 at least, but for the matrix products of
PCAM, whose precision autocast decides.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError

SINGLE = ("AVG", "MAX", "EXP", "LINEAR", "LSE")  # one number per channel, so that classes have maps
POOLINGS = (*SINGLE, "AVG_MAX", "AVG_MAX_LSE", "PCAM", "NATIVE")


def widened(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, other types as they are."""
    half = values.dtype == torch.float16 or values.dtype == torch.bfloat16
    return values.float() if half else values


class AveragePooling(nn.Module):
    """AVG: the mean."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C)."""
        return widened(maps).mean(dim=[2, 3])


class MaximumPooling(nn.Module):
    """MAX: the largest value; its gradient is shared by equals."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C)."""
        return widened(maps).amax(dim=[2, 3])


class ExponentialPooling(nn.Module):
    """EXP: mean weighted by the softmax over positions."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C)."""
        values = widened(maps).flatten(2)
        return (values * values.softmax(dim=2)).sum(dim=2)


class LinearPooling(nn.Module):
    """LINEAR: mean weighted by the values themselves, Σx² / (Σx + 1e-7).

    The formula was made for values that cannot be negative (probabilities in Wang, Li & Metze, 2019; maps after a ReLU
    in X_RAY): a sum near zero makes it explode. Here a negative position has weight 0, Σ max(x, 0)² / (Σ max(x, 0) +
    1e-7), which is the same number on maps after a ReLU, and lies between 0 and the maximum on all others
    (EfficientNet, ConvNeXt, transformers, attention SAM).
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C)."""
        weights = widened(maps).flatten(2).relu()
        return (weights * weights).sum(dim=2) / (weights.sum(dim=2) + 1e-7)


class LogSumExpPooling(nn.Module):
    """LSE: a smooth maximum, (1/γ)·log mean exp(γx) (Pinheiro & Collobert, 2015; Wang et al., ChestX-ray8, 2017).

    Args:
        gamma: above 0; the mean for small, the maximum for large values.

    Raises:
        CxrError: gamma is not above 0.
    """

    def __init__(self, gamma: float = 10.0) -> None:
        super().__init__()
        if not 0 < gamma < math.inf:
            raise CxrError(f"lse_gamma {gamma}: must be above 0 and finite")
        self.gamma = float(gamma)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C)."""
        values = widened(maps).flatten(2)
        return (torch.logsumexp(self.gamma * values, dim=2) - math.log(values.shape[2])) / self.gamma


class JointPooling(nn.Module):
    """AVG_MAX, AVG_MAX_LSE: several poolings side by side.

    Args:
        parts: the poolings.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, n·C)."""
        pooled: list[torch.Tensor] = []
        for part in self.parts:
            pooled.append(part(maps))
        return torch.cat(pooled, dim=1)


class PCAMPooling(nn.Module):
    """PCAM: each class pools by the probability that it has at each position.

    s = w·X + b at each position, a = σ(s) / Σσ(s), f = Σ a·X, with the classifier's own weights (Ye et al., Weakly
    supervised lesion localization with probabilistic-CAM pooling, 2020).
    """

    def forward(self, maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Pools.

        Args:
            maps: (B, C, h, w).
            weight: (K, C) of the classifier.
            bias: (K,).

        Returns:
            (B, K, C).
        """
        scores = widened(class_scores(maps, weight, bias)).flatten(2)
        share = F.logsigmoid(scores).softmax(dim=2)  # σ/Σσ, without 0/0 where every probability vanishes
        return torch.einsum("bkn,bcn->bkc", share, widened(maps).flatten(2))


def class_scores(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear classifier at each position: (B, C, h, w), (K, C) and (K,) → (B, K, h, w)."""
    return F.conv2d(maps, weight[:, :, None, None].to(maps.dtype), bias.to(maps.dtype))


def make_pooling(name: str, lse_gamma: float = 10.0) -> nn.Module:
    """A global pooling.

    Args:
        name: `AVG`, `MAX`, `EXP`, `LINEAR`, `LSE`, `AVG_MAX`, `AVG_MAX_LSE` or `PCAM`.
        lse_gamma: γ of LSE, above 0 (Wang et al. found 10 best).

    Raises:
        CxrError: unknown name, or a bad gamma.
    """
    smooth = LogSumExpPooling(lse_gamma)
    made = {
        "AVG": AveragePooling(),
        "MAX": MaximumPooling(),
        "EXP": ExponentialPooling(),
        "LINEAR": LinearPooling(),
        "LSE": smooth,
        "AVG_MAX": JointPooling([AveragePooling(), MaximumPooling()]),
        "AVG_MAX_LSE": JointPooling([AveragePooling(), MaximumPooling(), smooth]),
        "PCAM": PCAMPooling(),
    }
    if name not in made:
        raise CxrError(f"pooling '{name}': known are {', '.join(POOLINGS)}")
    return made[name]


def pooled_size(name: str, channels: int) -> int:
    """Length of what a pooling makes of maps with that many channels; for PCAM that of one class."""
    return channels * {"AVG_MAX": 2, "AVG_MAX_LSE": 3}.get(name, 1)
