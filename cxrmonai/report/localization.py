"""What localisation leaves: the files and report of an inference, the scores and report of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrmonai import distributed
from cxrmonai.data.store import Store
from cxrmonai.data.vocabulary import canonical
from cxrmonai.errors import CxrError
from cxrmonai.explain.boxes import Rule
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.explain.products import export, write_boxes, write_masks
from cxrmonai.explain.scoring import Thresholds, score
from cxrmonai.explain.truth import StoreTruth
from cxrmonai.files import write_json
from cxrmonai.metrics.localization import MARGIN, MEASURES, THRESHOLDS
from cxrmonai.report.html import Estimate, Report
from cxrmonai.report.overlays import Overlay, contact_sheet, make_overlay, most_probable, write_overlays

SHEET_SIZE = 24
SYNTHETIC = (
    "Synthetic images: these radiographs were generated (phantom), they are of no patient. The numbers show that the "
    "software works; they say nothing about real radiographs."
)
CAUTION = (
    "A heatmap shows what a classifier goes by, which may be a tube, a text or the exposure rather than the finding, "
    "and each map is scaled to its own maximum: also where the finding is absent some place is brightest. Not for "
    "diagnosis."
)
_WANG_NAMES = (
    "Atelectasis",
    "Cardiomegaly",
    "Pleural Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
WANG_2017 = {  # accuracy: measure, threshold, then the findings above
    ("iou", "0.1"): (0.6888, 0.9383, 0.6601, 0.7073, 0.4000, 0.1392, 0.6333, 0.3775),
    ("iou", "0.5"): (0.0500, 0.1780, 0.1111, 0.0650, 0.0117, 0.0126, 0.0333, 0.0306),
    ("iobb", "0.1"): (0.7277, 0.9931, 0.7124, 0.7886, 0.4352, 0.1645, 0.7500, 0.4591),
    ("iobb", "0.25"): (0.5500, 0.9794, 0.5424, 0.5772, 0.2823, 0.0506, 0.5583, 0.3469),
    ("iobb", "0.5"): (0.2833, 0.8767, 0.3333, 0.4227, 0.1411, 0.0126, 0.3833, 0.1836),
}


def published_accuracy(finding: str, measure: str, threshold: str) -> float | None:
    """Accuracy that Wang et al. (ChestX-ray8, 2017, table 4) report on the boxes of ChestX-ray14; `None` if none."""
    values = WANG_2017.get((measure, threshold))
    name = canonical(finding)
    return values[_WANG_NAMES.index(name)] if values and name in _WANG_NAMES else None


def write_localisation(
    output_dir: str | os.PathLike[str],
    heatmap_file: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    box_rule: Rule = "wang",
    mask_rule: Rule = "otsu",
    min_probability: float = 0.0,
    overlays: int = 24,
    export_as: str = "none",
) -> None:
    """Makes boxes, masks, overlays and a report of heatmaps, and says where they are; rank 0 does it.

    Args:
        output_dir: gets `boxes.csv`, `masks.json`, `overlays/`, `report.html`, and what `export_as` names.
        heatmap_file: see `explain.heatmaps`.
        data_file: the store of their images.
        box_rule: see `explain.boxes.thresholds`.
        mask_rule: likewise.
        min_probability: findings below it get no boxes and an empty mask.
        overlays: how many of the most probable images and findings are drawn.
        export_as: `none` or `chexlocalize`.

    Raises:
        CxrError: an unknown rule or export, or the folder cannot be written to.
    """
    if distributed.rank() != 0:
        return
    folder, heatmaps, store = Path(output_dir), Heatmaps(heatmap_file), Store(data_file)
    boxes = write_boxes(folder / "boxes.csv", heatmaps, store, box_rule, min_probability)
    write_masks(folder / "masks.json", heatmaps, store, mask_rule, min_probability)
    exported = export(export_as, folder, heatmaps, store, mask_rule, min_probability)
    drawn = _overlays(heatmaps, store, overlays, dict.fromkeys(heatmaps.class_names, box_rule))
    write_overlays(folder / "overlays", drawn)
    report = Report("Where a classifier sees findings", f"{len(heatmaps)} images, method {heatmaps.method}")
    if store.synthetic:
        report.note(SYNTHETIC)
    report.note(CAUTION)
    report.section("Boxes")
    report.text(f"Boxes around the regions above the threshold ({box_rule}), in boxes.csv in original pixels.")
    probability = heatmaps.probability
    report.table(
        ["Finding", "Boxes", "Mean probability", "Images above 0.5"],
        [
            (
                name,
                int((boxes["finding"] == name).sum()),
                float(probability[:, k].mean()),
                int((probability[:, k] > 0.5).sum()),
            )
            for k, name in enumerate(heatmaps.class_names)
        ],
    )
    _add_sheet(report, drawn)
    report.save(folder / "report.html")
    lines = [f"{len(boxes)} boxes of {len(heatmaps)} images in {folder / 'boxes.csv'}; see {folder / 'report.html'}"]
    lines += [f"for CheXlocalize's scripts: {exported}"] if exported else []
    print("\n".join(lines))


def _overlays(
    heatmaps: Heatmaps, store: Store, count: int, rules: Mapping[str, Rule], allowed: np.ndarray | None = None
) -> list[Overlay]:
    truth = StoreTruth(store, heatmaps.class_names)
    return [
        make_overlay(heatmaps, store, truth, n, k, rules[heatmaps.class_names[k]])
        for n, k in most_probable(heatmaps, count, allowed)
    ]


def _add_sheet(report: Report, drawn: list[Overlay]) -> None:
    if not drawn:
        return
    report.section("Most probable findings")
    report.figure(
        contact_sheet(drawn[:SHEET_SIZE]),
        "Heat over the radiograph, with the finding and its probability. Boxes: predicted drawn through, true dashed.",
        "Radiographs with heatmaps and boxes: " + "; ".join(each.caption for each in drawn[:SHEET_SIZE]),
    )


def write_scores(
    output_dir: str | os.PathLike[str],
    heatmap_file: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    rules: Sequence[Thresholds],
    facts: Mapping[str, object],
    resamples: int = 1000,
    seed: int = 0,
    overlays: int = 12,
) -> dict[str, Any]:
    """Scores heatmaps, writes `metrics.json`, `overlays/` and `report.html`, and says the result; rank 0 does it.

    Args:
        output_dir: gets the files.
        heatmap_file: of the images under test.
        data_file: the store with their truth.
        rules: where maps are cut for boxes, and where for masks.
        facts: to be listed, such as classifier and split.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
        overlays: how many of the most probable findings with a known place are drawn.

    Returns:
        What `metrics.json` holds, see `explain.scoring.score`.

    Raises:
        CxrError: the folder cannot be written to.
    """
    if distributed.rank() != 0:
        return {}
    folder, heatmaps, store = Path(output_dir), Heatmaps(heatmap_file), Store(data_file)
    if len(heatmaps) == 0:
        raise CxrError(f"{heatmap_file}: holds no heatmaps to score")
    box_rules, mask_rules = rules
    summary = score(heatmaps, store, box_rules, mask_rules, resamples, seed)
    splits, counts = np.unique(store.column("split")[heatmaps.rows], return_counts=True)
    summary = {
        "synthetic": store.synthetic,
        "method": heatmaps.method,
        "facts": dict(facts),
        "splits": dict(zip(splits.tolist(), counts.tolist(), strict=True)),
        "box_thresholds": dict(box_rules.values),
        "mask_thresholds": dict(mask_rules.values),
        "threshold_notes": {**box_rules.reasons, **mask_rules.reasons},
        "bootstrap": {"resamples": resamples, "seed": seed},
        **summary,
        "wang_2017": {
            name: {f"{m} {t}": published_accuracy(name, m, t) for m, t in WANG_2017}
            for name in heatmaps.class_names
            if canonical(name) in _WANG_NAMES
        },
    }
    write_json(folder / "metrics.json", summary)
    truth = StoreTruth(store, heatmaps.class_names)
    placed = np.array(
        [
            [
                (boxes := truth.boxes(int(row), k)) is not None and len(boxes) > 0
                for k in range(len(heatmaps.class_names))
            ]
            for row in heatmaps.rows
        ]
    )
    drawn = _overlays(heatmaps, store, overlays, box_rules.values, placed)
    write_overlays(folder / "overlays", drawn)
    _score_report(summary, drawn).save(folder / "report.html")
    overlap = summary["overlap"]
    print(
        f"hit rate {_told(summary['mean_hit_rate'])} ({_told(summary['mean_near_hit_rate'])} near the finding), "
        f"mIoU {_told(overlap['mean_miou'])} with errors, "
        f"{_told(overlap['mean_miou_true_positive'])} of true positives alone, on {summary['images']} "
        f"{'synthetic ' if store.synthetic else ''}radiographs; see {folder / 'report.html'}"
    )
    return summary


def _told(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"


def _score_report(summary: Mapping[str, Any], drawn: list[Overlay]) -> Report:
    report = Report(
        "Localisation without boxes to learn from",
        f"Method {summary['method']}, {summary['images']} images of {summary['patients']} patients",
    )
    if summary["synthetic"]:
        report.note(SYNTHETIC)
    report.note(CAUTION)
    seen = {name: count for name, count in summary["splits"].items() if name in ("train", "val")}
    if seen:
        listed = " and ".join(f"{count} of {name}" for name, count in seen.items())
        report.note(
            f"Among the images are {listed}: the classifier or its thresholds were chosen on them, which flatters. Its "
            "training saw neither boxes nor masks."
        )
    report.section("Model and data")
    report.table(["Fact", "Value"], [(key, str(value)) for key, value in summary["facts"].items()])
    report.section("Pointing")
    report.text(
        "Hit rate: the share of images with the finding whose highest point of the map lies in it; near it: in it, or "
        f"no more than {MARGIN:.0%} of the image's edge away, as the pointing game allows (Zhang et al., 2018; its 15 "
        "pixels). Brackets hold 95 % intervals from resampling patients; a dash stands for a value that is not defined."
    )
    findings = summary["findings"]
    report.table(
        ["Finding", "Images", "True boxes", "Hit rate", "Near it", "Boxes per image without it"],
        [
            (
                name,
                row["images"],
                row["boxes"],
                Estimate(row["hit_rate"], *row["hit_rate_ci"]),
                Estimate(row["near_hit_rate"], *row["near_hit_rate_ci"]),
                Estimate(row["boxes_where_absent"], *row["boxes_where_absent_ci"]),
            )
            for name, row in findings.items()
        ],
        footer=(
            "Mean",
            None,
            None,
            Estimate(summary["mean_hit_rate"], *summary["mean_hit_rate_ci"]),
            Estimate(summary["mean_near_hit_rate"], *summary["mean_near_hit_rate_ci"]),
            None,
        ),
    )
    _add_boxes(report, findings)
    _add_overlap(report, summary)
    _add_sheet(report, drawn)
    return report


def _add_boxes(report: Report, findings: Mapping[str, Any]) -> None:
    report.section("Boxes")
    report.text(
        "Accuracy at T: the share of true boxes that some predicted box overlaps by more than T. IoU is the "
        "intersection over the union, IoBB that over the predicted box. AFP: predicted boxes that overlap no true one, "
        "per image with the finding. In recall each predicted box finds one true box at most. Published: Wang et al., "
        "ChestX-ray8, CVPR 2017, on the boxes of ChestX-ray14, whose images and classifier were others."
    )
    for measure, title in zip(MEASURES, ("IoU", "IoBB"), strict=True):
        rows = []
        for name, row in findings.items():
            if not row["boxes"]:
                continue
            part = row[measure]
            for label in ("accuracy", "recall", "afp"):
                cells = [Estimate(part[label][str(t)], *part[f"{label}_ci"][str(t)]) for t in THRESHOLDS]
                rows.append((f"{name}, {label if label != 'afp' else 'AFP'}", *cells))
            published = [published_accuracy(name, measure, str(t)) for t in THRESHOLDS]
            if any(value is not None for value in published):
                rows.append((f"{name}, accuracy published 2017", *published))
        if rows:
            report.table([title, *(f"T = {t}" for t in THRESHOLDS)], rows)


def _add_overlap(report: Report, summary: Mapping[str, Any]) -> None:
    overlap, rules = summary["overlap"], summary["mask_thresholds"]
    report.section("Overlap of masks")
    report.text(
        "Mean IoU at original size, as CheXlocalize defines it: of the images where prediction and truth are not empty "
        "(true positives alone, so that predicting nothing costs nothing), and of those where one of them is not (with "
        "errors). Where only boxes are known, the truth is the filled box."
    )
    report.table(
        ["Finding", "Threshold", "Images with it", "mIoU, true positives", "mIoU, with errors"],
        [
            (
                name,
                str(rules[name]),
                row["positives"],
                Estimate(row["miou_true_positive"], *row["miou_true_positive_ci"]),
                Estimate(row["miou"], *row["miou_ci"]),
            )
            for name, row in overlap["classes"].items()
        ],
    )
    for name, why in summary["threshold_notes"].items():
        report.text(f"{name}: {why}.")
