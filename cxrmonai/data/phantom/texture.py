"""Vessel trees, mottle, and lines drawn with soft edges."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cxrmonai.data.phantom.anatomy import APEX, Chest, to_picture
from cxrmonai.data.phantom.study import Study

_SUBPIXEL = 4
# Degrees from lateral, downwards positive, of the trunks that leave a hilum, and their relative calibre.
_TRUNKS = ((-82, 0.8), (-58, 0.9), (-36, 0.75), (-14, 0.7), (8, 0.8), (30, 0.95), (50, 1.05), (68, 1.15), (84, 1.0))


def clouds(seed: int, size: int, cells: Sequence[int]) -> np.ndarray:
    """Returns smooth noise of about unit deviation, (size, size) float32, the same scene at every size.

    Args:
        seed: of the noise.
        size: side in pixels.
        cells: knots across the picture of each octave, coarse to fine; finer octaves weigh less.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size), np.float32)
    weight, power = 1.0, 0.0
    for count in cells:
        knots = rng.standard_normal((count, count), dtype=np.float32)
        total += np.float32(weight) * cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
        power += 0.55 * weight**2
        weight *= 0.7
    return total / np.float32(np.sqrt(power))


class Canvas:
    """A finer picture on which lines are drawn in cm of the chest's frame, to be averaged down."""

    def __init__(self, study: Study, size: int) -> None:
        self.study = study
        self.size = size
        self.side = size * max(2, -(-320 // size))
        self.pixels = np.zeros((self.side, self.side), np.uint8)

    def lines(self, paths: Sequence[np.ndarray], width: float, value: float) -> None:
        """Draws paths, each (N, 2) in cm, `width` cm wide, with value 0 to 1; below a pixel of width they fade."""
        pixels = width * self.side / self.study.field
        thickness = max(1, round(pixels))
        level = round(255 * min(1.0, value * min(1.0, pixels / thickness)))
        cv2.polylines(self.pixels, self._fixed(paths), False, level, thickness, cv2.LINE_AA, _SUBPIXEL)

    def fill(self, path: np.ndarray, value: float) -> None:
        """Fills the outline `path`, (N, 2) in cm, with value 0 to 1."""
        cv2.fillPoly(self.pixels, self._fixed([path]), round(255 * value), cv2.LINE_AA, _SUBPIXEL)

    def coverage(self) -> np.ndarray:
        """Returns what was drawn, (size, size) float32, 0 to 1."""
        small = cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def _fixed(self, paths: Sequence[np.ndarray]) -> list[np.ndarray]:
        points = to_picture(self.study, np.concatenate(paths), self.side) - 0.5
        fixed = np.round(points * (1 << _SUBPIXEL)).astype(np.int32).reshape(-1, 1, 2)
        ends = np.cumsum([len(path) for path in paths])
        return [fixed[end - len(path) : end] for path, end in zip(paths, ends, strict=True)]


def vessels(chest: Chest, size: int) -> np.ndarray:
    """Returns the thickness of the branching vessels of both lungs, (size, size) float32 in cm."""
    rng = np.random.default_rng(chest.study.body.seed)
    canvas = Canvas(chest.study, size)
    generations = [_tree(chest, side, rng) for side in (-1, 1)]
    for level in reversed(range(len(generations[0]))):
        for generation in generations:
            paths, radii = generation[level]
            for heavy in (False, True):
                chosen = (radii > np.median(radii)) == heavy
                if chosen.any():
                    radius = float(radii[chosen].mean())
                    canvas.lines(list(paths[chosen]), 1.7 * radius, min(1.0, radius / 0.42 + 0.10))
    return 1.15 * canvas.coverage()


def _tree(chest: Chest, side: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns per generation the paths (N, 5, 2) in cm and radii (N,) in cm of one lung's vessels."""
    hilum = np.array(chest.hilum[side]) * [1, 1] + [side * 0.2 + 0.5 * chest.study.turn, 0]
    angle = np.radians([a for a, _ in _TRUNKS]) + rng.normal(0, 0.12, len(_TRUNKS))
    radius = 0.36 * np.array([r for _, r in _TRUNKS]) * rng.uniform(0.8, 1.15, len(_TRUNKS))
    down = chest.dome[side] - hilum[1] + 2
    up = hilum[1] - APEX
    start = np.repeat(hilum[None], len(_TRUNKS), axis=0) + rng.normal(0, 0.35, (len(_TRUNKS), 2))
    generations = []
    share = 0.36
    for _ in range(6):
        stretch = np.stack([np.full(len(angle), chest.wide - 3.0), np.where(np.sin(angle) > 0, down, up)], axis=1)
        bend = rng.normal(0, 0.22, len(angle))
        length = share * rng.uniform(0.65, 1.2, len(angle))
        steps = np.linspace(0, 1, 5)
        turned = angle[:, None] + bend[:, None] * steps
        move = np.stack([side * np.cos(turned), np.sin(turned)], axis=2) * stretch[:, None] * length[:, None, None] / 5
        paths = start[:, None] + np.cumsum(move, axis=1) - move[:, :1]
        generations.append((paths, radius))
        fork = rng.uniform(0.18, 0.55, (len(angle), 2)) * [-1, 1]
        angle = (turned[:, -1:] + fork).ravel()
        start = np.repeat(paths[:, -1], 2, axis=0)
        radius = np.repeat(radius, 2) * rng.uniform(0.55, 0.80, 2 * len(radius))
        share *= 0.70
    return generations
