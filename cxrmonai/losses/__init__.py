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
from cxrmonai.losses.joint_embedding import BarlowTwinsLoss, CosineLoss, MemoryContrastLoss, SelfDistillationLoss

__all__ = [
    "BarlowTwinsLoss",
    "CosineLoss",
    "FocalLoss",
    "MaskedBCELoss",
    "MaskedCrossEntropyLoss",
    "MemoryContrastLoss",
    "NTXentLoss",
    "SelfDistillationLoss",
    "WeightedCELoss",
    "class_weights",
    "make_loss",
    "pos_weights",
]
