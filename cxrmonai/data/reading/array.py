"""NumPy's own files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cxrmonai.data.reading.base import RawImage, check_size, to_grey
from cxrmonai.errors import CxrError


def read_npy(path: Path) -> RawImage:
    """Reads an array of shape (H, W), or (H, W, C) with grey, RGB or RGBA.

    uint8 and uint16 stay as they are; all other types become float32.

    Raises:
        CxrError: the file is no plain array, damaged or too large, or its shape, type or values are no radiograph's.
    """
    try:
        pixels = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CxrError(f"{path}: not a plain NumPy array file, or a damaged one; save it with numpy.save") from error
    if not isinstance(pixels, np.ndarray):
        pixels.close()
        raise CxrError(f"{path}: an archive of arrays (npz); save the one array with numpy.save")
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
        pixels = pixels[:, :, order]
    elif pixels.ndim != 2:
        raise CxrError(f"{path}: an array of shape {pixels.shape} is no radiograph; it must be (H, W) or (H, W, 1|3|4)")
    check_size(path, pixels.size)
    if pixels.size == 0 or pixels.dtype.kind not in "uifb":
        raise CxrError(
            f"{path}: an array of shape {pixels.shape} and type {pixels.dtype} cannot be read as a radiograph"
        )
    pixels = np.array(pixels)
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = to_float(path, pixels)
    if pixels.ndim == 3 and pixels.dtype == np.float32 and pixels.shape[2] == 4:
        raise CxrError(f"{path}: a float array with an alpha channel is ambiguous; save it as (H, W)")
    return RawImage(to_grey(pixels))


def to_float(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Brings numbers to float32.

    Raises:
        CxrError: some are not finite there.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise CxrError(f"{path}: the array holds NaN, infinite values or such as float32 cannot hold")
    return pixels
