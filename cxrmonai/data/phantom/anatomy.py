"""The shape of one chest, and the thickness of its soft parts along the beam.

Lengths are in cm. In the frame of the chest x runs to the right of the picture (the patient's left), y runs down, and
the midline of the sternum before rotation is at x = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cxrmonai.data.phantom.study import Study

APEX = -12.5
CENTRE = 1.3
_KNOTS = 160


@dataclass(frozen=True)
class Curve:
    """A smooth function of one coordinate through a few knots."""

    at: np.ndarray
    value: np.ndarray

    @staticmethod
    def through(at: list[float], value: list[float], smooth: float = 0.05) -> Curve:
        """Joins the knots by lines and rounds the joints over `smooth` of the range."""
        dense = np.linspace(at[0], at[-1], _KNOTS)
        values = np.interp(dense, at, value)
        half = max(1, round(smooth * _KNOTS))
        kernel = np.hanning(2 * half + 3)[1:-1]
        padded = np.pad(values, half, mode="reflect", reflect_type="odd")
        return Curve(dense, np.convolve(padded, kernel / kernel.sum(), mode="valid"))

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        """Returns the value at `x`, constant beyond the ends, in float32."""
        return np.interp(x, self.at, self.value).astype(np.float32)


@lru_cache(maxsize=8)
def unit_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (size, size) x and y of pixel centres, -0.5 to 0.5, float32."""
    line = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Returns 0 for distance below -width/2, 1 above width/2, and a straight line between."""
    return np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)


def chord(squared: np.ndarray) -> np.ndarray:
    """Returns sqrt(1 - squared), 0 where squared exceeds 1: the profile of an ellipsoid."""
    return np.sqrt(np.maximum(np.float32(1) - squared, 0))


class Chest:
    """Geometry of one study: where each border lies.

    Attributes:
        study: the study.
        aging: 0 at 20 years to 1 at 90.
        magnify: enlargement of the heart by the view.
        dome: y of the top of the right (-1) and left (1) hemidiaphragm.
        peak: |x| of the top of either dome.
        wide: half of the inner width of the chest.
        depth: front to back thickness of the chest wall to chest wall, cm.
        hilum: (x, y) of the right (-1) and left (1) hilum.
    """

    def __init__(self, study: Study) -> None:
        body = study.body
        self.study = study
        self.aging = float(np.clip((study.age - 20) / 70, 0, 1))
        self.wide = body.half_width * (1 + 0.02 * self.aging)
        self.depth = 19.5 + (0 if body.sex == "F" else 1.6) + 2.6 * body.build + 1.5 * self.aging
        self.magnify = 1.12 if study.view == "AP" else 1.0
        right = APEX + body.lung_length + study.inspiration + 0.5 * self.aging
        raised = {lesion.side: 0.9 + 1.3 * lesion.severity for lesion in study.of("Atelectasis")}
        self.dome = {-1: right - raised.get(-1, 0.0), 1: right + 1.3 - raised.get(1, 0.0)}
        if self.dome[1] < self.dome[-1] + 0.5:
            self.dome[1] = self.dome[-1] + 0.5
        self.level = right
        self.peak = 0.46 * self.wide
        self.hilum = {-1: (-3.6, APEX + 0.47 * (right - APEX)), 1: (3.9, APEX + 0.47 * (right - APEX) - 1.0)}
        self.knob = (1.35 + 0.2 * self.aging + 0.35 * study.turn, APEX + 0.27 * (right - APEX) - 0.5 * self.aging)
        self.knob_radius = (1.70 + 0.75 * self.aging) * body.aorta
        self._lateral, self._medial = self._sides()
        self._heart()
        self._spine = Curve.through(
            [-20, APEX, -4, 4, 12, 24], [0, 0, 0.6 * body.scoliosis, body.scoliosis, 0.3 * body.scoliosis, 0], 0.12
        )

    def _sides(self) -> tuple[Curve, Curve]:
        t = np.linspace(-0.02, 1.4, _KNOTS)
        rise = np.clip(t / 0.78, 0, 1)
        top = 4.4
        narrow = 0.035 * (1 - self.aging)
        lateral = (
            top + (self.wide - top) * (1 - (1 - rise) ** 2.2) ** 0.53 - self.wide * narrow * np.clip(t - 0.8, 0, 1)
        )
        medial = 2.3 + (top - 2.3) * (1 - np.clip(t / 0.13, 0, 1)) ** 2
        y = APEX + t * (self.level - APEX)
        return Curve(y, lateral), Curve(y, medial)

    def _heart(self) -> None:
        study = self.study
        ratio = study.body.heart_ratio * self.magnify + 0.02 * self.aging - 0.006 * study.inspiration
        enlarged = study.of("Cardiomegaly")
        swelling = max((0.09 + 0.10 * lesion.severity for lesion in enlarged), default=0.0)
        width = 2 * self.wide * min(ratio + swelling, 0.74)
        bottom = self.dome[1] + 1.3
        top = self.hilum[1][1] - 0.6 - 8 * swelling
        turn = study.turn
        share = 0.655 + 0.25 * swelling
        left, right = share * width, (1 - share) * width
        y = [top + f * (bottom - top) for f in (0, 0.12, 0.28, 0.45, 0.62, 0.76, 0.87, 0.95, 1.02, 1.08)]
        edge = [0.38, 0.47, 0.55, 0.71, 0.88, 0.98, 1.0, 0.95, 0.80, 0.48]
        self.heart_left = Curve.through(y, [left * e + turn for e in edge], 0.06)
        edge = [0.52, 0.60, 0.74, 0.93, 1.02, 1.02, 0.96, 0.86, 0.70, 0.45]
        self.heart_right = Curve.through(y, [-right * e + turn for e in edge], 0.06)
        self.heart_span = (top, bottom + 0.08 * (bottom - top))
        self.heart_depth = 0.62 * self.depth * (1 + 0.8 * swelling)

    def lateral(self, y: np.ndarray | float) -> np.ndarray:
        """Returns |x| of the inner chest wall at y."""
        return self._lateral(y)

    def medial(self, y: np.ndarray | float) -> np.ndarray:
        """Returns |x| of the medial border of the lung at y, where no heart covers it."""
        return self._medial(y)

    def spine(self, y: np.ndarray | float) -> np.ndarray:
        """Returns x of the middle of the spine at y."""
        return self._spine(y) - np.float32(0.4 * self.study.turn)

    def diaphragm(self, x: np.ndarray | float, side: int) -> np.ndarray:
        """Returns y of the dome of one side at x."""
        out = np.abs(x) - np.float32(self.peak)
        lateral = 4.3 * np.clip(out / (self.wide - self.peak), 0, 1.15) ** 2.4
        medial = 1.5 * np.clip(-out / self.peak, 0, 1) ** 2
        return (self.dome[side] + lateral + medial).astype(np.float32)

    def place(self, side: int, across: float, down: float) -> tuple[float, float]:
        """Returns (x, y) of a place in a lung given from medial to lateral border and from apex to dome."""
        y = APEX + down * (self.dome[side] - APEX)
        medial = float(self.medial(y))
        if self.heart_span[0] < y < self.heart_span[1]:
            medial = max(medial, float(self.heart_left(y)) if side > 0 else -float(self.heart_right(y)))
        medial = min(medial, 0.8 * float(self.lateral(y)))
        return side * (medial + across * (float(self.lateral(y)) - medial)), y


@dataclass
class Soft:
    """Maps of one chest, (S, S) float32.

    Attributes:
        chest: the geometry.
        x: x of each pixel in the frame of the chest, cm.
        y: y of each pixel, cm.
        pixel: side of a pixel, cm.
        body: thickness of the body, cm, 0 in air.
        cavity: thickness of the chest cavity, cm, without regard to heart and diaphragm.
        air: thickness of lung, cm.
        field: share of the pixel seen as lung field, 0 to 1.
        heart: share of the pixel inside the outline of the heart, 0 to 1.
        side: -1 on the left of the picture and 1 on the right.
    """

    chest: Chest
    x: np.ndarray
    y: np.ndarray
    pixel: float
    body: np.ndarray
    cavity: np.ndarray
    air: np.ndarray
    field: np.ndarray
    heart: np.ndarray
    side: np.ndarray


def soft_parts(study: Study, size: int) -> Soft:
    """Returns the maps of body, lungs and heart of a study at one size."""
    chest = Chest(study)
    x, y = frame(study, size)
    pixel = study.field / size
    edge = 1.2 * pixel
    body = _body(chest, x, y)
    away = np.abs(x)
    side = np.where(x < 0, np.float32(-1), np.float32(1))
    lateral = chest.lateral(y)
    t = (y - np.float32(APEX)) / np.float32(chest.level - APEX)
    taper = np.sqrt(np.clip(t / 0.4, 0, 1)) * 0.55 + 0.45
    cavity = np.float32(0.80 * chest.depth) * chord((away / (lateral + 0.15)) ** 2) ** 0.8 * taper
    cavity *= y > APEX
    below = np.where(x < 0, y - chest.diaphragm(x, -1), y - chest.diaphragm(x, 1))
    field = ramp(lateral - away, edge) * ramp(away - chest.medial(y), edge + 0.7) * ramp(-below, edge)
    field *= ramp(y - np.float32(APEX), edge)
    heart, thickness = _heart(chest, x, y, edge)
    thinning = 1 - np.float32(0.28) * np.exp(np.minimum(below, 0) / 1.6)
    recess = 0.09 * np.exp(-np.maximum(below, 0) / 1.8) * (below > 0) * ramp(lateral - away - 0.2, edge)
    recess *= ramp(away - chest.medial(y) - 1, 3)
    thinning *= 1 - 0.22 * np.exp(-np.maximum(away - chest.medial(y), 0) / 1.8)
    inside = field * thinning
    air = np.maximum(cavity - thickness, 0) * inside
    covered = ramp(chest.depth * 0.45 - thickness, 1.5)
    air = air * (0.25 + 0.75 * covered) + cavity * recess
    return Soft(chest, x, y, pixel, body, cavity, air, field * (1 - heart), heart, side)


def frame(study: Study, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y in cm, (size, size) float32, of each pixel in the frame of the chest."""
    u, v = unit_grid(size)
    u = u * np.float32(study.field) - np.float32(study.shift[0])
    v = v * np.float32(study.field) - np.float32(study.shift[1])
    c, s = np.float32(np.cos(np.radians(study.tilt))), np.float32(np.sin(np.radians(study.tilt)))
    return c * u + s * v, -s * u + c * v + np.float32(CENTRE)


