"""From store pixels to original pixels and back.

Coordinates are continuous: pixel `i` covers [i, i + 1), so `store = original * scale + offset` on each axis holds for
box edges as well as for points, and the centre of pixel `i` is at `i + 0.5`.
"""

from __future__ import annotations

import cv2
import numpy as np

from cxrmonai.errors import CxrError

GEOMETRY_COLUMNS = ("height", "width", "scale_y", "scale_x", "offset_y", "offset_x", "spacing_y", "spacing_x")
HEIGHT, WIDTH, SCALE_Y, SCALE_X, OFFSET_Y, OFFSET_X, SPACING_Y, SPACING_X = range(8)


def letterbox_geometry(
    height: int,
    width: int,
    size: int,
    original: tuple[float, float] | None = None,
    spacing: tuple[float, float] | None = None,
) -> np.ndarray:
    """How an image of `height` × `width` lies in a square of `size`: aspect kept, centred, padded.

    Args:
        height: rows of the file's image.
        width: columns of the file's image.
        size: edge of the square in pixels.
        original: (height, width) of the frame that boxes and masks are given in, where it is not the file's own (a
            thumbnail of a larger original, say).
        spacing: (row, column) distance of pixel centres in that frame, in mm.

    Returns:
        (8,) float64 in the order of `GEOMETRY_COLUMNS`.

    Raises:
        CxrError: `original` has another aspect than the file.
    """
    rows, columns = letterbox_shape(height, width, size)
    frame = (height, width) if original is None else original
    if not same_aspect((height, width), frame):
        raise CxrError(
            f"the image is {width}×{height} but its original is given as {frame[1]:g}×{frame[0]:g}, another aspect"
        )
    spacing = (np.nan, np.nan) if spacing is None else spacing
    return np.array(
        [
            frame[0],
            frame[1],
            rows / frame[0],
            columns / frame[1],
            (size - rows) // 2,
            (size - columns) // 2,
            spacing[0],
            spacing[1],
        ],
        dtype=np.float64,
    )


def same_aspect(shape: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two (height, width) are of one aspect, but for rounding to whole pixels."""
    return abs(shape[0] / shape[1] * other[1] / other[0] - 1) <= 2 / min(*shape, *other)


def letterbox_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns that the image takes in the square; at least 1 each."""
    scale = size / max(height, width)
    return max(1, min(size, round(height * scale))), max(1, min(size, round(width * scale)))


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Fits an image into a square: aspect kept, area resampling when it shrinks, zero-padded on both sides.

    Args:
        image: (H, W), any numeric type that OpenCV resizes.
        size: edge of the square in pixels.

    Returns:
        (size, size), same type.
    """
    rows, columns = letterbox_shape(*image.shape, size)
    if image.shape == (size, size):
        return image
    shrinks = rows < image.shape[0] or columns < image.shape[1]
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if (rows, columns) == (size, size):
        return resized
    square = np.zeros((size, size), dtype=image.dtype)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = resized
    return square


def points_to_store(points: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Maps (…, 2) points [x, y] from original to store pixels; `geometry` is (8,) or (…, 8)."""
    points, geometry = np.asarray(points, dtype=float), np.asarray(geometry, dtype=float)
    return points * geometry[..., [SCALE_X, SCALE_Y]] + geometry[..., [OFFSET_X, OFFSET_Y]]


def points_to_original(points: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Maps (…, 2) points [x, y] from store to original pixels; the inverse of `points_to_store`."""
    points, geometry = np.asarray(points, dtype=float), np.asarray(geometry, dtype=float)
    return (points - geometry[..., [OFFSET_X, OFFSET_Y]]) / geometry[..., [SCALE_X, SCALE_Y]]


def boxes_to_store(boxes: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Maps (…, 4) boxes [x, y, w, h] from original to store pixels."""
    boxes, geometry = np.asarray(boxes, dtype=float), np.asarray(geometry, dtype=float)
    corner = points_to_store(boxes[..., :2], geometry)
    return np.concatenate([corner, boxes[..., 2:] * geometry[..., [SCALE_X, SCALE_Y]]], axis=-1)


def boxes_to_original(boxes: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Maps (…, 4) boxes [x, y, w, h] from store to original pixels; the inverse of `boxes_to_store`."""
    boxes, geometry = np.asarray(boxes, dtype=float), np.asarray(geometry, dtype=float)
    corner = points_to_original(boxes[..., :2], geometry)
    return np.concatenate([corner, boxes[..., 2:] / geometry[..., [SCALE_X, SCALE_Y]]], axis=-1)


def content_window(geometry: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the store image that hold the radiograph, without the padding."""
    top, left = int(geometry[OFFSET_Y]), int(geometry[OFFSET_X])
    rows = round(geometry[HEIGHT] * geometry[SCALE_Y])
    columns = round(geometry[WIDTH] * geometry[SCALE_X])
    return slice(top, top + rows), slice(left, left + columns)


def map_to_original(array: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Returns a map of store geometry at original size: padding cut off, then resized bilinearly.

    Args:
        array: (S, S) heatmap or image.
        geometry: (8,) of its image.

    Returns:
        (height, width), same type.
    """
    window = np.ascontiguousarray(array[content_window(geometry)])
    target = (int(geometry[WIDTH]), int(geometry[HEIGHT]))
    return cv2.resize(window, target, interpolation=cv2.INTER_LINEAR)


def mask_to_original(mask: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Returns a boolean mask of store geometry at original size, its edge where the interpolated mask is one half.

    Args:
        mask: (S, S) bool.
        geometry: (8,) of its image.

    Returns:
        (height, width) bool.
    """
    return map_to_original(mask.astype(np.float32), geometry) >= 0.5
