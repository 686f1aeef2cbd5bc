"""The report of a classifier, and the files that an evaluation leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch.utils.tensorboard import SummaryWriter

from cxrmonai.files import atomic_path, write_json
from cxrmonai.metrics import Evaluation, evaluation_summary
from cxrmonai.report.figures import (
    auroc_bars,
    auroc_forest,
    confusion_figure,
    png_bytes,
    precision_recall_curves,
    reliability_curves,
    roc_curves,
    subgroup_points,
)
from cxrmonai.report.html import Estimate, Report
from cxrmonai.report.predictions import prediction_table
from cxrmonai.report.wording import (
    FEW_IMAGES,
    cautions,
    count,
    few_images,
    findings_in_words,
    methods,
    tested,
    undefined,
)

SYNTHETIC = (
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
        report.note(SYNTHETIC)
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
    figures = {
        "roc": roc_curves(truth, score, class_names),
        "precision_recall": precision_recall_curves(truth, score, class_names),
    }
    _add_curves(report, figures, class_names)
    report.save(path)


def write_evaluation(
    output_dir: str | os.PathLike[str],
    evaluation: Evaluation,
    title: str = "Evaluation of a classifier",
    resamples: int = 1000,
    seed: int = 0,
    writer: SummaryWriter | None = None,
) -> dict[str, Any]:
    """Writes what came of an evaluation, each file atomically; every figure is drawn once.

    Args:
        output_dir: gets `predictions.csv` (see `prediction_table`), `metrics.json`, a PNG for each of
            `evaluation_figures`, and `report.html`, which holds everything and needs no other file.
        evaluation: predictions on the images under test.
        title: of the report.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
        writer: TensorBoard's, which gets the figures as well, as `evaluation/NAME`.

    Returns:
        What `metrics.json` holds, see `cxrmonai.metrics.evaluation_summary`; NaN is written as null.

    Raises:
        CxrError: the folder cannot be written to.
    """
    folder = Path(output_dir)
    summary = evaluation_summary(evaluation, resamples, seed)
    figures = {name: png_bytes(figure) for name, figure in evaluation_figures(evaluation, summary).items()}
    report = _evaluation_report(evaluation, summary, figures, title)
    with atomic_path(folder / "predictions.csv") as temporary:
        prediction_table(evaluation).to_csv(temporary, index=False)
    for name, png in figures.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png)
        if writer is not None:
            writer.add_image(f"evaluation/{name}", _pixels(png), dataformats="HWC")
    report.save(folder / "report.html")
    write_json(folder / "metrics.json", summary)
    return summary


def _pixels(png: bytes) -> np.ndarray:
    """(H, W, 3) uint8, RGB."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def evaluation_figures(evaluation: Evaluation, summary: Mapping[str, Any] | None = None) -> dict[str, Figure]:
    """The figures of an evaluation, for the report and for TensorBoard.

    Args:
        evaluation: predictions on the images under test.
        summary: of `evaluation_summary`; made here where it is left out.

    Returns:
        `auroc` (forest plot), `roc`, `precision_recall`, `reliability`, for a multi-class model `confusion`, and
        `subgroups` where sex, age or view are known.
    """
    summary = evaluation_summary(evaluation) if summary is None else summary
    truth, probability, names = evaluation.truth, evaluation.probability, evaluation.class_names
    calibrated = None if evaluation.operating is None else evaluation.calibrated
    figures = {
        "auroc": auroc_forest(summary),
        "roc": roc_curves(truth, probability, names),
        "precision_recall": precision_recall_curves(truth, probability, names),
        "reliability": reliability_curves(truth, probability, names, calibrated),
    }
    if "multiclass" in summary:
        figures["confusion"] = confusion_figure(summary["multiclass"]["confusion"], names)
    if summary["subgroups"]:
        figures["subgroups"] = subgroup_points(summary["subgroups"])
    return figures


def _subtitle(summary: Mapping[str, Any]) -> str:
    findings = len(summary["findings"])
    kind = _kind(summary).lower()
    plural = "" if findings == 1 else "es" if kind == "class" else "s"
    return f"{findings} {kind}{plural} on {count(summary['images'], 'image')}"


def _kind(summary: Mapping[str, Any]) -> str:
    return "Class" if summary.get("task") == "multiclass" else "Finding"


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
    headers = [_kind(summary), "Positive", "Negative", "AUROC [95 % CI]", "AP [95 % CI]"]
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
    few = few_images(summary)
    if few:
        report.note(f"Fewer than {FEW_IMAGES} images with or without the finding, too few to judge: {', '.join(few)}.")


def _estimate(finding: Mapping[str, Any] | None, key: str) -> Estimate:
    return Estimate(None) if finding is None else Estimate(finding[key], *finding[f"{key}_ci"])