def to_picture(study: Study, points: np.ndarray, size: float) -> np.ndarray:
    """Returns the place in pixels, (N, 2) float, of points (N, 2) in cm of the chest's frame; inverse of `frame`."""
    x, y = points[..., 0], points[..., 1] - CENTRE
    c, s = np.cos(np.radians(study.tilt)), np.sin(np.radians(study.tilt))
    u = (c * x - s * y + study.shift[0]) / study.field
    v = (s * x + c * y + study.shift[1]) / study.field
    return np.stack([(u + 0.5) * size, (v + 0.5) * size], axis=-1)


def _heart(chest: Chest, x: np.ndarray, y: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    top, bottom = chest.heart_span
    left, right = chest.heart_left(y), chest.heart_right(y)
    inside = ramp(left - x, edge) * ramp(x - right, edge) * ramp(y - np.float32(top), edge)
    inside *= ramp(np.float32(bottom) - y, edge)
    middle, half = 0.5 * (left + right), np.maximum(0.5 * (left - right), 0.1)
    thickness = np.float32(chest.heart_depth) * chord(((x - middle) / half) ** 2) ** 0.75 * inside
    thickness *= np.sqrt(np.clip((y - np.float32(top)) / 4, 0, 1))
    radius = chest.knob_radius
    knob = chord(((x - chest.knob[0]) / radius) ** 2 + ((y - chest.knob[1]) / radius) ** 2)
    trunk = chord(((x - 1.8) / 1.9) ** 2 + ((y - chest.hilum[1][1] + 0.6) / 3.0) ** 2)
    return inside, thickness + np.float32(3.4 * radius) * knob**0.7 + np.float32(5.0) * trunk + _aorta(chest, x, y)


def _aorta(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the thickness of the descending aorta and the great veins above the heart, cm."""
    radius = 0.8 * chest.knob_radius
    fall = np.clip((y - chest.knob[1]) / 14, 0, 1)
    middle = chest.knob[0] + 0.2 * radius - (1.3 - 1.0 * chest.aging) * fall
    descending = chord(((x - middle) / radius) ** 2) * ramp(y - chest.knob[1] - 0.5, 2.0)
    veins = chord(((x + 1.3) / 1.9) ** 2) * ramp(y - np.float32(APEX + 2), 5) * ramp(chest.hilum[1][1] + 3 - y, 3)
    return np.float32(1.6 * radius) * descending + np.float32(4.0) * veins


def _body(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    body = chest.study.body
    away = np.abs(x)
    half = chest.wide + 2.9 + 1.1 * body.build
    waist = Curve.through(
        [-20, -12, -3, 5, 12, 26], [half - 3, half - 1, half + 0.6, half, half - 0.5, half + 0.8], 0.1
    )
    narrowing = Curve.through([-22, -15, -9, -1, 8, 26], [0.40, 0.46, 0.70, 0.92, 1.0, 1.02], 0.06)
    torso = chord((away / waist(y)) ** 4) ** 0.8 * narrowing(y) * np.float32(chest.depth)
    skyline = Curve.through(
        [0, 5.2, 6.3, 8, 12, 17, 21, 26],
        [-30, -22, -17.5, -15.9, -14.2 - body.shoulder, -13.2 - body.shoulder, -10.5, -4],
        0.03,
    )
    top = y - skyline(away)
    girdle = np.float32(12.0 + 1.3 * body.build) * np.sqrt(np.clip(top / 4.5, 0, 1)) * np.clip((4 - y) / 14, 0, 1)
    girdle *= away < 25
    neck = np.float32(11.5) * chord((x / 6.2) ** 2) * (y < -8)
    arm = _arm(chest, away, y)
    inside = np.clip(top * 3, 0, 1)
    together = np.maximum(np.maximum(torso * np.clip(top / 2.0, 0, 1), girdle), np.maximum(neck, arm)) * inside
    return together + _breasts(chest, x, y)


def _arm(chest: Chest, away: np.ndarray, y: np.ndarray) -> np.ndarray:
    lean = 0.12 + 0.75 * chest.study.arms
    start = chest.wide + 5.2 + 0.8 * chest.study.body.build
    radius = 4.3 + 0.5 * chest.study.body.build
    distance = (away - start - lean * (y + 9.5)) / np.float32(np.hypot(1, lean))
    return np.float32(1.9 * radius) * chord((distance / radius) ** 2) * (y > -10)


def _breasts(chest: Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    body = chest.study.body
    if body.breast < 0.15:
        return np.zeros_like(x)
    sag = 0.06 * chest.aging
    level = APEX + (body.breast_level + sag) * (chest.level + 0.5 * chest.study.inspiration - APEX)
    total = np.zeros_like(x)
    for side in (-1, 1):
        centre = side * 0.60 * chest.wide + 0.5 * chest.study.turn
        across = (x - centre - side * 0.09 * (y - level)) / np.float32(body.breast_radius)
        lower = np.float32(body.breast_radius * 0.95)
        upper = y < level
        along = (y - np.float32(level)) / np.where(upper, 2.3 * lower, lower)
        dome = chord(across**2 + along**2)
        total += np.where(upper, dome * np.clip(1 + along, 0, 1) * (0.4 + 0.6 * dome), dome * (0.4 + 0.6 * dome))
    thinned = 0.8 if chest.study.view == "AP" else 1.0
    return np.float32(body.breast * thinned) * total
