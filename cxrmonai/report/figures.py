"""Figures of the report: drawn with Agg through the object-oriented interface, so that no global state is touched."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.calibration import reliability_curve
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.ranking import auroc, average_precision, precision_recall_points, roc_points

DPI = 150
_WIDTH = 12.0
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B5B95", "#22303c")
_MARKERS = "osD^vPX*"
_BLUE, _ORANGE, _INK, _FAINT, _GRID = "#0072B2", "#D55E00", "#22303c", "#c3ccd4", "#e6eaee"
_CURVE_POINTS = 800

_BOX = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
_LEGEND = {"ncols": 2, "frameon": False, "fontsize": 10, "handletextpad": 0.3, "columnspacing": 1.0}

Curve = tuple[np.ndarray, np.ndarray]


def roc_curves(truth: ArrayLike, score: ArrayLike, class_names: Sequence[str]) -> Figure:
    """ROC curves, one panel for each finding with the others in grey behind, titled with the AUROC.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN (unknown).
        score: finite numbers of the same shape.
        class_names: C names.

    Returns:
        A figure; a finding with one class gets a panel that says so.

    Raises:
        CxrError: as `cxrmonai.metrics.auroc`, or names that do not fit the columns.
    """
    truth, score = check_columns(truth, score, class_names)
    curves = [_thin(*roc_points(*column)) for column in zip(truth.T, score.T, strict=True)]
    figure, panels = _panels(len(class_names))
    for index, axes in enumerate(panels):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _draw_curves(axes, curves, index, "default")
        area = auroc(truth[:, index], score[:, index])
        _label_panel(axes, class_names[index], "AUROC", area, (0.96, 0.06))
        axes.fill_between(*curves[index], color=_BLUE, alpha=0.10, linewidth=0)
    figure.supxlabel("False positive rate (1 minus specificity)", fontsize=12, color=_INK)
    figure.supylabel("True positive rate (sensitivity)", fontsize=12, color=_INK)
    return figure


def precision_recall_curves(truth: ArrayLike, score: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Precision-recall curves, one panel for each finding, with the prevalence (chance) dashed.

    Takes, returns and raises as `roc_curves`.
    """
    truth, score = check_columns(truth, score, class_names)
    curves = [_thin(*_steps(*_precision_recall(*column))) for column in zip(truth.T, score.T, strict=True)]
    figure, panels = _panels(len(class_names))
    for index, axes in enumerate(panels):
        known = truth[~np.isnan(truth[:, index]), index]
        if len(known):
            axes.axhline(known.mean(), color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _draw_curves(axes, curves, index, "steps-pre")
        precision = average_precision(truth[:, index], score[:, index])
        _label_panel(axes, class_names[index], "AP", precision, (0.96, 0.90))
        axes.fill_between(*curves[index], color=_BLUE, alpha=0.10, linewidth=0, step="pre")
    figure.supxlabel("Recall (sensitivity)", fontsize=12, color=_INK)
    figure.supylabel("Precision (positive predictive value)", fontsize=12, color=_INK)
    return figure


def auroc_bars(
    summary: Mapping[str, Any],
    baseline_summary: Mapping[str, Any] | None = None,
    labels: Sequence[str] = ("trained", "untrained"),
) -> Figure:
    """Horizontal bars of AUROC from the chance line at 0.5, best finding first, with whiskers for the interval.

    Args:
        summary: of `cxrmonai.metrics.classification_summary`; null or NaN is a value that is not defined.
        baseline_summary: the same of a model to compare with, which gets a second bar for each finding it has.
        labels: names of the two, for the legend.

    Returns:
        A figure of one row for each finding and, for two findings or more, one for the mean.
    """
    rows = _bar_rows(summary)
    models = [(dict(rows), labels[0], _BLUE)]
    if baseline_summary is not None:
        models.append((dict(_bar_rows(baseline_summary)), labels[1], _ORANGE))
    figure = _figure(1.3 + (0.34 if len(models) == 1 else 0.52) * len(rows))
    axes = figure.add_subplot()
    ends = [_draw_bars(axes, [name for name, _ in rows], models, index) for index in range(len(models))]
    axes.axvline(0.5, color=_INK, linewidth=1)
    axes.set_xlim(max(0.0, min([0.45, *(end - 0.03 for end in ends)])), 1.0)
    _name_rows(axes, [name for name, _ in rows])
    if len(rows) > 1:
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color=_FAINT, linewidth=1)
    axes.set_xticks([tick / 10 for tick in range(11) if tick / 10 >= axes.get_xlim()[0]])
    axes.set_xlabel("AUROC with 95 % interval; the line at 0.5 is chance", fontsize=12, color=_INK)
    if len(models) == 2:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=11)
    return figure


