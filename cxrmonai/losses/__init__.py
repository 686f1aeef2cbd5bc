"""Losses."""

from cxrmonai.losses.by_name import make_loss
from cxrmonai.losses.classification import (
    FocalLoss,
    MaskedBCELoss,
    MaskedCrossEntropyLoss,
    WeightedCELoss,
    class_weights,
    pos_weights,
)
from cxrmonai.losses.contrastive import NTXentLoss

__all__ = [
    "FocalLoss",
    "MaskedBCELoss",
    "MaskedCrossEntropyLoss",
    "NTXentLoss",
    "WeightedCELoss",
    "class_weights",
    "make_loss",
    "pos_weights",
]
