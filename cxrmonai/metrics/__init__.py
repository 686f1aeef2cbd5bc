"""Metrics: pure functions on arrays."""

from cxrmonai.metrics.bootstrap import (
    Interval,
    bootstrap_auroc,
    bootstrap_average_precision,
    bootstrap_interval,
    bootstrap_samples,
    bootstrap_sums,
    percentile_interval,
)
from cxrmonai.metrics.calibration import (
    apply_softmax_temperature,
    apply_temperatures,
    brier_score,
    expected_calibration_error,
    fit_softmax_temperature,
    fit_temperatures,
    reliability_curve,
)
from cxrmonai.metrics.classification import classification_summary
from cxrmonai.metrics.comparison import compare_models, holm
from cxrmonai.metrics.delong import delong_covariance, delong_test
from cxrmonai.metrics.evaluation import Evaluation, OperatingPoints, evaluation_summary, fit_operating_points
from cxrmonai.metrics.multiclass import confusion_matrix, confusion_measures, multiclass_summary
from cxrmonai.metrics.operating_points import apply_thresholds, choose_thresholds
from cxrmonai.metrics.ranking import (
    auroc,
    average_precision,
    precision_recall_points,
    ranked_auroc,
    ranked_average_precision,
    roc_points,
)
from cxrmonai.metrics.subgroups import age_bands, subgroup_summary

__all__ = [
    "Evaluation",
    "Interval",
    "OperatingPoints",
    "age_bands",
    "apply_softmax_temperature",
    "apply_temperatures",
    "apply_thresholds",
    "auroc",
    "average_precision",
    "bootstrap_auroc",
    "bootstrap_average_precision",
    "bootstrap_interval",
    "bootstrap_samples",
    "bootstrap_sums",
    "brier_score",
    "choose_thresholds",
    "classification_summary",
    "compare_models",
    "confusion_matrix",
    "confusion_measures",
    "delong_covariance",
    "delong_test",
    "evaluation_summary",
    "expected_calibration_error",
    "fit_operating_points",
    "fit_softmax_temperature",
    "fit_temperatures",
    "holm",
    "multiclass_summary",
    "percentile_interval",
    "precision_recall_points",
    "ranked_auroc",
    "ranked_average_precision",
    "reliability_curve",
    "roc_points",
    "subgroup_summary",
]
