"""Ribs, spine, clavicles, scapulae and upper arms as thickness of bone along the beam."""

from __future__ import annotations

import numpy as np

from cxrmonai.data.phantom.anatomy import APEX, Chest, Soft, chord, ramp
from cxrmonai.data.phantom.study import Lesion

_RIB_END = (2.55, 2.5, 2.45, 2.45, 2.42, 2.38, 2.3, 2.15, 1.95, 1.75, 1.35, 1.0)
_SAMPLES = 22
_BACK, _FRONT = 1.0, 0.62


def rib_path(chest: Chest, rib: int, side: int, start: float, stop: float, samples: int = _SAMPLES) -> np.ndarray:
    """Returns a stretch of a rib's midline.

    Args:
        chest: the chest.
        rib: 1 to 12.
        side: -1 or 1.
        start: angle round the chest, 0 at the spine, pi/2 at the side, in radians.
        stop: the same of the other end.
        samples: number of points.

    Returns:
        (samples, 3): x, y in cm, and the lengthening of the beam's path through the rib where it runs front to back.
    """
    pitch = 0.1 * (chest.study.body.lung_length + 0.5)
    tilt = (
        chest.study.body.rib_tilt * (0.42 + 0.58 * min((rib - 1) / 4, 1))
        + 0.2 * max(rib - 7, 0)
        + 1.6 * max(rib - 9, 0)
    )
    tilt += 0.25 * chest.study.inspiration
    head = APEX - 0.1 + (rib - 1) * pitch
    angle = np.linspace(start, stop, samples)
    y = head + tilt * 0.5 * (1 - np.cos(angle)) - 0.55 * np.sin(np.clip(angle, 0, np.pi / 2) * 2) * (rib > 1)
    reach = float(chest.lateral(head + tilt * 0.5)) + 0.35
    if rib > 9:
        reach = chest.wide * (1.0 - 0.03 * (rib - 9))
    x = side * (reach * np.sin(angle) ** 0.92 * (1 - 0.04 * (angle > np.pi / 2) * (angle - np.pi / 2)))
    x += np.where(angle > np.pi / 2, 0.5, -0.2) * chest.study.turn * np.abs(np.cos(angle))
    steep = 1 / np.sqrt(np.cos(angle) ** 2 + 0.12)
    return np.stack([x, y, np.minimum(steep, 1.7)], axis=1)


