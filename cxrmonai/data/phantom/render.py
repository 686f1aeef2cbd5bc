"""From thickness of tissue to grey values."""

from __future__ import annotations

import cv2
import numpy as np

from cxrmonai.data.phantom.anatomy import Soft, chord, ramp, soft_parts
from cxrmonai.data.phantom.bones import bone_map
from cxrmonai.data.phantom.findings import Scene, add_lesion, outline_box
from cxrmonai.data.phantom.study import FINDINGS, Radiograph, Study
from cxrmonai.data.phantom.texture import Canvas, clouds, vessels
from cxrmonai.errors import CxrError

SMALLEST, LARGEST = 32, 2048
# Attenuation per cm; aerated lung holds about a quarter of the water's mass.
_SOFT, _BONE, _AERATION = 0.19, 0.46, 0.76


def render(study: Study, size: int) -> Radiograph:
    """Renders one study.

    Args:
        study: what to show; the same scene at every size.
        size: side of the picture in pixels, 32 to 2048.

    Returns:
        The picture with the masks and boxes of its findings.

    Raises:
        CxrError: `size` is out of range.
    """
    if not SMALLEST <= size <= LARGEST:
        raise CxrError(f"size: a phantom radiograph cannot be {size} px; give {SMALLEST} to {LARGEST}")
    soft = soft_parts(study, size)
    lungs = soft.field > 0.5
    bone, fractures = bone_map(soft, study.of("Fracture"))
    scene = _scene(soft)
    masks = iter(fractures)
    lesions = [next(masks) if one.finding == "Fracture" else add_lesion(scene, one) for one in study.lesions]
    attenuation = _attenuation(scene, bone)
    image = _develop(study, _detect(study, attenuation))
    return _radiograph(study, image, lesions, lungs)


def _radiograph(study: Study, image: np.ndarray, lesions: list[np.ndarray], lungs: np.ndarray) -> Radiograph:
    masks: dict[str, np.ndarray] = {}
    for lesion, mask in zip(study.lesions, lesions, strict=True):
        masks[lesion.finding] = masks[lesion.finding] | mask if lesion.finding in masks else mask
    masks = {name: masks[name] for name in FINDINGS if name in masks}
    boxes = [(lesion.finding, *outline_box(mask)) for lesion, mask in zip(study.lesions, lesions, strict=True)]
    return Radiograph(image, {**masks, "Lungs": lungs}, boxes, lesions)


def _scene(soft: Soft) -> Scene:
    zeros = np.zeros_like(soft.x)
    return Scene(soft, zeros, zeros.copy(), np.ones_like(zeros), zeros.copy())


def _attenuation(scene: Scene, bone: np.ndarray) -> np.ndarray:
    """Returns the line integral of attenuation, (S, S) float32."""
    soft = scene.soft
    study, chest = soft.chest.study, soft.chest
    size = scene.size
    mottle = clouds(study.body.seed + 7, size, (40, 80, 160))
    marks = vessels(chest, size) + 0.05 * soft.air / 15 * mottle
    hila = sum(
        chord(((soft.x - x - side * 0.1) / 1.5) ** 2 + ((soft.y - y - 0.4) / 2.5) ** 2)
        for side, (x, y) in chest.hilum.items()
    )
    tissue = soft.body - _AERATION * soft.air * (1 - scene.wet)
    tissue += scene.marks * soft.field * (1.3 * marks + 1.5 * hila) + scene.added
    tissue -= _airways(soft) + _belly_gas(scene)
    tissue += 0.25 * clouds(study.body.seed + 11, size, (5, 10, 20)) * np.clip(soft.body / 10, 0, 1)
    return np.maximum(np.float32(_SOFT) * tissue, 0) + np.float32(_BONE) * bone + scene.metal


