"""Telling negatives from radiographs by a frontal chest as the phantom has it: air dark, bone and belly bright."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cxrmonai.data.phantom import draw_population, render
from cxrmonai.data.quality.thumbnails import EDGE, equalised, unit_vectors

CORRELATION = -0.2
MARGIN = 0.1
_COARSE = 16
_PATIENTS = 6


def looks_inverted(thumbnails: np.ndarray) -> np.ndarray:
    """Whether air is bright in frontal radiographs.

    A coarse picture is correlated with the mean phantom. A negative is one whose correlation is clearly negative, and
    which no phantom on its side or head explains clearly better: an image that is only turned is not taken for one.

    Args:
        thumbnails: (B, 64, 64) float32.

    Returns:
        (B,) bool.
    """
    upright, *turned = _templates()
    pictures = _coarse(thumbnails)
    correlation = pictures @ upright
    return (correlation < CORRELATION) & (MARGIN - correlation > (pictures @ np.stack(turned, axis=1)).max(1))


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    step = EDGE // _COARSE
    small = thumbnails.reshape(len(thumbnails), _COARSE, step, _COARSE, step).mean((2, 4))
    return unit_vectors(equalised(small))


@lru_cache(maxsize=1)
def _templates() -> np.ndarray:
    """(4, 256) the mean phantom upright and after one, two and three quarter turns."""
    phantoms = [render(study, EDGE).image.astype(np.float32) for study in draw_population(_PATIENTS, seed=0)]
    mean = _coarse(np.stack(phantoms)).mean(0).reshape(_COARSE, _COARSE)
    return unit_vectors(np.stack([np.rot90(mean, turns) for turns in range(4)]))