def auroc_forest(summary: Mapping[str, Any]) -> Figure:
    """Forest plot of AUROC: a point and its interval for each finding, best first, the numbers at the right.

    Args:
        summary: of `cxrmonai.metrics.classification_summary`; null or NaN is a value that is not defined.

    Returns:
        A figure of one row for each finding and, for two findings or more, a diamond for the mean.
    """
    rows = _bar_rows(summary)
    figure = _figure(1.3 + 0.36 * len(rows))
    axes = figure.add_subplot()
    leftmost = 0.5
    for row, (_, (value, low, high)) in enumerate(rows):
        axes.text(1.01, row, _with_interval(value, low, high), va="center", fontsize=11, color=_INK)
        if math.isnan(value):
            continue
        mean = row == 0 and len(rows) > 1
        axes.plot([low, high], [row, row], color=_INK, linewidth=1.4)
        axes.plot(
            value, row, marker="D" if mean else "s", markersize=9 if mean else 7, color=_ORANGE if mean else _BLUE
        )
        leftmost = float(np.nanmin([leftmost, value, low]))
    axes.axvline(0.5, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlim(max(0.0, min(0.45, leftmost - 0.03)), 1.0)
    axes.set_xticks([tick / 10 for tick in range(11) if tick / 10 >= axes.get_xlim()[0]])
    axes.set_xlabel("AUROC with 95 % interval; the dashed line at 0.5 is chance", fontsize=12, color=_INK)
    _name_rows(axes, [name for name, _ in rows])
    if len(rows) > 1:
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color=_FAINT, linewidth=1)
    return figure


def reliability_curves(
    truth: ArrayLike,
    probability: ArrayLike,
    class_names: Sequence[str],
    calibrated: ArrayLike | None = None,
    bins: int = 10,
) -> Figure:
    """Reliability curves, one panel for each finding: observed share against probability, in bins of equal width.

    The area of a marker goes with the images in its bin; whiskers are 95 % intervals of the share (Wilson).

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN (unknown).
        probability: 0–1, of the same shape.
        class_names: C names.
        calibrated: probability after temperature scaling, drawn in a second colour.
        bins: of equal width.

    Returns:
        A figure; a finding without a known image gets a panel that says so.

    Raises:
        CxrError: as `cxrmonai.metrics.reliability_curve`, or names that do not fit the columns.
    """
    truth, probability = check_columns(truth, probability, class_names)
    models = [(probability, _BLUE, "o", "as predicted")]
    if calibrated is not None:
        models.append((check_columns(truth, calibrated, class_names)[1], _ORANGE, "D", "after temperature scaling"))
    figure, panels = _panels(len(class_names))
    for index, axes in enumerate(panels):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for values, colour, marker, _ in models:
            curve = reliability_curve(truth[:, index], values[:, index], bins)
            if not len(curve.count):
                continue
            reach = np.maximum([curve.observed - curve.low, curve.high - curve.observed], 0)
            axes.errorbar(curve.predicted, curve.observed, yerr=reach, color=colour, alpha=0.45, linewidth=1.1)
            size = 14 + 90 * curve.count / curve.count.max()
            axes.scatter(curve.predicted, curve.observed, size, colour, marker=marker, zorder=3, alpha=0.9)
        axes.set_title(class_names[index], fontsize=12, color=_INK, fontweight="bold", loc="left", parse_math=False)
        if np.isnan(truth[:, index]).all():
            _say_undefined(axes, "not defined:\nno known label")
    if len(models) == 2:
        marks = [Line2D([], [], color=colour, marker=marker, label=label) for _, colour, marker, label in models]
        figure.legend(handles=marks, loc="outside upper right", ncols=2, frameon=False, fontsize=11)
    figure.supxlabel("Probability given by the model", fontsize=12, color=_INK)
    figure.supylabel("Share of images with the finding", fontsize=12, color=_INK)
    return figure


