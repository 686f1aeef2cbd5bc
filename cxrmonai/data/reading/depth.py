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
    boxed = letterbox(to_full_range(pixels), size)
    return boxed if depth == 16 else np.rint(boxed / 257).astype(np.uint8)
