"""Masks from maps: pseudo-labels, their refinement and propagation."""

from cxrmonai.segmentation.crf import CrfSettings, refine
from cxrmonai.segmentation.defaults import find_classifier
from cxrmonai.segmentation.finding_maps import (
    FindingMaps,
    MaskCheck,
    PseudoMaskWriter,
    beside,
    classifier_of,
    finish_irnet,
    make_finding_maps,
    make_thresholds,
    pseudo_mask_rows,
    share_of,
)
from cxrmonai.segmentation.propagation import WalkSettings, propagate, spread_maps
from cxrmonai.segmentation.pseudo_labels import draw_subset, masks_of_maps, read_into_store, write_mask_file
from cxrmonai.segmentation.seeds import MapSource, SeedSettings, ir_labels, write_ir_labels

__all__ = [
    "CrfSettings",
    "FindingMaps",
    "MapSource",
    "MaskCheck",
    "PseudoMaskWriter",
    "SeedSettings",
    "WalkSettings",
    "beside",
    "classifier_of",
    "draw_subset",
    "find_classifier",
    "finish_irnet",
    "ir_labels",
    "make_finding_maps",
    "make_thresholds",
    "masks_of_maps",
    "propagate",
    "pseudo_mask_rows",
    "read_into_store",
    "refine",
    "share_of",
    "spread_maps",
    "write_ir_labels",
    "write_mask_file",
]
