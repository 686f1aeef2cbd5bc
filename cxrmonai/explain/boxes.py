"""From a heatmap to boxes and masks in the pixels of the original image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from cxrmonai.data.geometry import boxes_to_original, content_window, map_to_original
from cxrmonai.errors import CxrError

RULES = ("wang", "otsu", "xray")
WANG = (60 / 255, 180 / 255)
XRAY_FACTOR, XRAY_HIGH = 1.77, 0.77

Rule = str | float


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes of one heatmap.

    Attributes:
        boxes: (D, 4) [x, y, w, h] in original pixels, no two alike.
        heat: (D,) the highest value inside each, 0–1.
    """

    boxes: np.ndarray
    heat: np.ndarray


def thresholds(heat: np.ndarray, rule: Rule) -> tuple[float, ...]:
    """Where a heatmap is cut.

    Args:
        heat: (h, w) 0–1, without padding.
        rule: `wang`, 60 and 180 of 255 (Wang et al., ChestX-ray8, 2017); `otsu`; `xray`, the smaller of 1.77 times the
            map's mean and 0.77 (X_RAY); or a number from 0 to 1.

    Returns:
        One or two numbers; none for a constant map.

    Raises:
        CxrError: an unknown rule.
    """
    check_rule(rule)
    if heat.size == 0 or heat.min() == heat.max():
        return ()
    if not isinstance(rule, str):
        return (float(rule),)
    if rule == "wang":
        return WANG
    return (float(threshold_otsu(heat)),) if rule == "otsu" else (min(XRAY_FACTOR * float(heat.mean()), XRAY_HIGH),)


def check_rule(rule: Rule) -> Rule:
    """Returns a rule.

    Raises:
        CxrError: it is none.
    """
    if isinstance(rule, str) and rule not in RULES:
        raise CxrError(f"rule '{rule}': known are {', '.join(RULES)} and a number from 0 to 1")
    if not isinstance(rule, str) and not 0 <= rule <= 1:
        raise CxrError(f"threshold {rule}: must lie in 0–1")
    return rule


def find_boxes(heat: np.ndarray, geometry: np.ndarray, rule: Rule = "wang") -> FoundBoxes:
    """Boxes around the connected regions of a heatmap that lie above its threshold; diagonal pixels are connected.

    Args:
        heat: (S, S) 0–1 in store geometry; what lies in the padding is left out.
        geometry: (8,) of its image.
        rule: see `thresholds`; with two thresholds the boxes of both.

    Returns:
        The boxes, those of the lowest threshold first; none for a constant map.

    Raises:
        CxrError: an unknown rule.
    """
    window = content_window(geometry)
    inside = heat[window]
    corner = np.array([window[1].start, window[0].start, 0, 0], np.float64)
    found: dict[tuple[int, ...], float] = {}
    for threshold in thresholds(inside, rule):
        for left, top, width, height in mask_boxes(inside > threshold).astype(int):
            highest = float(inside[top : top + height, left : left + width].max())
            found.setdefault((left, top, width, height), highest)
    boxes = np.array(list(found), np.float64).reshape(-1, 4)
    return FoundBoxes(boxes_to_original(boxes + corner, geometry), np.array(list(found.values())))


def mask_boxes(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool → (D, 4) [x, y, w, h] around its connected regions; diagonal pixels are connected."""
    found = [region.bbox for region in regionprops(label(mask, connectivity=2))]
    return np.array([(left, top, right - left, bottom - top) for top, left, bottom, right in found], float).reshape(
        -1, 4
    )


def find_mask(heat: np.ndarray, geometry: np.ndarray, rule: Rule = "otsu") -> np.ndarray:
    """The part of the original image where a heatmap lies above its threshold (the lower one of two).

    The threshold is found on the map, which is then enlarged bilinearly and cut, so that edges are smooth.

    Args:
        heat: (S, S) 0–1 in store geometry.
        geometry: (8,) of its image.
        rule: see `thresholds`.

    Returns:
        (height, width) bool at original size; empty for a constant map.

    Raises:
        CxrError: an unknown rule.
    """
    cut = thresholds(heat[content_window(geometry)], rule)
    original = map_to_original(heat, geometry)
    return original > cut[0] if cut else np.zeros(original.shape, bool)
