"""A store at a glance: a contact sheet and what its table holds, as one PNG."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from cxrmonai.data.quality import Findings
from cxrmonai.data.store import Store
from cxrmonai.data.table import SPLITS
from cxrmonai.files import atomic_path
from cxrmonai.report.figures import _BLUE, _FAINT, _GRID, _INK, _ORANGE, _figure, _plain, png_bytes

COLUMNS, SHEET, SHEET_WITH_SUSPECTS, SUSPECTS = 8, 24, 16, 4
MAX_FINDINGS, MAX_BARS = 30, 6
_PALE, _GREY, _PINK, _GREEN = "#eef1f4", "#9aa7b2", "#CC79A7", "#009E73"
_CELL, _LINE, _CHARTS = 1.47, 0.17, 3.9
_PIXELS = 256
_SEXES = (("F", "female", _PINK), ("M", "male", _GREEN), ("", "unknown", _GREY))
_STATES = ((1, "present", _BLUE), (-1, "uncertain", _ORANGE), (0, "absent", _FAINT), (None, "unknown", _PALE))

Panel = Callable[[Axes], None]


def draw_store(store: Store, findings: Findings | None, path: str | os.PathLike[str], seed: int = 0) -> Path:
    """Draws radiographs of each split, suspects, and counts of findings, age, sex, view, split and source.

    What is unknown for all images is left out. Images are named by their row at most: no id and no file name is on the
    picture.

    Args:
        store: an open store.
        findings: of `cxrmonai.data.quality.inspect`; without them no suspects are shown.
        path: of the PNG, about 1,800 pixels wide.
        seed: of the draw of radiographs.

    Returns:
        The path.

    Raises:
        CxrError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(store_figure(store, findings, seed)))
    return Path(path)


def store_figure(store: Store, findings: Findings | None, seed: int = 0) -> Figure:
    """The figure that `draw_store` writes; takes the same."""
    splits = store.column("split")
    views = store.column("view")
    warnings = findings.warnings() if findings is not None else []
    suspects = _suspects(findings) if findings is not None else []
    shown = [
        (row, " · ".join(filter(None, (str(splits[row]), _short(str(views[row]), 12)))))
        for row in draw_rows(splits, seed, SHEET_WITH_SUSPECTS if warnings else SHEET)
    ]
    label_panel = _label_panel(store)
    age_panel = _age_panel(store.column("age").astype(float), store.column("sex"))
    bars = [
        _count_panel("Sex", store.column("sex"), _SEXES),
        _count_panel("View", views),
        _count_panel("Split", splits, [(name, name or "none", _BLUE) for name in (*SPLITS, "")]),
    ]
    if "source" in store.columns and len(set(sources := store.column("source"))) > 1:
        bars.append(_count_panel("Source", sources))
    bars = [panel for panel in bars if panel]
    charts = bool(label_panel or age_panel or bars)
    text = [line for warning in warnings for line in textwrap.wrap(f"– {warning}", 82 if suspects else 170)]
    heights = [_height(shown)]
    heights += [max(_height(suspects), _LINE * len(text)) + 0.4] if text else []
    heights += [_CHARTS if label_panel else 0.55 * _CHARTS if age_panel else 0.4 * _CHARTS] if charts else []
    figure = _figure(sum(heights) + 0.55)
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    figure.suptitle(_title(store), fontsize=16, color=_INK, fontweight="bold", parse_math=False)
    parts = iter(np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)))
    _draw_images(next(parts), store, shown)
    if text:
        _draw_suspects(next(parts), store, suspects, text)
    if charts:
        _draw_charts(next(parts), label_panel, age_panel, bars)
    return figure


def draw_rows(splits: np.ndarray, seed: int, count: int = SHEET) -> list[int]:
    """Draws up to `count` rows, as evenly over the splits as they allow, in order of split and row."""
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(splits == name)) for name in (*SPLITS, "")]
    members = [rows for rows in members if len(rows)]
    taken = [0] * len(members)
    for _ in range(min(count, len(splits))):
        open_ones = [k for k, rows in enumerate(members) if taken[k] < len(rows)]
        taken[min(open_ones, key=lambda k: taken[k])] += 1
    return [int(row) for rows, number in zip(members, taken, strict=True) for row in np.sort(rows[:number])]


