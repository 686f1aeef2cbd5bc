"""Figures, and reports as one self-contained HTML file."""

from cxrmonai.report.classification import classification_report
from cxrmonai.report.figures import auroc_bars, image_grid, png_bytes, precision_recall_curves, roc_curves
from cxrmonai.report.html import Estimate, Report

__all__ = [
    "Estimate",
    "Report",
    "auroc_bars",
    "classification_report",
    "image_grid",
    "png_bytes",
    "precision_recall_curves",
    "roc_curves",
]
