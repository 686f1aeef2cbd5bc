"""Figures, and reports as one self-contained HTML file."""

from cxrmonai.report.classification import classification_report, evaluation_figures, write_evaluation
from cxrmonai.report.figures import (
    auroc_bars,
    auroc_forest,
    confusion_figure,
    image_grid,
    png_bytes,
    precision_recall_curves,
    reliability_curves,
    roc_curves,
    subgroup_points,
)
from cxrmonai.report.html import Estimate, Report
from cxrmonai.report.predictions import COMPARISON_NOTE, compare_runs, prediction_table

__all__ = [
    "COMPARISON_NOTE",
    "Estimate",
    "Report",
    "auroc_bars",
    "auroc_forest",
    "classification_report",
    "compare_runs",
    "confusion_figure",
    "evaluation_figures",
    "image_grid",
    "png_bytes",
    "precision_recall_curves",
    "prediction_table",
    "reliability_curves",
    "roc_curves",
    "subgroup_points",
    "write_evaluation",
]
