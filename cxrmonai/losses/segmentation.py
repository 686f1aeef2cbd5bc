"""Losses of segmenters that leave out the pixels of which nothing is known.

A target is unknown where it is NaN, or below 0. Every class is a mask of its own: a pixel may belong to several, or to
none.
"""

from __future__ import annotations

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.losses.classification import FocalLoss, MaskedBCELoss, _prepared

SEGMENTATION_LOSSES = ("dice", "bce", "focal", "dice_bce", "dice_focal")


class SoftDiceLoss(nn.Module):
    """Soft Dice of each class over the whole batch, 1 − (2 Σ p g + s) / (Σ p + Σ g + s), mean over the classes.

    As CheXseg (Gadgil et al., 2021) trains it, with s = 1: a class that is absent from the batch is learned as absent.
    A class of which no pixel of the batch is known has no part in the mean.

    Args:
        smooth: s, above 0.

    Raises:
        CxrError: a number out of range.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        if not smooth > 0:
            raise CxrError(f"smooth {smooth}: must be above 0")
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K, H, W).
            target: (B, K, H, W) of 0 to 1, NaN or −1 where not known.

        Returns:
            A scalar, 0–1.

        Raises:
            CxrError: the shapes differ.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, known, target = _prepared(logits, target)
            probability = torch.where(known, logits.sigmoid(), 0)
            both, predicted, true = (
                values.sum(dim=(0, 2, 3)) for values in (probability * target, probability, target)
            )
            dice = (2 * both + self.smooth) / (predicted + true + self.smooth)
            counts = known.any(dim=3).any(dim=2).any(dim=0)
            return torch.where(counts, 1 - dice, 0).sum() / counts.sum().clamp(min=1)


class SummedLoss(nn.Module):
    """The sum of several losses of the same logits and targets.

    Args:
        losses: modules.
    """

    def __init__(self, *losses: nn.Module) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum of what each loss gives."""
        return torch.stack([loss(logits, target) for loss in self.losses]).sum()


def make_segmentation_loss(name: str, focal_gamma: float = 2.0) -> nn.Module:
    """Builds a loss.

    Args:
        name: `dice`, `bce`, `focal` (Lin et al., 2017), or a sum, `dice_bce` or `dice_focal`.
        focal_gamma: of `focal`.

    Raises:
        CxrError: an unknown name.
    """
    if name not in SEGMENTATION_LOSSES:
        raise CxrError(f"loss '{name}': known are {', '.join(SEGMENTATION_LOSSES)}")
    parts = {"dice": SoftDiceLoss, "bce": MaskedBCELoss, "focal": lambda: FocalLoss(focal_gamma)}
    losses = [parts[part]() for part in name.split("_")]
    return losses[0] if len(losses) == 1 else SummedLoss(*losses)
