"""Curves with intervals, one panel for each thing that is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cxrmonai.report.figures import _FAINT, _GRID, _INK, _LEGEND, _PALETTE, _WIDTH, _figure, _plain


class Line(NamedTuple):
    """One curve: its label, (T,) x and y, and (T,) ends of the interval, or `None`."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def curve_panels(
    panels: Mapping[str, Sequence[Line]],
    x_label: str,
    y_label: str,
    background: Mapping[str, Sequence[Line]] | None = None,
    limits: tuple[float, float] | None = None,
    chance: float | None = None,
    ticks: Sequence[str] | None = None,
) -> Figure:
    """Draws curves with their intervals as bands.

    Args:
        panels: title of each panel and its curves; a label has one colour in all.
        x_label: of all panels.
        y_label: of all panels.
        background: for some titles thin grey curves behind, without labels.
        limits: of the vertical axis.
        chance: where a dashed line is drawn across.
        ticks: words at x = 0, 1, 2, … in place of numbers.
    """
    figure = _figure(4.4, _WIDTH if len(panels) > 1 else 0.62 * _WIDTH)
    labels = list(dict.fromkeys(line.label for lines in panels.values() for line in lines))
    for place, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for line in (background or {}).get(title, ()):
            axes.plot(line.x, line.y, color=_FAINT, linewidth=0.9)
        if chance is not None:
            axes.axhline(chance, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for line in lines:
            colour = _PALETTE[labels.index(line.label) % len(_PALETTE)]
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
            marker = "o" if len(line.x) <= 12 else None
            axes.plot(line.x, line.y, color=colour, marker=marker, markersize=4.5, linewidth=2, label=line.label)
        if limits is not None:
            axes.set_ylim(*limits)
        _plain(axes)
        axes.grid(color=_GRID)
        axes.set_title(title, fontsize=12, color=_INK, fontweight="bold", loc="left", parse_math=False)
        if ticks is not None:
            slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(ticks) > 4 else {}
            axes.set_xticks(range(len(ticks)), ticks, parse_math=False, **slant)
        if place == 0 and len(labels) > 1:
            axes.legend(**{**_LEGEND, "ncols": 1})
    figure.supxlabel(x_label, fontsize=12, color=_INK)
    figure.supylabel(y_label, fontsize=12, color=_INK)
    return figure
