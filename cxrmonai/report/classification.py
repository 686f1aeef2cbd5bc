"""The report of a multi-label classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from numpy.typing import ArrayLike

from cxrmonai.report.figures import auroc_bars, precision_recall_curves, roc_curves
from cxrmonai.report.html import Estimate, Report

FEW_IMAGES = 10

_SYNTHETIC = (
    "Synthetic images: these radiographs were generated (phantom), they are of no patient. The numbers show that the "
    "software works; they have no clinical meaning and say nothing about real radiographs."
)
_METHOD = (
    "AUROC is the chance that the model scores an image with the finding higher than one without it: 0.5 is guessing, "
    "1 is perfect. Precision is the share of images with the finding among those called positive; average precision "
    "(AP) is its mean over the thresholds at which one more image with the finding is caught, and guessing gives the "
    "share of positive images. Brackets hold 95 % intervals from resampling patients with replacement (percentile "
    "bootstrap). Images whose label is unknown for a finding are left out of that finding; a dash "
    "stands for a value that is not defined."
)


def classification_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, Any],
    truth: ArrayLike,
    score: ArrayLike,
    class_names: Sequence[str],
    description: Mapping[str, object],
    baseline: Mapping[str, Any] | None = None,
    synthetic: bool = False,
    labels: Sequence[str] = ("trained", "untrained"),
) -> None:
    """Writes the report of a classifier: facts, results with intervals, ROC and precision-recall curves, bars.

    Args:
        path: the HTML file to write.
        title: of the report.
        summary: of `cxrmonai.metrics.classification_summary` on `truth` and `score`.
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN (unknown).
        score: finite numbers of the same shape.
        class_names: C names, the keys of `summary["findings"]`.
        description: facts to list, such as data set, split, encoder.
        baseline: the summary of a model to compare with, such as the untrained one, on the same images.
        synthetic: whether the images are a phantom, which the report then says first.
        labels: what to call the model and the baseline.

    Raises:
        CxrError: arrays or names that do not fit, or a path that cannot be written.
    """
    report = Report(title, subtitle=_subtitle(summary))
    if synthetic:
        report.note(_SYNTHETIC)
    _add_tiles(report, summary, baseline, labels)
    if description:
        report.section("Model and data")
        report.table(["Fact", "Value"], [(key, _fact(value)) for key, value in description.items()])
    report.section("Results")
    report.text(_METHOD)
    _add_results(report, summary, baseline, labels)
    report.figure(
        auroc_bars(summary, baseline, labels),
        "AUROC from the chance line at 0.5, best finding first; whiskers are 95 % intervals.",
        f"Horizontal bars of AUROC for: {', '.join(class_names)}. The table above holds the numbers.",
    )
    _add_figures(report, truth, score, class_names)
    report.save(path)


def _subtitle(summary: Mapping[str, Any]) -> str:
    findings = len(summary["findings"])
    return f"{findings} finding{'s' if findings != 1 else ''} on {summary['images']} images"


def _add_tiles(
    report: Report, summary: Mapping[str, Any], baseline: Mapping[str, Any] | None, labels: Sequence[str]
) -> None:
    area = "Mean AUROC" if len(summary["findings"]) > 1 else "AUROC"
    tiles = [(area, summary["mean_auroc"], _interval(summary["mean_auroc_ci"]))]
    if baseline is not None:
        tiles.append((f"{area}, {labels[1]}", baseline["mean_auroc"], _interval(baseline["mean_auroc_ci"])))
    tiles += [("Images", summary["images"], ""), ("Patients", summary["patients"], "")]
    report.tiles(tiles)


def _add_results(
    report: Report, summary: Mapping[str, Any], baseline: Mapping[str, Any] | None, labels: Sequence[str]
) -> None:
    headers = ["Finding", "Positive", "Negative", "AUROC [95 % CI]", "AP [95 % CI]"]
    footer = [_mean_label(summary), "", "", Estimate(summary["mean_auroc"], *summary["mean_auroc_ci"]), ""]
    if baseline is not None:
        headers.append(f"AUROC, {labels[1]}")
        footer.append(Estimate(baseline["mean_auroc"], *baseline["mean_auroc_ci"]))
    rows = []
    for name, finding in summary["findings"].items():
        row = [name, finding["positives"], finding["negatives"], _estimate(finding, "auroc")]
        row.append(_estimate(finding, "average_precision"))
        if baseline is not None:
            row.append(_estimate(baseline["findings"].get(name), "auroc"))
        rows.append(row)
    report.table(headers, rows, footer=footer if len(rows) > 1 else None)
    few = _few_images(summary)
    if few:
        report.note(f"Fewer than {FEW_IMAGES} images with or without the finding, too few to judge: {', '.join(few)}.")


def _estimate(finding: Mapping[str, Any] | None, key: str) -> Estimate:
    return Estimate(None) if finding is None else Estimate(finding[key], *finding[f"{key}_ci"])


def _mean_label(summary: Mapping[str, Any]) -> str:
    areas = [finding["auroc"] for finding in summary["findings"].values()]
    defined = sum(area is not None and area == area for area in areas)
    return "Mean" if defined == len(areas) else f"Mean of {defined} defined"


def _few_images(summary: Mapping[str, Any]) -> list[str]:
    findings = summary["findings"].items()
    return [name for name, finding in findings if min(finding["positives"], finding["negatives"]) < FEW_IMAGES]


def _add_figures(report: Report, truth: ArrayLike, score: ArrayLike, class_names: Sequence[str]) -> None:
    blue = "Each finding in blue over the others in grey; the" if len(class_names) > 1 else "The"
    names = ", ".join(class_names)
    report.section("Receiver operating characteristic")
    report.figure(
        roc_curves(truth, score, class_names),
        f"{blue} dashed diagonal is guessing.",
        f"ROC curves, one panel for each of: {names}. Each holds the AUROC of the table above.",
    )
    report.section("Precision and recall")
    report.figure(
        precision_recall_curves(truth, score, class_names),
        f"{blue} dashed line is the share of positive images, which is what guessing reaches.",
        f"Precision-recall curves, one panel for each of: {names}. Each holds the AP of the table above.",
    )


def _interval(ends: Sequence[float | None]) -> str:
    if any(end is None or end != end for end in ends):
        return ""
    return "95 % CI {:.3f} to {:.3f}".format(*ends)


def _fact(value: object) -> object:
    """Writes a number as text, so that it stands at the left among other facts and keeps its digits."""
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        return value
    return str(value) if isinstance(value, Integral) else f"{float(value):.6g}"
