"""The figure of a comparison of pretraining methods."""

from __future__ import annotations

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxrmonai.report.figures import DPI

MARKERS = ("o", "s", "^", "D", "v")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def comparison_figure(table: pd.DataFrame, title: str) -> Figure:
    """A point and its interval for each method and fraction of the labels, one panel for each probe.

    Args:
        table: of `pipelines.compare.comparison_table`; rows without figures are named below the panels.
        title: of the figure.

    Returns:
        The figure; methods are sorted by their figure with the most labels of the first probe.
    """
    scored = table[table["mean_auroc"].notna()]
    probes, fractions = scored["probe"].unique(), sorted(scored["labels"].unique())
    most = scored[(scored["probe"] == probes[0]) & (scored["labels"] == fractions[-1])]
    order = most.sort_values("mean_auroc")["method"].tolist()
    without = table[table["mean_auroc"].isna()]
    figure = Figure(
        figsize=(5.2 * len(probes) + 1.5, 1.8 + 0.5 * len(order) + 0.2 * len(without)), dpi=DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    collapsed = set(table.loc[table["collapsed"] == True, "method"])  # noqa: E712 - the column also holds None
    panels = figure.subplots(1, len(probes), sharey=True, squeeze=False)[0]
    for axes, probe in zip(panels, probes, strict=True):
        for k, fraction in enumerate(fractions):
            part = scored[(scored["probe"] == probe) & (scored["labels"] == fraction)].set_index("method").loc[order]
            places = [row + 0.22 * (k - (len(fractions) - 1) / 2) for row in range(len(order))]
            value = part["mean_auroc"].astype(float)
            ends = [
                (value - part["low"].astype(float)).clip(lower=0),
                (part["high"].astype(float) - value).clip(lower=0),
            ]
            style = {
                "fmt": MARKERS[k % len(MARKERS)],
                "color": COLOURS[k % len(COLOURS)],
                "capsize": 2,
                "markersize": 5,
            }
            axes.errorbar(value, places, xerr=ends, label=f"{100 * fraction:g} % of labels", **style)
        axes.axvline(0.5, color="0.6", linewidth=0.9, linestyle=(0, (4, 3)))
        names = [f"{name} (collapsed)" if name in collapsed else name for name in order]
        axes.set_yticks(range(len(order)), names)
        axes.set(title=f"{probe} probe", xlabel="mean AUROC, 95 % interval by patient")
        axes.grid(axis="y", color="0.92")
    panels[0].legend(loc="best", fontsize=8)
    notes = [f"{row.method}: {row.reason}" for row in without.itertuples()]
    figure.suptitle(title)
    if notes:
        figure.supxlabel(
            "\n".join(note if len(note) < 130 else note[:127] + "…" for note in notes), fontsize=7, ha="left", x=0.02
        )
    return figure
