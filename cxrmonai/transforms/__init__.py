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
from cxrmonai.transforms.preprocessing import PreprocessBatchd, Preprocessing, preprocess
from cxrmonai.transforms.views import Viewsd

__all__ = [
    "BatchEqualizeHistogramd",
    "BatchMaskTargetd",
    "BatchNormalized",
    "BatchRandBlurd",
    "BatchRandGeometryd",
    "BatchRandIntensityd",
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
