"""From the depth of a file to the depth of a store."""

from __future__ import annotations

import numpy as np

from cxrmonai.data.geometry import letterbox


def to_full_range(pixels: np.ndarray) -> np.ndarray:
    """Brings pixels to the full range of uint16.

    8-bit pixels are multiplied by 257. Deeper ones are stretched from their own minimum and maximum, since 10, 12 and
    14 bit images travel in 16-bit files and would be almost black otherwise.

    Args:
        pixels: (H, W), any numeric type, finite.

    Returns:
        (H, W) uint16; zeros where an image deeper than 8 bit is constant.
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257
    low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.zeros(pixels.shape, np.uint16)
    stretched = (pixels.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(stretched).astype(np.uint16)


def to_store_pixels(pixels: np.ndarray, size: int, depth: int = 8) -> np.ndarray:
    """Fits an image into a square of the store's type, as `geometry.letterbox` and `to_full_range` say.

    Args:
        pixels: (H, W) from a file.
        size: edge of the square in pixels.
        depth: 8 or 16 bits.

    Returns:
        (size, size) uint8 or uint16.
    """
    if depth == 8 and pixels.dtype == np.uint8:
        return letterbox(pixels, size)
    top, kind = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    low, high = (0, 255) if pixels.dtype == np.uint8 else (pixels.min(), pixels.max())
    if high <= low:
        return np.zeros((size, size), kind)
    # Stretched after resizing, which is linear: the same but for rounding, and done on far fewer pixels.
    if pixels.dtype.itemsize <= 2:
        share = (pixels.astype(np.float32) - np.float32(low)) * np.float32(1 / (float(high) - float(low)))
    else:
        share = ((pixels.astype(np.float64) - float(low)) / (float(high) - float(low))).astype(np.float32)
    boxed = letterbox(share, size)
    return np.rint(np.clip(boxed * top, 0, top)).astype(kind)
