"""The branch that sees an image in pieces (Misra and van der Maaten, PIRL, 2020)."""

from __future__ import annotations

import torch
from torch import nn

from cxrmonai.transforms.jigsaw import GRID

PIECES = GRID * GRID


class JigsawHead(nn.Module):
    """Joins the features of an image's pieces into one embedding.

    Each piece is projected alone, the projections are put side by side in the order in which the pieces come
    (`transforms.BatchJigsawd` has shuffled them), and a linear layer makes one embedding of them.

    Args:
        in_features: length of the encoder's features.
        out_features: length of a projection and of the embedding.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.piece = nn.Linear(in_features, out_features)
        self.whole = nn.Linear(PIECES * out_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(9·B, in_features), the nine pieces of an image in a row → (B, out_features)."""
        return self.whole(self.piece(features).view(len(features) // PIECES, -1))
