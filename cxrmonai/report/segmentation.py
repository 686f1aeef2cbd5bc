"""The files an evaluation of a segmenter leaves: metrics, counts by image, masks and a report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cxrmonai import distributed
from cxrmonai.engines import MaskScorer
from cxrmonai.engines.segmentation import COLOURS, paint
from cxrmonai.files import atomic_path, write_json
from cxrmonai.metrics.overlap import MEASURES, image_overlap, overlap_summary
from cxrmonai.report.figures import blank_figure
from cxrmonai.report.html import Estimate, Report

COUNTS = ("intersection", "predicted", "true")
LABELS = {
    "dice": "Dice",
    "miou": "mIoU",
    "miou_positive": "mIoU, mask there",
    "miou_true_positive": "mIoU, true positives",
    "miou_pooled": "IoU, pooled",
}
DEFINITIONS = (
    "Dice and mIoU: of each image at its original size, averaged over the images where a mask was drawn or predicted; "
    "a false alarm and a miss count 0.",
    "mIoU, mask there: averaged over the images where a mask was drawn; false alarms do not count.",
    "mIoU, true positives: averaged over the images where a mask was drawn and one was predicted, so that predicting "
    "nothing is not punished (the default of CheXlocalize).",
    "IoU, pooled: of the pixels of all images together (CheXseg); not to be compared with the others.",
)


def write_segmentation(
    output_dir: str | os.PathLike[str],
    scorer: MaskScorer,
    facts: Mapping[str, object] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes what a run of a scorer came to, and says the result; rank 0 does it, the others nothing.

    Args:
        output_dir: gets `metrics.json`, `overlap.csv` (pixel counts by image and class) and `report.html`.
        scorer: after its run.
        facts: to be listed in the report.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds.
    """
    if distributed.rank() != 0:
        return {}
    folder, store = Path(output_dir), scorer.dataset.store
    table = overlap_table(scorer)
    summary = summarise_overlap(table, scorer.class_names, resamples, seed)
    thresholds = dict(zip(scorer.class_names, scorer.thresholds.values.tolist(), strict=True))
    summary |= {"synthetic": store.synthetic, "thresholds": thresholds, "threshold_origin": scorer.thresholds.origin}
    write_json(folder / "metrics.json", summary)
    with atomic_path(folder / "overlap.csv") as temporary:
        table.to_csv(temporary, index=False)
    told = {**(facts or {}), "thresholds": scorer.thresholds.origin}
    segmentation_report(folder / "report.html", summary, told, overlays(scorer))
    print(f"{in_a_line(summary)}; see {folder / 'report.html'}")
    return summary


def in_a_line(summary: Mapping[str, Any]) -> str:
    """Mean Dice and mIoU with intervals, in words."""
    kind = "synthetic radiographs" if summary["synthetic"] else "radiographs"
    return (
        f"mean Dice {_interval(summary, 'dice')}, mean IoU {_interval(summary, 'miou')} on {summary['images']} {kind} "
        f"of {summary['patients']} patients"
    )


def _interval(summary: Mapping[str, Any], measure: str) -> str:
    low, high = summary[f"mean_{measure}_ci"]
    return f"{summary[f'mean_{measure}']:.3f} [{low:.3f}, {high:.3f}]"


def overlap_table(scorer: MaskScorer) -> pd.DataFrame:
    """Pixel counts as one row per image and class.

    Columns: `image_id`, `patient_id`, `split`, `class`, `intersection`, `predicted`, `true`; the counts are blank where
    the mask is unknown.
    """
    store, rows, names = scorer.dataset.store, scorer.dataset.rows, scorer.class_names
    about = {name: np.repeat(store.column(name)[rows], len(names)) for name in ("image_id", "patient_id", "split")}
    counts = dict(zip(COUNTS, scorer.counts.reshape(3, -1), strict=True))
    return pd.DataFrame({**about, "class": names * len(rows), **counts}).astype(dict.fromkeys(COUNTS, "Int64"))


