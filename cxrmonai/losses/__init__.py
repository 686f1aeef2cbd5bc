"""Losses."""

from cxrmonai.losses.affinity import AffinityLoss
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
from cxrmonai.losses.segmentation import SoftDiceLoss, SummedLoss, make_segmentation_loss

__all__ = [
    "AffinityLoss",
    "BarlowTwinsLoss",
    "CosineLoss",
    "FocalLoss",
    "MaskedBCELoss",
    "MaskedCrossEntropyLoss",
    "MemoryContrastLoss",
    "NTXentLoss",
    "SelfDistillationLoss",
    "SoftDiceLoss",
    "SummedLoss",
    "WeightedCELoss",
    "class_weights",
    "make_loss",
    "make_segmentation_loss",
    "pos_weights",
]
