"""MONAI transforms that MONAI lacks."""

from cxrmonai.transforms.batch import (
    BatchEqualizeHistogramd,
    BatchMaskTargetd,
    BatchNormalized,
    BatchRandBlurd,
    BatchRandGeometryd,
    BatchRandIntensityd,
    BatchRepeatd,
    BatchResized,
    BatchScaleIntensityd,
)
from cxrmonai.transforms.files import Letterboxd, LoadRadiographd
from cxrmonai.transforms.high_pass import BatchHighPassd
from cxrmonai.transforms.jigsaw import BatchJigsawd, jigsaw_edge
from cxrmonai.transforms.partners import BatchPartnerd
from cxrmonai.transforms.preprocessing import BatchSeenPartd, PreprocessBatchd, Preprocessing, preprocess
from cxrmonai.transforms.pretext import BatchMaskd, BatchPictured, BatchRandRotateShiftd
from cxrmonai.transforms.strong import BatchRandAugmentd
from cxrmonai.transforms.views import Viewsd

__all__ = [
    "BatchEqualizeHistogramd",
    "BatchHighPassd",
    "BatchJigsawd",
    "BatchMaskTargetd",
    "BatchMaskd",
    "BatchNormalized",
    "BatchPartnerd",
    "BatchPictured",
    "BatchRandAugmentd",
    "BatchRandBlurd",
    "BatchRandGeometryd",
    "BatchRandIntensityd",
    "BatchRandRotateShiftd",
    "BatchRepeatd",
    "BatchResized",
    "BatchScaleIntensityd",
    "BatchSeenPartd",
    "Letterboxd",
    "LoadRadiographd",
    "PreprocessBatchd",
    "Preprocessing",
    "Viewsd",
    "jigsaw_edge",
    "preprocess",
]
