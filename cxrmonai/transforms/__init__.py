"""MONAI transforms that MONAI lacks."""

from cxrmonai.transforms.batch import (
    BatchEqualizeHistogramd,
    BatchNormalized,
    BatchRandBlurd,
    BatchRandGeometryd,
    BatchRandIntensityd,
    BatchRepeatd,
    BatchResized,
    BatchScaleIntensityd,
)
from cxrmonai.transforms.files import Letterboxd, LoadRadiographd
from cxrmonai.transforms.preprocessing import PreprocessBatchd, Preprocessing, preprocess
from cxrmonai.transforms.pretext import BatchMaskd, BatchPictured, BatchRandRotateShiftd
from cxrmonai.transforms.views import Viewsd

__all__ = [
    "BatchEqualizeHistogramd",
    "BatchMaskd",
    "BatchNormalized",
    "BatchPictured",
    "BatchRandBlurd",
    "BatchRandGeometryd",
    "BatchRandIntensityd",
    "BatchRandRotateShiftd",
    "BatchRepeatd",
    "BatchResized",
    "BatchScaleIntensityd",
    "Letterboxd",
    "LoadRadiographd",
    "PreprocessBatchd",
    "Preprocessing",
    "Viewsd",
    "preprocess",
]
