"""Heads that a pretraining loss sees in place of the encoder's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError

HEADS = ("linear", "mlp", "mlp_plain", "mlp3", "prototypes")
BOTTLENECK = 256  # in front of DINO's prototypes


def projection_head(in_features: int, out_features: int, kind: str = "mlp", hidden: int = 0) -> nn.Sequential:
    """A projection head, or a predictor.

    Args:
        in_features: length of the encoder's features.
        out_features: length of the projection.
        kind: `linear`; `mlp`: linear, batch norm, ReLU, linear (SimCLR, BYOL); `mlp_plain`: the same without the norm
            (MoCo v2); `mlp3`: three linear layers, each followed by a batch norm, the last of which has no weights
            (SimSiam; Barlow Twins' loss standardises likewise); or `prototypes` (DINO): three layers with GELU to
            256 numbers of unit length, compared with `out_features` directions.
        hidden: width of the hidden layers; 0 for `in_features`.

    Raises:
        CxrError: unknown kind.
    """
    hidden = hidden or in_features
    if kind == "linear":
        return nn.Sequential(nn.Linear(in_features, out_features))
    if kind == "mlp":
        return nn.Sequential(*_layer(in_features, hidden), nn.Linear(hidden, out_features))
    if kind == "mlp_plain":
        return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_features))
    if kind == "mlp3":
        last = (nn.Linear(hidden, out_features, bias=False), nn.BatchNorm1d(out_features, affine=False))
        return nn.Sequential(*_layer(in_features, hidden), *_layer(hidden, hidden), *last)
    if kind == "prototypes":
        layers = [nn.Linear(in_features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(hidden, BOTTLENECK), Directions(BOTTLENECK, out_features))
    raise CxrError(f"head '{kind}': known are {', '.join(HEADS)}")


def _layer(in_features: int, out_features: int) -> tuple[nn.Module, ...]:
    return nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features), nn.ReLU(inplace=True)


class Directions(nn.Module):
    """Cosines of embeddings with learned directions, DINO's last layer with its lengths fixed at 1.

    Args:
        in_features: length of an embedding.
        out_features: number of directions.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * in_features**-0.5)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, in_features) → (B, out_features)."""
        return F.linear(F.normalize(embeddings, dim=1), F.normalize(self.weight, dim=1))
