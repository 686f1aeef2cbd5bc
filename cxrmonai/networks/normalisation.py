"""Group or instance norm in place of a backbone's batch norms."""

from __future__ import annotations

import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import nn

from cxrmonai.errors import CxrError

NORMS = ("batch", "group", "instance")
GROUPS = 32


class InstanceNormAct2d(nn.InstanceNorm2d):
    """Instance norm, then the dropout and the activation that timm fuses with a norm.

    Args:
        channels: of the maps.
        eps: added to the variance.
        drop: applied after the norm.
        act: applied last.
    """

    def __init__(self, channels: int, eps: float, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(channels, eps=eps, affine=True)
        self.drop, self.act = drop, act

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        normed = nn.functional.instance_norm(maps, weight=self.weight, bias=self.bias, eps=self.eps)
        return self.act(self.drop(normed))


class LenientBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a training batch has one value per channel.

    A batch of one image whose map is 1×1 has no variance; PyTorch's own batch norm ends the run there.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        several = maps.shape[0] * maps.shape[2] * maps.shape[3] > 1
        momentum = 0.1 if self.momentum is None else self.momentum
        return nn.functional.batch_norm(
            maps,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training and several,
            momentum,
            self.eps,
        )


def group_count(channels: int) -> int:
    """The largest number of groups, 32 at most (Wu & He, Group Normalization, 2018), that divides the channels."""
    return next(count for count in range(min(GROUPS, channels), 0, -1) if channels % count == 0)


def make_norm(kind: str, channels: int) -> nn.Module:
    """A norm over maps (B, C, h, w).

    Args:
        kind: `batch`, `group` (32 groups, or the most below that fit) or `instance`; all with weight and bias.
        channels: of the maps.

    Raises:
        CxrError: unknown kind.
    """
    check_norm(kind)
    if kind == "group":
        return nn.GroupNorm(group_count(channels), channels)
    return LenientBatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels, affine=True)


def check_norm(kind: str) -> None:
    """Makes sure that a norm is one of `NORMS`.

    Raises:
        CxrError: it is not.
    """
    if kind not in NORMS:
        raise CxrError(f"norm '{kind}': known are {', '.join(NORMS)}")


def replace_batch_norm(network: nn.Module, kind: str, name: str) -> None:
    """Puts another norm in place of every batch norm over maps.

    Weights and biases keep their names and their initial values (some backbones start the last norm of a block at
    zero), and so do activations that are fused with a norm. Running statistics have no successor.

    Args:
        network: changed in place.
        kind: `group` or `instance`.
        name: of the backbone, for the message.

    Raises:
        CxrError: unknown kind; or the backbone has no batch norm over maps, or others that cannot be replaced.
    """
    check_norm(kind)
    found = [path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise CxrError(f"encoder '{name}' has no batch norm that norm {kind} could replace; use --norm batch")
    for path in found:
        parent, _, child = path.rpartition(".")
        old = network.get_submodule(path)
        setattr(network.get_submodule(parent), child, _successor(old, kind))
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise CxrError(
            f"encoder '{name}' has batch norms over tokens, which norm {kind} cannot replace; use --norm batch"
        )


def _successor(old: nn.BatchNorm2d, kind: str) -> nn.Module:
    channels, eps = old.num_features, old.eps
    if isinstance(old, BatchNormAct2d) and kind == "group":
        new = GroupNormAct(channels, group_count(channels), eps=eps)
        new.drop, new.act = old.drop, old.act
    elif isinstance(old, BatchNormAct2d):
        new = InstanceNormAct2d(channels, eps, old.drop, old.act)
    else:
        new = make_norm(kind, channels)
        new.eps = eps
    if old.affine:
        new.weight.data.copy_(old.weight.data)
        new.bias.data.copy_(old.bias.data)
    return new
