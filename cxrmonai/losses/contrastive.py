"""Contrastive losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError


class NTXentLoss(nn.Module):
    """Normalised temperature-scaled cross-entropy (Chen et al., SimCLR, 2020).

    Each of 2N embeddings is told from all others by its partner; the mean over all 2N is returned. With several ranks
    the others are those of every rank, and the average that DDP takes of the ranks' gradients equals the gradient of
    one rank on the joined batch. Similarities are computed in float32 at least, whatever the precision of the
    embeddings.

    Args:
        temperature: divides the cosine similarities.
        gather: whether negatives come from all ranks; every rank must then have as many embeddings.

    Raises:
        CxrError: the temperature is not above 0.
    """

    def __init__(self, temperature: float = 0.5, gather: bool = True) -> None:
        super().__init__()
        if temperature <= 0:
            raise CxrError(f"temperature {temperature}: must be above 0")
        self.temperature, self.gather = temperature, gather

    def forward(self, embeddings: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """The loss.

        Args:
            embeddings: (2N, D), first views then second views in the same order; any length, they are normalised here.
            target: not used; MONAI's engines pass one.

        Returns:
            A scalar; 0 for a single pair without negatives.

        Raises:
            CxrError: an odd number of embeddings.
        """
        logits, positive = pair_logits(embeddings, self.gather)
        return F.cross_entropy(logits / self.temperature, positive)


def pair_logits(embeddings: torch.Tensor, gather: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarities of this rank's embeddings with everyone's.

    Args:
        embeddings: (2N, D), first views then second views.
        gather: whether everyone is on all ranks.

    Returns:
        (2N, 2N·R) similarities, −∞ where an embedding meets itself; and (2N,) the column of its partner.

    Raises:
        CxrError: an odd number of embeddings.
    """
    count = len(embeddings)
    if count % 2:
        raise CxrError(f"{count} embeddings cannot be two views of a batch")
    with torch.autocast(embeddings.device.type, enabled=False):
        wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        own = F.normalize(wide, dim=1)
        everyone = distributed.gather(own).flatten(0, 1) if gather else own
        first = distributed.rank() * count if gather and distributed.world_size() > 1 else 0
        logits = own @ everyone.T
        places = torch.arange(count, device=own.device)
        logits = logits.scatter(1, (first + places)[:, None], float("-inf"))
    return logits, first + places.roll(count // 2)