def confusion_figure(matrix: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Confusion matrix: counts in each cell, shaded by the share of the true class.

    Args:
        matrix: (C, C) counts, the true class in the row.
        class_names: C names.

    Raises:
        CxrError: a shape that does not fit the names.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(class_names), len(class_names)):
        shape = f"matrix has shape {matrix.shape}"
        raise CxrError(f"{shape} for {len(class_names)} class names; give (classes, classes) in their order")
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    edge = min(_WIDTH, 3.0 + 0.85 * len(class_names))
    figure = _figure(edge * 0.9, edge)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.55 else _INK
        text = f"{matrix[row, column]}\n{share[row, column]:.0%}" if total[row, 0] else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=11, color=colour)
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, class_names)) > 6 else {}
    axes.set_xticks(range(len(class_names)), class_names, parse_math=False, **slant)
    axes.set_yticks(range(len(class_names)), class_names, parse_math=False)
    axes.tick_params(length=0, labelsize=11, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Predicted class", fontsize=12, color=_INK)
    axes.set_ylabel("True class", fontsize=12, color=_INK)
    return figure


def subgroup_points(subgroups: Mapping[str, Any]) -> Figure:
    """AUROC of each finding in each group, one panel for each attribute, with 95 % intervals.

    A group with too few images of either class is drawn hollow.

    Args:
        subgroups: maps each attribute, such as `sex`, to what `cxrmonai.metrics.subgroup_summary` returns.

    Raises:
        CxrError: no attribute.
    """
    if not subgroups:
        raise CxrError("there are no subgroups to draw; give sex, age or view")
    findings = list(next(iter(subgroups.values()))["gaps"])
    most = max(len(part["groups"]) for part in subgroups.values())
    figure = _figure(2.3 + max(0.42, 0.15 * most) * len(findings))
    panels = [figure.add_subplot(1, len(subgroups), panel + 1) for panel in range(len(subgroups))]
    leftmost = min(_draw_groups(axes, part, findings) for axes, part in zip(panels, subgroups.values(), strict=True))
    for panel, (axes, attribute) in enumerate(zip(panels, subgroups, strict=True)):
        axes.axvline(0.5, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlim(max(-0.02, min(0.45, leftmost - 0.03)), 1.02)
        axes.set_title(attribute.capitalize(), fontsize=12, color=_INK, fontweight="bold", loc="left")
        _name_rows(axes, findings)
        axes.tick_params(labelleft=panel == 0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=3, **_LEGEND)
    figure.supxlabel("AUROC with 95 % interval; the dashed line at 0.5 is chance", fontsize=12, color=_INK)
    return figure


def image_grid(images: ArrayLike, captions: Sequence[str] | None = None, columns: int | None = None) -> Figure:
    """Radiographs side by side in grey, black to white over 0 to 255.

    Args:
        images: (N, H, W) uint8, N of 1 or more.
        captions: N texts to stand under the images.
        columns: images in a row; none gives up to 4.

    Raises:
        CxrError: another shape or type, or captions of another number.
    """
    images = np.asarray(images)
    if images.ndim != 3 or images.dtype != np.uint8 or not images.size:
        raise CxrError(f"images has shape {images.shape} of {images.dtype}; give (images, height, width) uint8")
    if captions is not None and len(captions) != len(images):
        raise CxrError(f"captions has {len(captions)} texts for {len(images)} images; give one for each")
    columns = max(1, min(columns or 4, len(images)))
    cell = _WIDTH / max(columns, 2)
    rows = math.ceil(len(images) / columns)
    height = min(cell * images.shape[1] / images.shape[2], 2 * cell) + (0.4 if captions is not None else 0.1)
    figure = _figure(rows * height, columns * cell)
    for index, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if captions is not None:
            axes.set_xlabel(captions[index], fontsize=11, color=_INK, parse_math=False)
    return figure


def blank_figure(height: float, width: float = _WIDTH) -> Figure:
    """An empty figure in the report's style, edges in inches at 150 dots each."""
    return _figure(height, width)


def png_bytes(figure: Figure) -> bytes:
    """Returns the figure as a PNG of 150 dots per inch, the same bytes for the same figure."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return content.getvalue()


def _draw_groups(axes: Axes, part: Mapping[str, Any], findings: Sequence[str]) -> float:
    """Draws the points of all groups of one attribute and returns the leftmost point drawn."""
    leftmost, groups = 0.5, part["groups"]
    for index, (group, content) in enumerate(groups.items()):
        colour, marker = _PALETTE[index % len(_PALETTE)], _MARKERS[index % len(_MARKERS)]
        shift = (index - (len(groups) - 1) / 2) * 0.7 / len(groups)
        for row, finding in enumerate(findings):
            numbers = content["findings"][finding]
            value, low, high = _numbers(numbers["auroc"], numbers["auroc_ci"])
            if math.isnan(value):
                continue
            enough = min(numbers["positives"], numbers["negatives"]) >= part["minimum"]
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1.1, alpha=0.7)
            axes.plot(value, row + shift, marker, color=colour, markersize=5.5, fillstyle="full" if enough else "none")
            leftmost = float(np.nanmin([leftmost, value, low]))
        axes.plot([], [], marker, color=colour, label=f"{group} ({content['images']})")
    return leftmost


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names the rows of a horizontal plot from the top down."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    _plain(axes)
    axes.grid(axis="x", color=_GRID)
    axes.tick_params(axis="y", length=0)


def _with_interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "not defined"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _say_undefined(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=_INK, bbox=_BOX)


def _figure(height: float, width: float = _WIDTH) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = 3 if count in (5, 6, 9) else min(count, 4)
    rows = math.ceil(count / columns)
    cell = _WIDTH / max(columns, 2)
    figure = _figure(rows * (cell + 0.25) + 0.4, columns * cell)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for index, axes in enumerate(panels):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        _plain(axes)
        axes.grid(color=_GRID)
        axes.tick_params(labelleft=index % columns == 0, labelbottom=index + columns >= count)
    return figure, panels


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=11, color=_FAINT, labelcolor=_INK)


def _draw_curves(axes: Axes, curves: Sequence[Curve], chosen: int, drawstyle: str) -> None:
    for index, curve in enumerate(curves):
        if index != chosen:
            axes.plot(*curve, color=_FAINT, linewidth=0.7, drawstyle=drawstyle)
    axes.plot(*curves[chosen], color=_BLUE, linewidth=2.2, drawstyle=drawstyle)


def _label_panel(axes: Axes, name: str, metric: str, value: float, place: tuple[float, float]) -> None:
    axes.set_title(name, fontsize=12, color=_INK, fontweight="bold", loc="left", parse_math=False)
    if math.isnan(value):
        _say_undefined(axes, "not defined:\none class only")
        return
    text = f"{metric} {value:.3f}"
    axes.text(*place, text, transform=axes.transAxes, ha="right", va="center", fontsize=12, color=_INK, bbox=_BOX)


def _precision_recall(truth: np.ndarray, score: np.ndarray) -> Curve:
    """The points of one column, none of which is defined where a class is absent."""
    recall, precision = precision_recall_points(truth, score)
    return (recall, precision) if (truth == 0).any() else (np.full_like(recall, np.nan), precision)


def _steps(recall: np.ndarray, precision: np.ndarray) -> Curve:
    """Keeps the points where recall rises: the steps whose area is the average precision."""
    rises = np.flatnonzero(np.diff(recall) > 0) + 1
    if not len(rises):
        return np.array([np.nan]), np.array([np.nan])
    return np.append(0.0, recall[rises]), np.append(precision[rises[0]], precision[rises])


def _thin(x: np.ndarray, y: np.ndarray) -> Curve:
    """Keeps about `_CURVE_POINTS` points, evenly along the length of the curve."""
    if len(x) <= _CURVE_POINTS or np.isnan(x).any() or np.isnan(y).any():
        return x, y
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS)))
    kept = np.union1d(kept, [0, len(x) - 1])
    return x[kept], y[kept]


def _bar_rows(summary: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Returns name and (value, low, high): the mean of several, then the findings from the best to the undefined."""
    findings = [(name, _numbers(row["auroc"], row["auroc_ci"])) for name, row in summary["findings"].items()]
    findings.sort(key=lambda row: -np.nan_to_num(row[1][0], nan=-1.0))
    if len(findings) == 1:
        return findings
    return [("Mean", _numbers(summary["mean_auroc"], summary["mean_auroc_ci"])), *findings]


def _numbers(value: float | None, ends: Sequence[float | None]) -> np.ndarray:
    return np.array([value, *ends], dtype=np.float64)


def _draw_bars(axes: Axes, names: Sequence[str], models: Sequence[tuple], index: int) -> float:
    """Draws the bars of one model and returns the leftmost point drawn."""
    values, label, colour = models[index]
    thickness = 0.62 / len(models)
    leftmost = 0.5
    for row, name in enumerate(names):
        value, low, high = values.get(name, np.full(3, np.nan))
        y = row + (index - (len(models) - 1) / 2) * thickness
        shown = "not defined" if math.isnan(value) else f"{value:.3f}"
        axes.text(1.01, y, shown, va="center", fontsize=11 if len(models) == 1 else 10, color=_INK)
        if math.isnan(value):
            continue
        axes.barh(y, value - 0.5, left=0.5, height=thickness * 0.92, color=colour, alpha=0.85 if row else 1.0)
        if not math.isnan(low):
            axes.errorbar(
                value, y, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color=_INK, capsize=2.5, lw=1.1
            )
        leftmost = float(np.nanmin([leftmost, value, low]))
    axes.barh([np.nan], [np.nan], color=colour, label=label)
    return leftmost
