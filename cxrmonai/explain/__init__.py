"""Seeing why: attribution maps behind one call, and what is made of them."""

from cxrmonai.explain.attribution import METHODS, Attribution, attribute, attribute_with_logits
from cxrmonai.explain.heatmaps import Heatmaps, HeatmapWriter

__all__ = ["METHODS", "Attribution", "HeatmapWriter", "Heatmaps", "attribute", "attribute_with_logits"]
"""Why a classifier says what it says: attribution maps, their faithfulness, and images made to its taste."""
