"""What every reader returns, and the helpers that readers share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxrmonai.errors import CxrError

MAX_PIXELS = 175_000_000  # below what Pillow refuses to open


@dataclass(frozen=True)
class RawImage:
    """Pixels as they come from a file.

    Attributes:
        pixels: (H, W) grey, bright = dense, in the file's own type and range.
        spacing: (row, column) distance of pixel centres in mm, where the file tells.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None = None


def check_size(path: Path, count: int) -> None:
    """Makes sure that an image of `count` pixels may be read.

    Raises:
        CxrError: it is over `MAX_PIXELS`.
    """
    if count > MAX_PIXELS:
        raise CxrError(f"{path}: the image is over the limit of {MAX_PIXELS // 10**6} million pixels")


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Brings colour to grey by its luma, and lays transparency on black.

    Args:
        pixels: (H, W), or (H, W, C) with grey, grey and alpha, BGR, or BGR and alpha.

    Returns:
        (H, W), same type.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    if pixels.shape[2] == 2:
        colour, alpha = pixels[:, :, 0], pixels[:, :, 1]
    else:
        colour = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_BGR2GRAY)
        alpha = pixels[:, :, 3] if pixels.shape[2] == 4 else None
    if alpha is None:
        return colour
    opaque = np.iinfo(alpha.dtype).max
    return np.rint(colour * (alpha / opaque)).astype(colour.dtype)


def as_spacing(row: float, column: float) -> tuple[float, float] | None:
    """A pixel spacing in mm, or nothing where the numbers are none."""
    return (float(row), float(column)) if np.isfinite([row, column]).all() and min(row, column) > 0 else None


@contextmanager
def quietly(logger_name: str) -> Iterator[None]:
    """Keeps a library's warnings and log from the terminal."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
