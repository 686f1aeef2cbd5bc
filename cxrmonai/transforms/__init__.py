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
from cxrmonai.transforms.preprocessing import BatchSeenPartd, PreprocessBatchd, Preprocessing, preprocess
from cxrmonai.transforms.views import Viewsd

__all__ = [
    "BatchEqualizeHistogramd",
    "BatchNormalized",
    "BatchRandBlurd",
    "BatchRandGeometryd",
    "BatchRandIntensityd",
    "BatchRepeatd",
    "BatchResized",
    "BatchScaleIntensityd",
    "BatchSeenPartd",
    "Letterboxd",
    "LoadRadiographd",
    "PreprocessBatchd",
    "Preprocessing",
    "Viewsd",
    "preprocess",
]
