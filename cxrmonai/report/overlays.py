"""Radiographs with a heatmap over them, and with predicted and true boxes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxrmonai.data.geometry import boxes_to_store, content_window
from cxrmonai.data.store import Store
from cxrmonai.explain.boxes import Rule, find_boxes
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.explain.truth import StoreTruth
from cxrmonai.files import atomic_path
from cxrmonai.report.figures import _figure, png_bytes

PREDICTED, TRUE = "#00e5ff", "#ffffff"
_STRENGTH = 0.55  # of the heat where it is 1


@dataclass(frozen=True)
class Overlay:
    """One image and finding, in store pixels without the padding.

    Attributes:
        image_id: of the image.
        finding: of the map.
        probability: of the finding.
        image: (h, w) uint8 or uint16.
        heat: (h, w) 0–1.
        predicted: (D, 4) boxes [x, y, w, h].
        true: (T, 4) boxes, or `None` where they are unknown.
        synthetic: whether the image is generated.
    """

    image_id: str
    finding: str
    probability: float
    image: np.ndarray
    heat: np.ndarray
    predicted: np.ndarray
    true: np.ndarray | None
    synthetic: bool = False

    @property
    def caption(self) -> str:
        """The finding and its probability."""
        return f"{self.finding}  {self.probability:.2f}"


def most_probable(heatmaps: Heatmaps, count: int, allowed: np.ndarray | None = None) -> list[tuple[int, int]]:
    """The images and findings of the highest probability; findings take turns while theirs is 0.5 or more.

    Args:
        heatmaps: to choose from.
        count: how many at most.
        allowed: (N, K) bool, which may be chosen; all by default.

    Returns:
        Pairs of places: image, class.
    """
    probability = heatmaps.probability if allowed is None else np.where(allowed, heatmaps.probability, -1)
    turn = np.argsort(np.argsort(-probability, axis=0, kind="stable"), axis=0, kind="stable")
    turn = np.where(probability >= 0.5, turn, len(turn))
    order = np.lexsort((-probability.ravel(), turn.ravel()))[:count]
    pairs = [(int(place) // probability.shape[1], int(place) % probability.shape[1]) for place in order]
    return [(n, k) for n, k in pairs if probability[n, k] >= 0]


def make_overlay(heatmaps: Heatmaps, store: Store, truth: StoreTruth, n: int, k: int, rule: Rule = "wang") -> Overlay:
    """Collects what is drawn of one image and finding.

    Args:
        heatmaps: of images of the store.
        store: with the images.
        truth: of the same classes.
        n: place of the image among the heatmaps.
        k: place of the class.
        rule: of the predicted boxes.
    """
    row, heat = int(heatmaps.rows[n]), heatmaps.maps([n])[0, k]
    geometry = store.geometry[row]
    window = content_window(geometry)
    corner = np.array([window[1].start, window[0].start, 0, 0], float)
    true = truth.boxes(row, k)
    return Overlay(
        heatmaps.image_ids[n],
        heatmaps.class_names[k],
        float(heatmaps.probability[n, k]),
        np.asarray(store.images[row][window]),
        heat[window],
        boxes_to_store(find_boxes(heat, geometry, rule).boxes, geometry) - corner,
        None if true is None else boxes_to_store(true, geometry) - corner,
        store.synthetic,
    )


def overlay_figure(overlay: Overlay) -> Figure:
    """One overlay with its colour bar; predicted boxes drawn through, true ones dashed."""
    figure = _figure(6.2, 6.6)
    axes = figure.add_subplot()
    _draw(axes, overlay, 2.0)
    axes.set_title(f"{overlay.caption}\n{overlay.image_id}", fontsize=11, loc="left", parse_math=False)
    _colour_bar(figure, axes)
    kind = "synthetic radiograph; " if overlay.synthetic else ""
    axes.set_xlabel(f"{kind}boxes: predicted drawn through, true dashed", fontsize=9)
    return figure


def contact_sheet(overlays: Sequence[Overlay], columns: int = 4) -> Figure:
    """Overlays side by side with one colour bar."""
    columns = min(columns, len(overlays))
    rows = -(-len(overlays) // columns)
    figure = _figure(3.2 * rows, 12.0 if columns > 1 else 5.0)
    panels = []
    for place, overlay in enumerate(overlays):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw(axes, overlay, 1.4)
        kind = "synthetic, " if overlay.synthetic else ""
        axes.set_title(f"{kind}{overlay.caption}", fontsize=10, loc="left", parse_math=False)
        panels.append(axes)
    _colour_bar(figure, panels)
    return figure


def write_overlays(folder: str | os.PathLike[str], overlays: Sequence[Overlay]) -> None:
    """Writes `IMAGE_FINDING.png` for each overlay."""
    for overlay in overlays:
        name = re.sub(r"[^\w.-]+", "_", f"{overlay.image_id}_{overlay.finding}")
        with atomic_path(Path(folder) / f"{name}.png") as temporary:
            temporary.write_bytes(png_bytes(overlay_figure(overlay)))


def _heat_colours() -> ListedColormap:
    """Transparent where there is no heat, so that the radiograph shows."""
    ramp = np.linspace(0, 1, 256)
    colours = np.stack([np.clip(1.5 * ramp + 0.25, 0, 1), np.clip(1.2 - 1.2 * ramp, 0, 1) * 0.85, 0 * ramp], axis=1)
    return ListedColormap(np.column_stack([colours, _STRENGTH * ramp]))


def _draw(axes: Axes, overlay: Overlay, width: float) -> None:
    axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=np.iinfo(overlay.image.dtype).max)
    axes.imshow(overlay.heat, cmap=_heat_colours(), vmin=0, vmax=1)
    for boxes, colour, style in ((overlay.predicted, PREDICTED, "-"), (overlay.true, TRUE, (0, (4, 2)))):
        for x, y, w, h in [] if boxes is None else boxes:
            axes.add_patch(  # pixel i is drawn from i − 0.5 to i + 0.5
                Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
            )
    axes.set_xticks([])
    axes.set_yticks([])


def _colour_bar(figure: Figure, axes: Axes | Sequence[Axes]) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _heat_colours()), ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("heat, each map scaled to 0–1", fontsize=9)