def bone_map(soft: Soft, fractures: list[Lesion]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the thickness of bone, (S, S) float32 in cm, and the mask of each fracture, (S, S) bool."""
    chest = soft.chest
    bone = np.zeros_like(soft.x)
    broken = {(int(lesion.kind), lesion.side): lesion for lesion in fractures}
    for side in (-1, 1):
        for rib in range(1, 13):
            _add_rib(soft, bone, rib, side, broken.get((rib, side)))
    bone += _spine(soft)
    for side in (-1, 1):
        bone += _girdle(soft, side)
    bone *= np.float32(chest.study.body.bone * (1 - 0.34 * chest.aging))
    return bone, [_fracture_mask(soft, lesion) for lesion in fractures]


def fracture_point(chest: Chest, lesion: Lesion) -> np.ndarray:
    """Returns (x, y) of a fracture in cm."""
    angle = 0.55 + 0.95 * lesion.across
    return rib_path(chest, int(lesion.kind), lesion.side, angle, angle, 1)[0, :2]


def _fracture_mask(soft: Soft, lesion: Lesion) -> np.ndarray:
    x, y = fracture_point(soft.chest, lesion)
    radius = 1.3 + 0.35 * lesion.severity
    squared = (soft.x - x) ** 2 + (soft.y - y) ** 2
    return squared <= max(radius**2, float(squared.min()))


def _add_rib(soft: Soft, bone: np.ndarray, rib: int, side: int, fracture: Lesion | None) -> None:
    chest = soft.chest
    end = _RIB_END[rib - 1]
    amount = _BACK * (1.0 if rib < 10 else 0.5)
    back = rib_path(chest, rib, side, 0.14, min(end, np.pi / 2))
    width = 0.62 + 0.10 * (chest.study.sex == "M")
    if fracture is None:
        _tube(soft, bone, back, width * (0.85 if rib == 1 else 1), amount)
    else:
        _broken_rib(soft, bone, rib, side, width, fracture)
    if end > np.pi / 2:
        front = rib_path(chest, rib, side, np.pi / 2, end)
        _tube(soft, bone, front, 1.12 * width, _FRONT, fade=0.25)


def _broken_rib(soft: Soft, bone: np.ndarray, rib: int, side: int, width: float, fracture: Lesion) -> None:
    angle = 0.55 + 0.95 * fracture.across
    inner = rib_path(soft.chest, rib, side, 0.14, angle)
    outer = rib_path(soft.chest, rib, side, angle, np.pi / 2)
    step = (0.55 + 0.75 * fracture.severity) * (1 if fracture.seed % 2 else -1)
    outer[:, 1] += step * np.linspace(1, 0, len(outer)) ** 4
    inner[:, 1] -= 0.5 * step * np.linspace(0, 1, len(inner)) ** 6
    _tube(soft, bone, inner, width, _BACK, gap=0.14)
    _tube(soft, bone, outer, width, _BACK, gap=0.14)
    x, y = fracture_point(soft.chest, fracture)
    callus = chord(((soft.x - x) ** 2 + (soft.y - y) ** 2) / (1.1 + 0.35 * fracture.severity) ** 2)
    bone += np.float32(1.0 + 0.6 * fracture.severity) * callus


def _tube(
    soft: Soft, bone: np.ndarray, path: np.ndarray, width: float, amount: float, fade: float = 0.0, gap: float = 0.0
) -> None:
    """Adds a hollow flattened tube along `path` to the part of `bone` that it can reach."""
    window = _window(soft, path[:, :2], width + soft.pixel)
    if window is None:
        return
    points = np.stack([soft.x[window].ravel(), soft.y[window].ravel()], axis=1)
    centre = path[:, :2].astype(np.float32)
    tangent = np.gradient(centre, axis=0)
    spacing = np.hypot(tangent[:, 0], tangent[:, 1])
    tangent /= spacing[:, None]
    nearest = np.argmin((centre**2).sum(1)[None] - 2 * points @ centre.T, axis=1)
    delta = points - centre[nearest]
    direction = tangent[nearest]
    along = (delta * direction).sum(1)
    across = delta[:, 1] * direction[:, 0] - delta[:, 0] * direction[:, 1]
    across = across * np.sign(direction[:, 0] + 1e-6) / np.float32(width)
    blur = soft.pixel / width
    outer = chord((across / np.float32(1 + 0.3 * blur)) ** 2)
    inner = chord(((across - 0.05) / 0.80) ** 2)
    profile = (outer - 0.62 * inner) * path[nearest, 2].astype(np.float32)
    limit = 0.55 * spacing[nearest]
    last = len(path) - 1
    profile *= np.where((nearest == 0) & (along < -gap), 0, 1) * np.where((nearest == last) & (along > gap), 0, 1)
    profile *= np.abs(along) <= np.maximum(limit, soft.pixel) * 2.5
    if fade:
        profile *= np.clip((last - nearest) / (fade * last), 0.0, 1)
    bone[window] += (np.float32(amount) * profile).reshape(bone[window].shape)


def _window(soft: Soft, points: np.ndarray, margin: float) -> tuple[slice, slice] | None:
    low, high = points.min(0) - margin, points.max(0) + margin
    near = (soft.x >= low[0]) & (soft.x <= high[0]) & (soft.y >= low[1]) & (soft.y <= high[1])
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _spine(soft: Soft) -> np.ndarray:
    chest = soft.chest
    pitch = 0.1 * (chest.study.body.lung_length + 0.5)
    across = soft.x - chest.spine(soft.y)
    half = 1.55 + 0.035 * np.clip(soft.y + 14, 0, 30)
    phase = (soft.y - np.float32(APEX - 0.4)) / np.float32(pitch)
    phase = phase - np.floor(phase) - np.float32(0.5)
    waist = half * (1 - 0.14 * np.cos(2 * np.pi * phase))
    inside = ramp(waist - np.abs(across), 0.35)
    plate = np.exp(-(((np.abs(phase) - 0.40) / 0.045) ** 2))
    disc = ramp(np.abs(phase) - 0.445, 0.06)
    body = (0.50 * chord((across / (waist + 0.3)) ** 2) + 0.28 * plate) * (1 - 0.8 * disc)
    pedicle = sum(
        np.exp(-((((across - s * 0.62 * half) / 0.42) ** 2 + ((phase + 0.12) * pitch / 0.55) ** 2 - 0.6) ** 2) * 2.5)
        for s in (-1, 1)
    )
    process = np.exp(-((across / 0.28) ** 2) - ((phase - 0.25) / 0.2) ** 2)
    wings = np.exp(-(((phase + 0.12) * pitch / 0.45) ** 2)) * ramp(half + 1.5 - np.abs(across), 0.8) * (1 - inside)
    return (inside * (body + 0.35 * pedicle + 0.45 * process) + 0.22 * wings).astype(np.float32)


def _girdle(soft: Soft, side: int) -> np.ndarray:
    chest = soft.chest
    body = chest.study.body
    bone = np.zeros_like(soft.x)
    rise = -1.6 * chest.study.arms - body.shoulder + (0.8 if chest.study.view == "AP" else 0.0)
    turn = chest.study.turn
    reach = chest.wide + 3.2
    knots = np.array(
        [
            [1.9 + side * turn, APEX + 3.6],
            [4.5, APEX + 2.5],
            [8.0, APEX + 1.0 + 0.4 * rise],
            [12.0, APEX + 0.3 + 0.8 * rise],
            [reach, APEX + 0.9 + rise],
        ]
    )
    path = _smooth_path(knots * [side, 1])
    _tube(soft, bone, path, 0.72, 1.5)
    _scapula(soft, bone, side, rise, reach)
    return bone


def _smooth_path(knots: np.ndarray, samples: int = 36) -> np.ndarray:
    t = np.linspace(0, len(knots) - 1, samples)
    out = np.stack([np.interp(t, np.arange(len(knots)), knots[:, k]) for k in (0, 1)], axis=1)
    for _ in range(8):
        out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
    return np.concatenate([out, np.ones((samples, 1))], axis=1)


def _scapula(soft: Soft, bone: np.ndarray, side: int, rise: float, reach: float) -> None:
    chest = soft.chest
    out = 0.9 * chest.study.arms - (1.9 if chest.study.view == "AP" else 0.2)
    head = np.array([reach + 1.2, APEX + 4.0 + rise])
    tip = np.array([chest.wide - 0.2 + out, APEX + 15.0 + 0.6 * rise])
    top = np.array([chest.wide - 3.6 + out, APEX + 3.2 + rise])
    glenoid = head - [2.3, -0.3]
    spine, socket = np.array([[0.8, 1.0], [1.6, -2.3]]), np.array([[-0.2, -1.6], [-0.1, 1.6]])
    for start, stop, width, amount in (
        (glenoid, tip, 0.42, 0.95),
        (top, tip, 0.28, 0.6),
        (top + spine[0], glenoid + spine[1], 0.50, 0.75),
        (glenoid + socket[0], glenoid + socket[1], 0.55, 0.9),
    ):
        middle = 0.5 * (start + stop) + [0.5, 0.2]
        _tube(soft, bone, _smooth_path(np.array([start, middle, stop]) * [side, 1], 20), width, amount)
    away, y = side * soft.x, soft.y
    share = np.clip((y - top[1]) / (tip[1] - top[1]), 0, 1)
    inner = top[0] + share * (tip[0] - top[0])
    outer = glenoid[0] + share * (tip[0] - glenoid[0])
    bone += 0.14 * ramp(away - inner, 0.5) * ramp(outer - away, 0.5) * ramp(y - top[1], 0.8) * ramp(tip[1] - y, 0.6)
    ball = chord(((away - head[0]) / 2.4) ** 2 + ((y - head[1]) / 2.5) ** 2)
    bone += 1.9 * ball - 1.0 * chord(((away - head[0]) / 2.05) ** 2 + ((y - head[1]) / 2.15) ** 2)
    lean = 0.12 + 0.75 * chest.study.arms
    shaft = away - head[0] - 0.6 - lean * (y - head[1])
    bone += 1.2 * (chord((shaft / 1.25) ** 2) - 0.55 * chord((shaft / 0.75) ** 2)) * ramp(y - head[1] - 1.0, 2.0)
