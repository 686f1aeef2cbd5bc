"""Lesions: what each adds to the picture, and its exact outline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from cxrmonai.data.phantom.anatomy import APEX, Chest, Soft, chord, ramp
from cxrmonai.data.phantom.study import Lesion
from cxrmonai.data.phantom.texture import Canvas, clouds


@dataclass
class Scene:
    """What lesions may change, maps (S, S) float32.

    Attributes:
        soft: the chest's soft parts; its `air` may be changed.
        wet: share of the lung's air replaced by fluid or tissue, 0 to 1.
        added: further soft tissue, cm.
        marks: share of vessels and mottle seen, 0 to 1.
        metal: attenuation by devices.
    """

    soft: Soft
    wet: np.ndarray
    added: np.ndarray
    marks: np.ndarray
    metal: np.ndarray

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.wet.shape[0]

    def lung(self, side: int) -> np.ndarray:
        """Returns where one lung field is seen, (S, S) bool."""
        return (self.soft.field > 0.5) & (self.soft.side == side)

    def wetten(self, share: np.ndarray) -> None:
        """Replaces a share of the remaining air."""
        self.wet += (1 - self.wet) * np.clip(share, 0, 1)


def add_lesion(scene: Scene, lesion: Lesion) -> np.ndarray:
    """Adds a lesion that is not a matter of geometry or bone, and returns its mask, (S, S) bool, never empty."""
    mask = _MAKERS[lesion.finding](scene, lesion)
    if not mask.any():
        x, y = scene.soft.chest.place(lesion.side or 1, lesion.across, lesion.down)
        distance = (scene.soft.x - x) ** 2 + (scene.soft.y - y) ** 2
        mask = distance <= distance.min()
    return mask


def _cardiomegaly(scene: Scene, lesion: Lesion) -> np.ndarray:
    return scene.soft.heart >= 0.5


def _focus(scene: Scene, lesion: Lesion, amount: float, lobes: float) -> np.ndarray:
    soft = scene.soft
    x, y = soft.chest.place(lesion.side, lesion.across, lesion.down)
    phase = np.random.default_rng(lesion.seed).uniform(0, 2 * np.pi, 3)
    dx, dy = soft.x - np.float32(x), soft.y - np.float32(y)
    angle = np.arctan2(dy, dx)
    outline = 1 + lobes * sum(np.sin(k * angle + phase[k - 2]) / k for k in (2, 3, 4))
    radius = 0.5 * lesion.extent * outline
    squared = (dx**2 + dy**2) / radius**2
    inside = np.abs(soft.x) < soft.chest.lateral(soft.y)
    edge = np.sqrt(squared) - 1
    body = chord(squared) ** 0.7 + 0.25 * ramp(-edge * 0.5 * lesion.extent, 1.5 * soft.pixel)
    scene.added += np.float32(amount) * body * inside
    return (squared <= 1) & inside


def _mass(scene: Scene, lesion: Lesion) -> np.ndarray:
    return _focus(scene, lesion, 0.75 * lesion.extent * (0.62 + 0.5 * lesion.severity), 0.22)


def _nodule(scene: Scene, lesion: Lesion) -> np.ndarray:
    return _focus(scene, lesion, 1.4 + 0.85 * lesion.extent * (0.45 + 0.75 * lesion.severity), 0.12)


def _consolidation(scene: Scene, lesion: Lesion) -> np.ndarray:
    soft = scene.soft
    x, y = soft.chest.place(lesion.side, lesion.across, lesion.down)
    radius = 2.9 + 2.8 * lesion.extent
    noise = clouds(lesion.seed, scene.size, (7, 14, 28, 56))
    reach = np.hypot((soft.x - x) / 1.1, soft.y - y) / np.float32(radius) + 0.17 * noise
    lung = scene.lung(lesion.side)
    filled = np.clip((1.08 - reach) / 0.38, 0, 1)
    patchy = np.clip(0.82 + 0.16 * clouds(lesion.seed + 1, scene.size, (24, 48)), 0.3, 1)
    share = (0.40 + 0.42 * lesion.severity) * filled * patchy
    if lesion.severity > 0.4:
        share *= 1 - 0.45 * _bronchogram(scene, lesion, x, y)
    scene.wetten(share * (soft.side == lesion.side))
    scene.marks *= 1 - 0.6 * filled * (soft.side == lesion.side)
    return lung & (reach < 1)


def _bronchogram(scene: Scene, lesion: Lesion, x: float, y: float) -> np.ndarray:
    chest = scene.soft.chest
    rng = np.random.default_rng(lesion.seed)
    canvas = Canvas(chest.study, scene.size)
    hilum = np.array(chest.hilum[lesion.side])
    centre = np.array([x, y])
    root = hilum + 0.35 * (centre - hilum)
    tips = centre + rng.normal(0, 1.6, (4, 2)) + 0.4 * (centre - hilum)
    canvas.lines([np.stack([root, 0.5 * (root + tip) + rng.normal(0, 0.3, 2), tip]) for tip in tips], 0.26, 1.0)
    return canvas.coverage()


def _edema(scene: Scene, lesion: Lesion) -> np.ndarray:
    soft, chest = scene.soft, scene.soft.chest
    x, y = chest.hilum[lesion.side]
    noise = clouds(lesion.seed, scene.size, (8, 16, 32, 64))
    span = chest.dome[lesion.side] - APEX
    x += lesion.side * 1.2
    reach = np.hypot((soft.x - x) / (0.36 * chest.wide), (soft.y - y - 0.16 * span) / (0.36 * span)) + 0.10 * noise
    lung = scene.lung(lesion.side)
    haze = np.clip((1.35 - reach) / 0.9, 0, 1)
    fluffy = np.clip(0.78 + 0.20 * noise, 0.2, 1.3)
    scene.wetten((0.26 + 0.40 * lesion.severity) * haze * fluffy * (soft.side == lesion.side))
    scene.added += _septal_lines(scene, lesion) * lung
    return lung & (haze > 0.25)


def _septal_lines(scene: Scene, lesion: Lesion) -> np.ndarray:
    """Short horizontal lines that meet the chest wall at the base."""
    chest = scene.soft.chest
    rng = np.random.default_rng(lesion.seed)
    canvas = Canvas(chest.study, scene.size)
    paths = []
    for down in np.arange(0.62, 1.06, 0.055):
        y = APEX + (down + rng.normal(0, 0.01)) * (chest.dome[lesion.side] - APEX)
        wall = float(chest.lateral(y)) - 0.1
        length = rng.uniform(1.0, 2.2)
        paths.append(np.array([[lesion.side * wall, y], [lesion.side * (wall - length), y + rng.normal(0, 0.12)]]))
    canvas.lines(paths, 0.14, 1.0)
    return np.float32(0.5 + 0.7 * lesion.severity) * canvas.coverage()


def _effusion(scene: Scene, lesion: Lesion) -> np.ndarray:
    soft, chest = scene.soft, scene.soft.chest
    height = 3.4 + 8.0 * lesion.extent**1.3
    floor = float(chest.diaphragm(chest.wide, lesion.side))
    medial = chest.medial(soft.y)
    across = np.clip((lesion.side * soft.x - medial) / (chest.lateral(soft.y) - medial + 0.01), 0, 1)
    surface = floor - np.float32(height) * (0.45 + 0.55 * across**3.2)
    under = soft.y - surface
    share = (0.80 + 0.18 * lesion.severity) * np.clip(under / 1.6 + 0.35, 0, 1) * (soft.side == lesion.side)
    scene.wetten(share)
    scene.marks *= 1 - np.clip(share, 0, 1)
    return scene.lung(lesion.side) & (under > 0)


def _pneumothorax(scene: Scene, lesion: Lesion) -> np.ndarray:
    soft, chest = scene.soft, scene.soft.chest
    drop = 2.6 + 4.6 * lesion.extent
    gap = 1.3 + 3.0 * lesion.extent
    length = chest.dome[lesion.side] - APEX
    # The lung shrinks towards its base: each height shows what stood higher before.
    before = chest.dome[lesion.side] - (chest.dome[lesion.side] - soft.y) * np.float32(length / (length - drop))
    t = np.clip((before - APEX) / np.float32(length), 0, 1.2)
    wall = chest.lateral(before) - np.float32(gap) * np.clip(1.05 - 0.75 * t, 0.1, 1) * np.clip(1.7 * t + 0.15, 0, 1)
    slope = np.gradient(wall, axis=0) / soft.pixel
    beyond = np.maximum((lesion.side * soft.x - wall) / np.sqrt(1 + slope**2), APEX - before)
    lung = scene.lung(lesion.side)
    outside = ramp(beyond, 1.2 * soft.pixel) * (soft.side == lesion.side)
    scene.marks *= 1 - outside
    inside = (1 - outside) * (soft.side == lesion.side)
    scene.soft.air = soft.air * (1 + (0.10 + 0.08 * lesion.severity) * outside)
    scene.wetten((0.06 + 0.22 * lesion.severity * lesion.extent) * inside)
    line = np.exp(-((beyond / max(0.11, 0.5 * soft.pixel)) ** 2)) * lung
    scene.added += np.float32(0.45 + 0.45 * lesion.severity) * line
    return lung & (beyond > 0)


def _atelectasis(scene: Scene, lesion: Lesion) -> np.ndarray:
    return _collapse(scene, lesion) if lesion.kind == "lobe" else _plates(scene, lesion)


def _collapse(scene: Scene, lesion: Lesion) -> np.ndarray:
    """A wedge with its point at the hilum and its base on the dome, against the heart."""
    soft, chest = scene.soft, scene.soft.chest
    hilum, dome = chest.hilum[lesion.side][1], chest.dome[lesion.side]
    away = lesion.side * soft.x
    border = chest.heart_left(soft.y) if lesion.side > 0 else -chest.heart_right(soft.y)
    t = (soft.y - np.float32(hilum)) / np.float32(dome - hilum)
    limit = np.maximum(border, 2.5) + (0.4 + (2.2 + 2.2 * lesion.extent) * np.clip(t, 0, 1.3))
    share = ramp(limit - away, 0.5) * ramp(t - 0.12, 0.2) * (soft.side == lesion.side)
    scene.wetten((0.42 + 0.30 * lesion.severity) * share)
    return scene.lung(lesion.side) & (share > 0.5)


def _plates(scene: Scene, lesion: Lesion) -> np.ndarray:
    soft, chest = scene.soft, scene.soft.chest
    rng = np.random.default_rng(lesion.seed)
    mask = np.zeros(soft.x.shape, bool)
    lung = scene.lung(lesion.side)
    for k in range(1 + int(lesion.extent > 0.35) + int(lesion.extent > 0.75)):
        down = _clear_of_heart(chest, lesion.side, 0.90 - 0.11 * k + rng.normal(0, 0.015))
        x, y = chest.place(lesion.side, 0.50 + rng.normal(0, 0.06), down)
        slope = lesion.side * rng.uniform(-0.05, 0.28)
        half = 2.2 + 1.6 * rng.random()
        thick = 0.42 + 0.28 * lesion.severity
        dx = soft.x - x
        dy = soft.y - y - slope * dx - 0.02 * dx**2
        squared = (dx / half) ** 4 + (dy / thick) ** 2
        scene.added += np.float32(1.5 + 1.4 * lesion.severity) * chord(squared) * lung
        mask |= (squared <= 1) & lung
    return mask


def _clear_of_heart(chest: Chest, side: int, down: float) -> float:
    """Returns the level nearest above `down` where the lung beside the heart is at least 4 cm wide."""
    while down > 0.4 and abs(chest.place(side, 1, down)[0] - chest.place(side, 0, down)[0]) < 4:
        down -= 0.05
    return down


def _devices(scene: Scene, lesion: Lesion) -> np.ndarray:
    canvas = Canvas(scene.soft.chest.study, scene.size)
    amount = _DEVICES[lesion.kind](canvas, scene, lesion)
    coverage = canvas.coverage()
    scene.metal += np.float32(amount) * coverage
    return coverage > min(0.22, 0.5 * float(coverage.max()))


def _bend(points: list[tuple[float, float]], samples: int = 40) -> np.ndarray:
    """Joins points by a smooth path."""
    knots = np.array(points, float)
    t = np.linspace(0, len(knots) - 1, samples)
    path = np.stack([np.interp(t, np.arange(len(knots)), knots[:, k]) for k in (0, 1)], axis=1)
    for _ in range(10):
        path[1:-1] = 0.25 * path[:-2] + 0.5 * path[1:-1] + 0.25 * path[2:]
    return path


def _airway_tube(canvas: Canvas, scene: Scene, lesion: Lesion) -> float:
    chest = scene.soft.chest
    tip = chest.hilum[1][1] - 3.0 - 3.0 * lesion.extent
    path = _bend([(0.5, -22), (0.3, -16), (0.1, tip - 2), (-0.1, tip)])
    canvas.lines([path], 0.85, 0.42)
    canvas.lines([path], 0.50, 0.18)
    canvas.lines([path + np.array([0.34, 0])], 0.14, 1.0)
    return 0.75


def _central_line(canvas: Canvas, scene: Scene, lesion: Lesion) -> float:
    chest = scene.soft.chest
    hilum = chest.hilum[-1][1]
    end = (-2.2, hilum - 0.5 + 3.0 * lesion.extent)
    if lesion.side < 0:
        points = [(-5.0, -21), (-4.2, -16), (-3.0, APEX + 1.5), (-2.3, hilum - 4), end]
    else:
        points = [(12.0, APEX + 4), (8.0, APEX + 1.6), (3.5, APEX + 2.4), (0.0, APEX + 4.6), (-2.0, hilum - 3.5), end]
    canvas.lines([_bend(points)], 0.26, 1.0)
    return 0.75 + 0.5 * lesion.severity


def _gastric_tube(canvas: Canvas, scene: Scene, lesion: Lesion) -> float:
    dome = scene.soft.chest.dome[1]
    points = [(-0.4, -22), (-0.3, -14), (0.6, -4), (0.8, dome - 3), (2.0, dome + 2), (5.5, dome + 5.5)]
    canvas.lines([_bend(points)], 0.34, 0.9)
    return 0.80 + 0.4 * lesion.severity


def _surface_leads(canvas: Canvas, scene: Scene, lesion: Lesion) -> float:
    chest = scene.soft.chest
    rng = np.random.default_rng(lesion.seed)
    spots = [(-9.0, APEX + 4.5), (9.0, APEX + 4.0), (10.5, chest.dome[1] - 1.0)]
    turn = np.linspace(0, 2 * np.pi, 24)
    for x, y in spots:
        x, y = x + rng.normal(0, 1.0), y + rng.normal(0, 1.0)
        canvas.fill(np.stack([x + 0.75 * np.cos(turn), y + 0.75 * np.sin(turn)], axis=1), 0.45)
        canvas.fill(np.stack([x + 0.38 * np.cos(turn), y + 0.38 * np.sin(turn)], axis=1), 1.0)
        middle = (0.6 * x + rng.normal(0, 1.5), y + 4 + rng.normal(0, 1.2))
        canvas.lines([_bend([(x, y), middle, (rng.normal(0, 3), chest.dome[1] + 3), (4, 24)])], 0.15, 0.8)
    return 1.3


def _pacemaker(canvas: Canvas, scene: Scene, lesion: Lesion) -> float:
    chest = scene.soft.chest
    side = lesion.side
    x, y = side * (0.68 * chest.wide), APEX + 4.6 + lesion.extent
    turn = np.linspace(0, 2 * np.pi, 40)
    box = np.stack([np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.5, np.sin(turn)], axis=1)
    vein = [(x - side * 1.8, y - 1.2), (side * 5.5, APEX + 2.2), (side * 2.5, APEX + 3.0), (-1.8, APEX + 6.0)]
    hilum, bottom = chest.hilum[-1][1], chest.heart_span[1]
    half = 0.5 * (hilum + bottom)
    tip = (0.62 * float(chest.heart_left(bottom - 2.2)), bottom - 2.6)
    canvas.lines([_bend([*vein, (-2.4, hilum), (-2.6, half), (0.5, bottom - 2.6), tip])], 0.22, 0.75)
    if lesion.extent > 0.3:
        canvas.lines([_bend([*vein, (-2.2, hilum), (-2.9, half + 0.8), (-2.2, half - 0.4)])], 0.22, 0.75)
    canvas.fill(np.array([x, y]) + box * [2.1, 1.9], 0.85)
    canvas.fill(np.array([x, y - 1.1]) + box * [1.5, 0.6], 0.45)
    canvas.fill(np.array([x - 0.3, y + 0.5]) + box * [1.2, 0.8], 1.0)
    return 2.2


_DEVICES: dict[str, Callable[[Canvas, Scene, Lesion], float]] = {
    "airway": _airway_tube,
    "gastric": _gastric_tube,
    "leads": _surface_leads,
    "line": _central_line,
    "pacemaker": _pacemaker,
}
_MAKERS: dict[str, Callable[[Scene, Lesion], np.ndarray]] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Support Devices": _devices,
}


def outline_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns x, y, w, h of the tight box round a mask that is not empty, in pixels; pixel x covers [x, x + 1)."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return float(x), float(y), float(w), float(h)
