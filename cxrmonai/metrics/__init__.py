"""Metrics: pure functions on arrays."""

from cxrmonai.metrics.bootstrap import (
    Interval,
    bootstrap_auroc,
    bootstrap_average_precision,
    bootstrap_interval,
    bootstrap_samples,
    percentile_interval,
)
from cxrmonai.metrics.classification import classification_summary
from cxrmonai.metrics.ranking import (
    auroc,
    average_precision,
    precision_recall_points,
    ranked_auroc,
    ranked_average_precision,
    roc_points,
)

__all__ = [
    "Interval",
    "auroc",
    "average_precision",
    "bootstrap_auroc",
    "bootstrap_average_precision",
    "bootstrap_interval",
    "bootstrap_samples",
    "classification_summary",
    "percentile_interval",
    "precision_recall_points",
    "ranked_auroc",
    "ranked_average_precision",
    "roc_points",
]
