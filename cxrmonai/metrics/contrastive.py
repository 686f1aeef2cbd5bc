"""How well a network's embeddings tell pairs apart, and how much of their space they use."""

from __future__ import annotations

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


def spread(embeddings: torch.Tensor) -> float:
    """How far embeddings of unit length lie from their mean: √(1 − |mean|²).

    It is the root mean square distance; divided by √D it is the standard deviation per dimension that SimSiam's authors
    watch (Chen and He, 2021).

    Args:
        embeddings: (N, D), of any length; they are normalised here.

    Returns:
        0 where all point the same way, 1 where they surround the origin evenly.
    """
    with torch.no_grad():
        own = torch.nn.functional.normalize(embeddings.double(), dim=1)
        return (own - own.mean(0)).square().sum(1).mean().sqrt().item()


def effective_rank(embeddings: torch.Tensor) -> float:
    """Number of dimensions that embeddings use: e to the entropy of their singular values (Roy and Vetterli, 2007).

    Args:
        embeddings: (N, D); normalised to unit length and centred here.

    Returns:
        1 to the smaller of N − 1 and D; 0 where all point the same way.
    """
    with torch.no_grad():
        own = torch.nn.functional.normalize(embeddings.double(), dim=1)
        values = torch.linalg.svdvals(own - own.mean(0))
        if not values.numel() or values[0] <= 1e-9 * len(own) ** 0.5:
            return 0.0
        share = values / values.sum()
        return torch.special.entr(share).sum().exp().item()
