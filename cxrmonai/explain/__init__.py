"""Why a classifier says what it says: attribution maps and what is made of them, and images made to its taste."""

from cxrmonai.explain.attribution import METHODS, Attribution, attribute, attribute_with_logits
from cxrmonai.explain.heatmaps import Heatmaps, HeatmapWriter

__all__ = ["METHODS", "Attribution", "HeatmapWriter", "Heatmaps", "attribute", "attribute_with_logits"]
