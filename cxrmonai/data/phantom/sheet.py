"""A sheet of pictures with the outlines of their findings."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cxrmonai.data.phantom.render import render
from cxrmonai.data.phantom.study import Study
from cxrmonai.errors import CxrError

COLOURS: dict[str, tuple[int, int, int]] = {
    "Atelectasis": (255, 225, 25),
    "Cardiomegaly": (230, 60, 75),
    "Consolidation": (60, 200, 90),
    "Edema": (70, 150, 255),
    "Fracture": (245, 130, 48),
    "Mass": (240, 50, 230),
    "Nodule": (255, 160, 200),
    "Pleural Effusion": (70, 240, 240),
    "Pneumothorax": (190, 255, 70),
    "Support Devices": (200, 150, 255),
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION, _FOOTER, _GAP = 34, 24, 4


def outline_sheet(studies: Sequence[Study], size: int = 256, columns: int = 4) -> np.ndarray:
    """Renders studies side by side with the outline of each finding in its colour, captions, and a footer.

    Args:
        studies: at least one.
        size: side of each picture in pixels, 32 to 2048.
        columns: pictures in a row, at least 1.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        CxrError: no study is given, or `size` or `columns` is out of range.
    """
    if not studies:
        raise CxrError("studies: nothing to draw; give at least one phantom study")
    if columns < 1:
        raise CxrError(f"columns: {columns} is too few; give 1 or more")
    columns = min(columns, len(studies))
    rows = -(-len(studies) // columns)
    step_x, step_y = size + _GAP, size + _CAPTION + _GAP
    sheet = np.full((rows * step_y + _FOOTER, columns * step_x + _GAP, 3), 16, np.uint8)
    for k, study in enumerate(studies):
        top, left = (k // columns) * step_y + _GAP, (k % columns) * step_x + _GAP
        sheet[top : top + size + _CAPTION, left : left + size] = _cell(study, size)
    footer = "synthetic radiographs (cxrmonai phantom): no patient is shown"
    cv2.putText(sheet, footer, (_GAP + 2, sheet.shape[0] - 8), _FONT, 0.42, (200, 200, 200), 1, cv2.LINE_AA)
    return sheet


def _cell(study: Study, size: int) -> np.ndarray:
    radiograph = render(study, size)
    picture = cv2.cvtColor(radiograph.image, cv2.COLOR_GRAY2RGB)
    for (finding, *_), mask in zip(radiograph.boxes, radiograph.lesions, strict=True):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, COLOURS[finding], 1, cv2.LINE_AA)
    cell = np.full((size + _CAPTION, size, 3), 16, np.uint8)
    cell[:size] = picture
    who = f"synthetic  {study.age:.0f} y  {study.sex}  {study.view}"
    cv2.putText(cell, who, (2, size + 13), _FONT, 0.38, (220, 220, 220), 1, cv2.LINE_AA)
    _caption(cell, study, size)
    return cell


def _caption(cell: np.ndarray, study: Study, size: int) -> None:
    left = 2
    for finding in study.findings or ("No finding",):
        colour = COLOURS.get(finding, (150, 150, 150))
        width = cv2.getTextSize(finding, _FONT, 0.33, 1)[0][0]
        if left + width > size and left > 2:
            cv2.putText(cell, "...", (left, size + 28), _FONT, 0.33, (150, 150, 150), 1, cv2.LINE_AA)
            return
        cv2.putText(cell, finding, (left, size + 28), _FONT, 0.33, colour, 1, cv2.LINE_AA)
        left += width + 8
