"""Losses."""

from cxrmonai.losses.contrastive import NTXentLoss

__all__ = ["NTXentLoss"]
