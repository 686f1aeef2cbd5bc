"""How well a network's embeddings tell pairs apart, and how much of their space they use."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def contrastive_accuracy(embeddings: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """Share of embeddings whose nearest other embedding, by cosine, is their partner.

    Args:
        embeddings: (2N, D), first views then second views in the same order.
        target: not used; MONAI's engines pass one.

    Returns:
        A scalar tensor in 0–1.
    """
    with torch.no_grad():
        own = torch.nn.functional.normalize(embeddings.float(), dim=1)
        similarity = (own @ own.T).fill_diagonal_(float("-inf"))
        partner = torch.arange(len(own), device=own.device).roll(len(own) // 2)
        return (similarity.argmax(1) == partner).float().mean()


def deviations(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """What sets embeddings apart from those of the same batch; a network that drifts from step to step adds nothing.

    Args:
        batches: (N_k, D) each, of any length; they are normalised here. Those of one embedding are left out.

    Returns:
        (N, D) float64, unit embeddings less the mean of their batch.
    """
    with torch.no_grad():
        unit = [torch.nn.functional.normalize(batch.double(), dim=1) for batch in batches if len(batch) > 1]
        return torch.cat([batch - batch.mean(0) for batch in unit]) if unit else torch.zeros(0, 0)


def spread(deviations: torch.Tensor) -> float:
    """Root mean square distance of unit embeddings from their mean.

    Divided by √D it is the standard deviation per dimension that SimSiam's authors watch (Chen and He, 2021).

    Args:
        deviations: (N, D), see there.

    Returns:
        0 where all point the same way, 1 where they surround the origin evenly; NaN of none.
    """
    return deviations.square().sum(1).mean().sqrt().item()


def effective_rank(deviations: torch.Tensor) -> float:
    """Number of dimensions that embeddings use: e to the entropy of their singular values (Roy and Vetterli, 2007).

    Args:
        deviations: (N, D), see there.

    Returns:
        1 to the smaller of N and D; 0 where all point the same way; NaN of none.
    """
    if not deviations.numel():
        return float("nan")
    values = torch.linalg.svdvals(deviations)
    if values[0] <= 1e-9 * len(deviations) ** 0.5:
        return 0.0
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()