def _mean_label(summary: Mapping[str, Any]) -> str:
    areas = [finding["auroc"] for finding in summary["findings"].values()]
    defined = sum(not undefined(area) for area in areas)
    return "Mean" if defined == len(areas) else f"Mean of {defined} defined"


def _add_curves(report: Report, figures: Mapping[str, Figure | bytes], class_names: Sequence[str]) -> None:
    blue = "Each finding in blue over the others in grey; the" if len(class_names) > 1 else "The"
    names = ", ".join(class_names)
    report.section("Receiver operating characteristic")
    report.figure(
        figures["roc"],
        f"{blue} dashed diagonal is guessing.",
        f"ROC curves, one panel for each of: {names}. Each holds the AUROC of the table above.",
    )
    report.section("Precision and recall")
    report.figure(
        figures["precision_recall"],
        f"{blue} dashed line is the share of positive images, which is what guessing reaches.",
        f"Precision-recall curves, one panel for each of: {names}. Each holds the AP of the table above.",
    )


def _interval(ends: Sequence[float | None]) -> str:
    if any(undefined(end) for end in ends):
        return ""
    return "95 % CI {:.3f} to {:.3f}".format(*ends)


def _fact(value: object) -> object:
    """Writes a number as text, so that it stands at the left among other facts and keeps its digits."""
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        return value
    return str(value) if isinstance(value, Integral) else f"{float(value):.6g}"


def _evaluation_report(
    evaluation: Evaluation, summary: Mapping[str, Any], figures: Mapping[str, bytes], title: str
) -> Report:
    report = Report(title, subtitle=_subtitle(summary))
    if evaluation.synthetic:
        report.note(SYNTHETIC)
    report.box("In plain words", [tested(summary)], findings_in_words(evaluation, summary))
    report.box("Cautions", [], cautions(evaluation, summary), caution=True)
    _add_tiles(report, summary, None, ())
    report.section("Results")
    report.text(_METHOD)
    _add_results(report, summary, None, ())
    names = ", ".join(evaluation.class_names)
    report.figure(
        figures["auroc"],
        "AUROC with 95 % intervals, best first; the dashed line is guessing.",
        f"Forest plot of AUROC for: {names}. The table above holds the numbers.",
    )
    _add_notes(report, summary)
    if "multiclass" in summary:
        _add_multiclass(report, summary["multiclass"], figures["confusion"])
    _add_operating_points(report, summary)
    _add_calibration(report, evaluation, summary, figures["reliability"])
    _add_subgroups(report, summary, figures.get("subgroups"))
    _add_curves(report, figures, evaluation.class_names)
    report.section("Methods and references")
    for paragraph in methods(summary):
        report.text(paragraph)
    report.section("Facts")
    report.table(["Fact", "Value"], [(key, _fact(value)) for key, value in _facts(evaluation, summary).items()])
    return report


def _add_notes(report: Report, summary: Mapping[str, Any]) -> None:
    rows = [(name, "; ".join(row["notes"])) for name, row in summary["findings"].items() if row["notes"]]
    if not rows:
        return
    if len(rows) > 1 and len({text for _, text in rows}) == 1:
        rows = [("All" if len(rows) == len(summary["findings"]) else ", ".join(name for name, _ in rows), rows[0][1])]
    report.table([_kind(summary), "Why a number is missing"], rows)


def _add_multiclass(report: Report, part: Mapping[str, Any], figure: bytes) -> None:
    report.section("Classes")
    names = {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "macro_f1": "Macro F1",
        "mean_auroc": "Mean AUROC, one against the rest",
        "quadratic_kappa": "Quadratic weighted kappa",
    }
    rows = [(text, _estimate(part, key)) for key, text in names.items() if key in part]
    report.table(["Measure", "Value [95 % CI]"], rows)
    report.figure(
        figure,
        "Images by true and predicted class; the percentage is of the true class.",
        f"Confusion matrix of {', '.join(part['classes'])}.",
    )


def _add_operating_points(report: Report, summary: Mapping[str, Any]) -> None:
    multiclass = summary["task"] == "multiclass"
    report.section("Each class called or not" if multiclass else "At the thresholds")
    if multiclass:
        report.text("A class is called where it is the most probable one.")
    elif summary["operating_points"] is None:
        report.text("No thresholds were given.")
        return
    else:
        report.text(f"{_sentence(summary['operating_points'])} They are applied to the images under test as they are.")
    headers = [_kind(summary), "Threshold", "Sensitivity [95 % CI]", "Specificity [95 % CI]"]
    rates = [*headers, "PPV", "NPV", "F1"]
    rows = [
        [name, row["threshold"], _estimate(row, "sensitivity"), _estimate(row, "specificity")]
        + [row[key] for key in ("ppv", "npv", "f1")]
        for name, row in summary["findings"].items()
    ]
    counts = ["true_positives", "false_negatives", "false_positives", "true_negatives", "accuracy"]
    if multiclass:
        rates.pop(1)
        rows = [[row[0], *row[2:]] for row in rows]
    report.table(rates, rows)
    report.table(
        [headers[0], "Caught", "Missed", "False alarms", "Rightly cleared", "Accuracy"],
        [[name, *(row[key] for key in counts)] for name, row in summary["findings"].items()],
        caption="Images counted",
    )


