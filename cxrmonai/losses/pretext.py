"""Losses of pretext tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError


def mean_cross_entropy(logits: torch.Tensor, targets: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """Mean of the cross-entropies of several heads.

    Args:
        logits: (B, ΣK), head after head.
        targets: (B,) class of each head.
        sizes: (H,) number of classes of each head.

    Returns:
        A scalar.

    Raises:
        CxrError: the logits are not as many as the classes.
    """
    if logits.shape[1] != sum(sizes):
        raise CxrError(f"{logits.shape[1]} logits for heads of {', '.join(map(str, sizes))} classes")
    with torch.autocast(logits.device.type, enabled=False):
        parts = _wide(logits).split(list(sizes), dim=1)
        terms = [F.cross_entropy(part, target) for part, target in zip(parts, targets, strict=True)]
        return torch.stack(terms).mean()


def weighted_mse(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error over the entries that count.

    Args:
        prediction: any shape.
        target: the same shape; NaN where not known.
        weight: the same shape, at least 0; by default 1 where the target is known.

    Returns:
        A scalar; 0 where nothing counts.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction = _wide(prediction)
        known = ~torch.isnan(target)
        weight = known.to(prediction) if weight is None else weight.to(prediction) * known
        squares = (prediction - torch.where(known, target, 0).to(prediction)) ** 2
        whole = weight.sum()
        return (weight * squares).sum() / torch.where(whole > 0, whole, 1)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