def summarise_overlap(table: pd.DataFrame, class_names: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """The `overlap_summary` of a table of pixel counts; an image without a patient counts as its own.

    Args:
        table: as of `overlap_table`, the classes in their order for each image.
        class_names: K names.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    counts = table[list(COUNTS)].to_numpy(np.float64, na_value=np.nan).reshape(-1, len(class_names), 3)
    images = table.iloc[:: len(class_names)]
    patients = images["patient_id"].astype(str)
    groups = np.where(patients == "", "image " + images["image_id"].astype(str), "patient " + patients)
    summary = overlap_summary(*np.moveaxis(counts, 2, 0), class_names, groups, resamples, seed)
    splits = images["split"].value_counts().sort_index()
    bootstrap = {"resamples": resamples, "seed": seed, "level": 0.95, "unit": "patient"}
    return summary | {"splits": {str(name): int(count) for name, count in splits.items()}, "bootstrap": bootstrap}


def segmentation_report(
    path: str | os.PathLike[str],
    summary: Mapping[str, Any],
    facts: Mapping[str, object],
    pictures: Figure | None = None,
    title: str = "Segmentation",
) -> None:
    """Writes the report of an evaluation as one HTML file.

    Args:
        path: of the file.
        summary: of `summarise_overlap`, with `synthetic`.
        facts: to be listed.
        pictures: of `overlays`.
        title: the heading.
    """
    kind = "synthetic radiographs" if summary["synthetic"] else "radiographs"
    report = Report(title, f"{summary['images']} {kind} of {summary['patients']} patients")
    if summary["synthetic"]:
        report.note("Synthetic radiographs: these figures say nothing about patients.")
    report.tiles(
        (label, _number(summary[f"mean_{measure}"]), _small(summary[f"mean_{measure}_ci"]))
        for measure, label in LABELS.items()
    )
    report.section("Classes")
    rows = [
        [
            name,
            *(Estimate(row[measure], *row[f"{measure}_ci"]) for measure in MEASURES),
            row["images"],
            row["positives"],
            row["predicted_positives"],
        ]
        for name, row in summary["classes"].items()
    ]
    headers = ["Class", *(LABELS[measure] for measure in MEASURES), "Images", "Drawn", "Predicted"]
    report.table(headers, rows, "With 95 % intervals from resampling patients")
    for text in DEFINITIONS:
        report.text(text)
    if pictures is not None:
        report.section("Masks")
        caption = "In each pair the masks as drawn (left) and as predicted (right): best, middle and worst images."
        report.figure(pictures, caption, "Radiographs with coloured masks, drawn beside predicted")
    report.section("Facts")
    report.table(["What", "Value"], [[name, str(value)] for name, value in facts.items()])
    report.save(path)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _small(ends: Sequence[float]) -> str:
    return "" if math.isnan(ends[0]) else f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"


def overlays(scorer: MaskScorer, each: int = 4) -> Figure | None:
    """Draws the best, the middle and the worst of the images that a scorer kept, by their mean Dice.

    Args:
        scorer: after its run.
        each: images of each kind.

    Returns:
        A figure; `None` where no image has a mask, drawn or predicted.
    """
    dice = image_overlap(*scorer.counts[:, scorer.kept])[0]
    defined = np.flatnonzero(~np.isnan(dice).all(axis=1))
    if not len(defined):
        return None
    mean = np.nanmean(dice[defined], axis=1)
    order = defined[np.argsort(-mean, kind="stable")]
    middle = max(0, len(order) // 2 - each // 2)
    chosen = list(dict.fromkeys([*order[:each], *order[middle : middle + each], *order[-each:]]))
    images = scorer.dataset.store.images[scorer.dataset.rows[scorer.kept[chosen]]]
    pairs = []
    for image, place in zip(images, chosen, strict=True):
        grey = torch.from_numpy(image.astype(np.float32))[None]
        pairs.append([paint(grey, torch.from_numpy(masks)).permute(1, 2, 0).numpy() for masks in scorer.drawn[place]])
    shown = [f"Dice {np.nanmean(dice[place]):.2f}" for place in chosen]
    return pair_grid(pairs, shown, scorer.class_names)


def pair_grid(pairs: Sequence[Sequence[np.ndarray]], captions: Sequence[str], class_names: Sequence[str]) -> Figure:
    """Pairs of colour pictures side by side, with a legend of the classes.

    Args:
        pairs: N of two (H, W, 3) arrays, 0–1.
        captions: N texts.
        class_names: K names, in the order of `COLOURS`.
    """
    columns = min(4, len(pairs))
    lines = math.ceil(len(pairs) / columns)
    figure = blank_figure(lines * (12 / columns / 2 + 0.3) + 0.6)
    for k, (pair, caption) in enumerate(zip(pairs, captions, strict=True)):
        axes = figure.add_subplot(lines, columns, k + 1)
        axes.imshow(np.concatenate(pair, axis=1))
        axes.set_axis_off()
        axes.set_title(caption, fontsize=10)
    marks = [Patch(color=COLOURS[k % len(COLOURS)], label=name) for k, name in enumerate(class_names)]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(6, len(marks)), frameon=False, fontsize=9)
    return figure
