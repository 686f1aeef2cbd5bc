"""Masks as run lengths, in the JSON text that COCO and CheXlocalize exchange: `{"size": [h, w], "counts": "…"}`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from cxrmonai.data.reading import MAX_PIXELS
from cxrmonai.errors import CxrError

MASK_UNKNOWN = 255  # in masks of uint8, beside 0 outside and 1 inside: not drawn, to be ignored, or beyond the image


def rle_of_runs(runs: Sequence[int], height: int, width: int) -> str:
    """Run lengths from alternating runs outside and inside, down the columns, beginning outside.

    Args:
        runs: lengths; what is missing to `height * width` is outside.
        height: of the mask in pixels.
        width: of the mask in pixels.

    Returns:
        JSON text.

    Raises:
        CxrError: the runs are negative or longer than the mask.
    """
    counts = [int(run) for run in runs]
    rest = height * width - sum(counts)
    if rest < 0 or min(counts, default=0) < 0:
        raise CxrError(f"run lengths of {sum(counts)} pixels do not fit a mask of {height}×{width}")
    if len(counts) % 2 == 0:
        counts.append(rest)
    else:
        counts[-1] += rest
    return _text(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def encode_rle(mask: np.ndarray) -> str:
    """A (H, W) bool mask as JSON text."""
    return _text(coco.encode(np.asfortranarray(mask.astype(np.uint8))))


def decode_rle(text: str) -> np.ndarray:
    """The (H, W) bool mask of a JSON text.

    Raises:
        CxrError: the text is no such mask.
    """
    try:
        found = json.loads(text)
        height, width = (int(edge) for edge in found["size"])
        runs = _runs(found["counts"].encode("ascii"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CxrError("a mask's run lengths are not COCO's JSON with size and counts") from error
    if min(height, width) < 1 or min(runs, default=0) < 0 or sum(runs) != height * width or sum(runs) > MAX_PIXELS:
        raise CxrError(f"a mask's run lengths do not fit its size of {height}×{width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape((height, width), order="F")


def _runs(counts: bytes) -> list[int]:
    """COCO's packing: 5 bits a character, least first, signed; from the fourth run on the difference to two before."""
    runs: list[int] = []
    value = shift = 0
    for code in counts:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {code}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the last number is cut off")
    return runs


def _text(rle: dict) -> str:
    return json.dumps({"size": [int(edge) for edge in rle["size"]], "counts": rle["counts"].decode("ascii")})
