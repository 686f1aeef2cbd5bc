"""How well a contrastive network tells pairs apart."""

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