def _title(store: Store) -> str:
    images, patients = len(store), len(set(store.column("patient_id")))
    kind = "SYNTHETIC radiographs" if store.synthetic else "radiographs"
    people = f" of {patients:,} patients" if patients < images else ""
    return f"{images:,} {kind}{people}   ·   {store.size} × {store.size} px   ·   {_short(store.source, 40)}"


def _height(chosen: Sequence[tuple[int, str]]) -> float:
    lines = max((caption.count("\n") + 1 for _, caption in chosen if caption), default=0)
    return math.ceil(len(chosen) / COLUMNS) * (_CELL + 0.05 + _LINE * lines)


def _draw_suspects(part: SubFigure, store: Store, suspects: list[tuple[int, str]], text: list[str]) -> None:
    part.suptitle("To check", fontsize=13, color=_ORANGE, fontweight="bold", x=0.006, ha="left")
    words = part
    if suspects:
        pictures, words = part.subfigures(1, 2)
        _draw_images(pictures, store, suspects, SUSPECTS)
    words.text(0.01, 0.98 if suspects else 0.0, "\n".join(text), fontsize=9.5, color=_INK,
               va="top" if suspects else "bottom", parse_math=False)  # fmt: skip


def _suspects(findings: Findings) -> list[tuple[int, str]]:
    """Rows and captions: a pair of copies, then blank and inverted images in turn."""
    chosen: list[tuple[int, str]] = []
    if findings.copies:
        group = findings.copies[0]
        where = ", two splits" if group.across_splits else ""
        chosen = [(row, f"copies{where}\nrow {row}") for row in group.rows[:2]]
    kinds = [
        [(row, f"{name}\nrow {row}") for row in rows]
        for name, rows in (("blank", findings.blank), ("inverted?", findings.inverted))
    ]
    left = SUSPECTS - len(chosen)
    first = min(len(kinds[0]), max(left // 2, left - len(kinds[1])))
    return chosen + kinds[0][:first] + kinds[1][: left - first]


def _draw_images(part: SubFigure, store: Store, chosen: Sequence[tuple[int, str]], columns: int = COLUMNS) -> None:
    grid = part.subplots(math.ceil(len(chosen) / columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    white = np.iinfo(store.dtype).max
    for axes, (row, caption) in zip(grid.flat, chosen, strict=False):
        image = np.asarray(store.images[row])
        if store.size > _PIXELS:
            image = cv2.resize(image, (_PIXELS, _PIXELS), interpolation=cv2.INTER_AREA)
        axes.set_axis_on()
        axes.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="bicubic")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_xlabel(caption, fontsize=9, color=_INK, labelpad=2, parse_math=False)


def _draw_charts(part: SubFigure, label_panel: Panel | None, age_panel: Panel | None, bars: list[Panel]) -> None:
    side = part
    if label_panel and (age_panel or bars):
        left, side = part.subfigures(1, 2, width_ratios=(1, 1))
        label_panel(left.add_subplot())
    elif label_panel:
        label_panel(part.add_subplot())
        return
    if side is part:
        panels = [*([age_panel] if age_panel else []), *bars]
        for place, panel in enumerate(panels):
            panel(part.add_subplot(1, max(len(panels), 2), place + 1))
        return
    lines = math.ceil(len(bars) / 2)
    grid = side.add_gridspec(lines + bool(age_panel), 2, height_ratios=[1.3] * bool(age_panel) + [1.0] * lines)
    if age_panel:
        age_panel(side.add_subplot(grid[0, :]))
    for place, panel in enumerate(bars):
        panel(side.add_subplot(grid[place // 2 + bool(age_panel), place % 2]))


def _label_panel(store: Store) -> Panel | None:
    labels = store.labels
    known = np.isfinite(labels).any(0)
    if not known.any():
        return None
    counts = np.stack([np.isnan(labels).sum(0) if value is None else (labels == value).sum(0) for value, *_ in _STATES])
    order = [k for k in np.argsort(-counts[0], kind="stable") if known[k]]
    names = [_short(store.class_names[k], 28) for k in order[:MAX_FINDINGS]]
    counts, hidden = counts[:, order[:MAX_FINDINGS]], len(known) - min(len(order), MAX_FINDINGS)

    def draw(axes: Axes) -> None:
        places = np.arange(len(names))
        size = 10 if len(names) <= 16 else 7.5
        for k, (_, name, colour) in enumerate(_STATES):
            if counts[k].any():
                axes.barh(places, counts[k], left=counts[:k].sum(0), height=0.78, color=colour, label=name)
        for place in places:
            axes.text(1.015, place, f"{counts[0, place]:,}", transform=axes.get_yaxis_transform(), va="center",
                      fontsize=size, color=_BLUE)  # fmt: skip
        _plain(axes)
        axes.set(xlim=(0, len(labels)), ylim=(max(len(names), 6) - 0.4, -0.6))
        axes.set_yticks(places, names, fontsize=size, parse_math=False)
        axes.tick_params(axis="x", labelsize=9)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.06), ncols=4, frameon=False, fontsize=9,
                    handlelength=1, handleheight=0.9, columnspacing=1, borderpad=0, labelcolor=_INK)  # fmt: skip
        _name(axes, "Images by finding" + (f" ({hidden} more findings)" if hidden else ""))

    return draw


def _age_panel(ages: np.ndarray, sexes: np.ndarray) -> Panel | None:
    known = np.isfinite(ages)
    if not known.any():
        return None
    edges = np.arange(0, 5 * (math.floor(ages[known].max() / 5) + 1) + 1, 5)
    groups = [(ages[known & (sexes == key)], name, colour) for key, name, colour in _SEXES]
    groups = [group for group in groups if len(group[0])]

    def draw(axes: Axes) -> None:
        values, names, colours = zip(*groups, strict=True)
        axes.hist(values, edges, stacked=True, color=colours, label=names, rwidth=0.9)
        _plain(axes)
        axes.grid(axis="y", color=_GRID)
        axes.tick_params(labelsize=9)
        axes.set_xlim(edges[np.searchsorted(edges, ages[known].min(), side="right") - 1] - 1, edges[-1] + 1)
        missing = int((~known).sum())
        _name(axes, "Age in years" + (f" ({missing:,} unknown)" if missing else ""))
        if names != ("unknown",):
            axes.legend(loc="best", frameon=False, fontsize=9, handlelength=1, handleheight=0.9, labelcolor=_INK)

    return draw


def _count_panel(title: str, values: np.ndarray, order: Sequence[tuple[str, str, str]] = ()) -> Panel | None:
    """Bars of how often each value occurs: in the given order of key, name and colour, or the most frequent first."""
    counts = pd.Series(values).astype(str).value_counts()
    if set(counts.index) == {""}:
        return None
    rest = sorted((key for key in counts.index if key not in {key for key, *_ in order}), key=lambda key: -counts[key])
    bars = [(name, int(counts[key]), colour) for key, name, colour in order if key in counts]
    bars += [(_short(key or "unknown", 18), int(counts[key]), _BLUE if key else _GREY) for key in rest]
    if len(bars) > MAX_BARS:
        others = bars[MAX_BARS - 1 :]
        bars = [*bars[: MAX_BARS - 1], (f"{len(others)} others", sum(count for _, count, _ in others), _GREY)]

    def draw(axes: Axes) -> None:
        places = np.arange(len(bars))
        names, numbers, colours = zip(*bars, strict=True)
        axes.barh(places, numbers, height=0.7, color=colours)
        for place, number in enumerate(numbers):
            share = f"{number:,}  ({100 * number / len(values):.0f} %)"
            axes.text(number + 0.02 * max(numbers), place, share, va="center", fontsize=9, color=_INK)
        _plain(axes)
        axes.set(xlim=(0, 1.5 * max(numbers)), ylim=(max(len(bars), 3) - 0.4, -0.6))
        axes.set_yticks(places, names, fontsize=9, parse_math=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _name(axes, title)

    return draw


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, color=_INK, fontweight="bold", loc="left", parse_math=False)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