def _airways(soft: Soft) -> np.ndarray:
    """Returns the thickness of air in the trachea and main bronchi, cm."""
    chest = soft.chest
    carina = chest.hilum[1][1] - 0.9
    canvas = Canvas(chest.study, soft.x.shape[0])
    middle = 0.1 - 0.25 * chest.aging + 0.2 * chest.study.turn
    canvas.lines([np.array([[0.0, -24.0], [0.0, -14.0], [middle, carina - 3], [middle, carina]])], 1.7, 1.0)
    for side, (x, y) in chest.hilum.items():
        path = np.array([[middle, carina], [middle + side * 1.2, carina + 1.0], [x - side * 0.6, y + 0.6]])
        canvas.lines([path], 1.15, 0.7)
    blur = max(0.22 * soft.x.shape[0] / chest.study.field, 0.3)
    return 2.1 * cv2.GaussianBlur(canvas.coverage(), (0, 0), blur)


def _belly_gas(scene: Scene) -> np.ndarray:
    """Returns the thickness of gas in the stomach, with a level where the patient stands, cm."""
    soft, chest = scene.soft, scene.soft.chest
    rng = np.random.default_rng(chest.study.seed + 1)
    amount = rng.uniform(0.3, 1.0) * (rng.random() < 0.75)
    x, y = rng.uniform(4.5, 7.0), chest.dome[1] + 2.7 + rng.uniform(0, 0.8)
    bubble = chord(((soft.x - x) / rng.uniform(2.0, 4.0)) ** 2 + ((soft.y - y) / 1.9) ** 2)
    if chest.study.view == "PA":
        bubble *= ramp(np.float32(y + 0.6) - soft.y, 0.25)
    return np.float32(5.0 * amount) * bubble * ramp(soft.y - chest.diaphragm(soft.x, 1) - 0.35, 0.3)


def _detect(study: Study, attenuation: np.ndarray) -> np.ndarray:
    """Adds scatter and quantum noise, and returns the measured attenuation."""
    size = attenuation.shape[0]
    light = np.exp(-attenuation)
    small = cv2.resize(light, (32, 32), interpolation=cv2.INTER_AREA)
    glow = cv2.resize(
        cv2.GaussianBlur(np.minimum(small, 0.25), (0, 0), 3.0), (size, size), interpolation=cv2.INTER_CUBIC
    )
    light = (1 - study.scatter) * light + np.float32(study.scatter * 0.35) * np.maximum(glow, 0)
    rng = np.random.default_rng([study.seed, size])
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(study.noise * min(size / 256, 2.0))
    light *= 1 + grain * np.sqrt(np.float32(0.2) / np.maximum(light, 0.008))
    return -np.log(np.maximum(light, 0.001))


def _develop(study: Study, measured: np.ndarray) -> np.ndarray:
    """Sharpens, windows, and puts on borders and the side letter; returns uint8."""
    size = measured.shape[0]
    blur = 1.1 * size / study.field
    soft_copy = cv2.GaussianBlur(measured, (0, 0), blur)
    sharp = measured + 0.45 * (measured - soft_copy)
    centre = 2.25 + 0.2 * study.body.build + study.exposure
    width = 0.98 * study.contrast
    toe = 1 / (1 + np.exp((centre - 0.25) / width))
    grey = 1 / (1 + np.exp((centre - sharp) / np.float32(width)))
    grey = np.clip((grey - np.float32(toe)) / np.float32(0.99 - toe), 0, 1)
    image = np.round(grey * 248).astype(np.uint8)
    _collimate(study, image)
    return image


def _collimate(study: Study, image: np.ndarray) -> None:
    size = image.shape[0]
    left, right, top, bottom = (round(size * share) for share in study.collimation)
    if study.marker:
        corner = (round(size * (0.93 if study.marker == "L" else 0.03)), round(size * 0.10))
        cv2.putText(
            image, study.marker, corner, cv2.FONT_HERSHEY_SIMPLEX, size / 512, 235, max(1, size // 200), cv2.LINE_AA
        )
    for part in (image[:, :left], image[:, size - right :], image[:top], image[size - bottom :]):
        part[...] = 2