def _add_calibration(report: Report, evaluation: Evaluation, summary: Mapping[str, Any], figure: bytes) -> None:
    report.section("Calibration")
    report.text(
        "A probability is calibrated when, of all images given 0.3, three in ten have the finding. The Brier score is "
        "the mean squared error of the probability, ECE (expected calibration error) its mean distance from the "
        "observed share; 0 is best for both."
    )
    headers = [_kind(summary), "Brier", "ECE", "ECE, equal numbers"]
    keys = ["brier", "ece", "ece_mass"]
    if evaluation.operating is not None:
        headers += ["Temperature", "Brier, scaled", "ECE, scaled"]
        keys += ["temperature", "brier_calibrated", "ece_calibrated"]
    rows = [[name, *(row[key] for key in keys)] for name, row in summary["findings"].items()]
    report.table(headers, rows)
    report.figure(
        figure,
        "Observed share against probability, ten bins of equal width; larger marks hold more images, whiskers are 95 % "
        "intervals, the dashed diagonal is perfect.",
        f"Reliability curves, one panel for each of: {', '.join(evaluation.class_names)}.",
    )


def _add_subgroups(report: Report, summary: Mapping[str, Any], figure: bytes | None) -> None:
    if figure is None:
        return
    report.section("Subgroups")
    report.text(
        "The gap is the highest minus the lowest value over the groups with enough images of either class, with the "
        "interval of the difference between those two groups. Many groups are compared without correction, and the "
        "two furthest apart are picked: a gap whose interval includes 0 says little, and one that does not asks for a "
        "second look rather than proving anything."
    )
    report.figure(
        figure,
        "AUROC by group, images in brackets; hollow marks have too few images with or without the finding.",
        f"AUROC of each finding by {', '.join(summary['subgroups'])}. The tables below hold the numbers.",
    )
    for attribute, part in summary["subgroups"].items():
        groups = part["groups"]
        sizes = [
            f"{name}: {count(row['images'], 'image')} of {count(row['patients'], 'patient')}"
            for name, row in groups.items()
        ]
        unknown = f"; unknown: {count(part['unknown'], 'image')}" if part["unknown"] else ""
        rows = []
        for finding, gaps in part["gaps"].items():
            cells = [_estimate(row["findings"][finding], "auroc") for row in groups.values()]
            rows.append([finding, *cells, _gap_cell(gaps["auroc"])])
        caption = f"AUROC by {attribute} [95 % CI]. {'; '.join(sizes)}{unknown}."
        report.table([_kind(summary), *groups, "Gap"], rows, caption)
        _add_group_rates(report, _kind(summary), attribute, part)
        few = [name for name, gaps in part["gaps"].items() if gaps["auroc"]["reason"]]
        if few:
            listed = "all findings" if len(few) == len(part["gaps"]) else ", ".join(few)
            least = f"fewer than two groups have {part['minimum']} images with and {part['minimum']} without it"
            report.text(f"No gap by {attribute} for {listed}: {least}.")


def _add_group_rates(report: Report, kind: str, attribute: str, part: Mapping[str, Any]) -> None:
    """Sensitivity and specificity of each group in one cell, where any is defined."""
    rows, groups = [], part["groups"]
    for finding, gaps in part["gaps"].items():
        found = [row["findings"][finding] for row in groups.values()]
        cells = [" / ".join(_two_digits(row[key]) for key in ("sensitivity", "specificity")) for row in found]
        apart = " / ".join(_two_digits(gaps[key]["gap"]) for key in ("sensitivity", "specificity"))
        rows.append([finding, *cells, apart])
    if any(character.isdigit() for row in rows for cell in row[1:] for character in cell):
        report.table([kind, *groups, "Gap"], rows, f"Sensitivity / specificity by {attribute}")


def _facts(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, object]:
    splits = [f"{name or 'none'}: {count(number, 'image')}" for name, number in summary["splits"].items()]
    own = {"Split": splits, "Operating points": summary["operating_points"], "Synthetic images": evaluation.synthetic}
    return {**evaluation.facts, **{key: value for key, value in own.items() if key not in evaluation.facts}}


def _gap_cell(gap: Mapping[str, Any]) -> Estimate:
    return Estimate(gap["gap"], *gap["gap_ci"])


def _two_digits(value: float | None) -> str:
    return "\N{EN DASH}" if undefined(value) else f"{value:.2f}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
