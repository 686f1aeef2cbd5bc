"""Small pictures of radiographs, their hashes, and how far two agree.

The hash is a perceptual one (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): signs
of the low frequencies of a cosine transform. Chest radiographs are so alike that the usual 64 of them collide; here
there are 255.
"""

from __future__ import annotations

import cv2
import numpy as np

from cxrmonai.data.geometry import content_window

EDGE = 64
HASH_WORDS = 16
_FINE, _COARSE = 1.0, 4.0


def content(image: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """The radiograph without its padding, as a view of the (S, S) store image; one pixel at least."""
    rows, columns = content_window(geometry)
    inner = image[rows, columns]
    return inner if inner.size else image


def thumbnail(radiograph: np.ndarray) -> np.ndarray:
    """Resizes a radiograph to 64 × 64, whatever its aspect.

    Args:
        radiograph: (H, W) uint8 or uint16 without padding.

    Returns:
        (64, 64) float32 in the same grey values.
    """
    shrinks = min(radiograph.shape) >= EDGE
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(radiograph.astype(np.float32), (EDGE, EDGE), interpolation=method)


def equalised(pictures: np.ndarray) -> np.ndarray:
    """Replaces grey values by their ranks in 256 steps, so that brightness, contrast and gamma no longer matter.

    Args:
        pictures: (B, h, w) float.

    Returns:
        (B, h, w) float32 in (0, 1); equal values share the middle of their ranks.
    """
    flat = pictures.reshape(len(pictures), -1)
    low = flat.min(1, keepdims=True)
    span = np.maximum(flat.max(1, keepdims=True) - low, 1e-6)
    steps = np.rint((flat - low) * (255 / span)).astype(np.int64) + 256 * np.arange(len(flat))[:, None]
    counts = np.bincount(steps.ravel(), minlength=256 * len(flat)).reshape(-1, 256)
    ranks = (np.cumsum(counts, 1) - counts / 2) / flat.shape[1]
    return ranks.ravel()[steps].reshape(pictures.shape).astype(np.float32)


def unit_vectors(pictures: np.ndarray) -> np.ndarray:
    """(B, h·w) pictures without their mean and of length 1, so that a product is a correlation; 0 where constant."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-6)


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Hashes of 255 bits: the signs of the 16 × 16 lowest frequencies but the mean.

    Args:
        thumbnails: (B, 64, 64) float32.

    Returns:
        (B, 16) uint16. A word holds one bit of each row and of each column of the frequencies, so that no word has the
        lowest ones alone, in which all radiographs agree. A negative has all bits but the first turned.
    """
    signs = (_COSINES @ thumbnails @ _COSINES.T) > 0
    signs[:, 0, 0] = False
    words = np.packbits(signs.reshape(len(signs), -1)[:, _LATIN].reshape(-1, HASH_WORDS, 16), axis=2, bitorder="little")
    return words.reshape(len(signs), -1).view("<u2").astype(np.uint16)


def negated(words: np.ndarray) -> np.ndarray:
    """(B, 16) hashes of the negatives."""
    return words ^ _ALL_BITS


def signatures(thumbnails: np.ndarray) -> np.ndarray:
    """What two thumbnails are compared by: details of 1 to 4 pixels, as they are and with equalised grey values.

    What is coarser is alike in all radiographs, what is finer is lost by resizing and compression.

    Args:
        thumbnails: (B, 64, 64) float32.

    Returns:
        (B, 2, 4096) float32, each of length 1.
    """
    kinds = (thumbnails, equalised(thumbnails))
    return np.stack([unit_vectors(np.stack([_details(picture) for picture in kind])) for kind in kinds], axis=1)


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) the better of the two correlations of (P, 2, 4096) `signatures`, from -1 to 1.

    Equalising undoes gamma, which the plain grey values mind; these in turn bear clipping, which moves all ranks.
    """
    return np.einsum("pkn,pkn->pk", first, second).max(1)


def _details(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), _FINE) - cv2.GaussianBlur(picture, (0, 0), _COARSE)


def _latin_order() -> np.ndarray:
    rows, columns = np.divmod(np.arange(HASH_WORDS * 16), 16)
    return np.argsort((rows + columns) % 16, kind="stable")


_COSINES = cv2.dct(np.eye(EDGE, dtype=np.float32), flags=cv2.DCT_ROWS).T[:16].copy()
_LATIN = _latin_order()
_ALL_BITS = np.array([0xFFFE] + [0xFFFF] * (HASH_WORDS - 1), np.uint16)
