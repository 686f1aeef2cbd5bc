"""Heatmaps against the truth of a store: boxes, pointing, overlap of masks; thresholds from validation images alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from cxrmonai import distributed
from cxrmonai.data.geometry import map_to_original
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError
from cxrmonai.explain.boxes import Rule, check_rule, find_boxes, find_mask
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.explain.localising import AttributionInferer, heatmaps_of
from cxrmonai.explain.truth import StoreTruth
from cxrmonai.metrics.localization import (
    MARGIN,
    BoxCounts,
    box_summary,
    count_boxes,
    hit_rates,
    mean_hit_rate,
    pointing_hit,
)
from cxrmonai.metrics.overlap import mask_counts, overlap_summary
from cxrmonai.networks import Classifier
from cxrmonai.progress import progress_bar

CANDIDATES = tuple(np.round(np.arange(0.2, 0.81, 0.05), 2).tolist())  # as CheXlocalize tunes, over 0.2 … 0.8
TUNED = "tuned"
FALLBACK = "otsu"
VALIDATION = "val"
NO_TRUTH = "no validation image has a box or mask of it; Otsu's threshold instead"


@dataclass(frozen=True)
class Thresholds:
    """Where the maps of each class are cut.

    Attributes:
        values: class → rule or number, see `boxes.thresholds`.
        reasons: class → why it has the fallback in place of a number of its own.
        images: class → validation images that its number was chosen on.
    """

    values: Mapping[str, Rule]
    reasons: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


def truth_rows(data_file: str | os.PathLike[str], split: str, class_names: Sequence[str]) -> np.ndarray:
    """Rows of a split whose boxes or masks are known for some class.

    Raises:
        CxrError: there is none.
    """
    store = Store(data_file)
    rows = StoreTruth(store, class_names).rows(split)
    if len(rows) == 0:
        raise CxrError(
            f"{data_file}: no image of split {split} has a box or mask of {', '.join(class_names)}; "
            "nothing could be scored"
        )
    return rows


def tune_thresholds(heatmaps: Heatmaps, store: Store) -> Thresholds:
    """Chooses for each class the threshold of the best mean IoU over the images that have the finding.

    Args:
        heatmaps: of validation images.
        store: with their truth.

    Returns:
        A number of `CANDIDATES` for each class (the lower of equals), Otsu's rule where no image has its truth.
    """
    truth = StoreTruth(store, heatmaps.class_names)
    total = np.zeros((len(heatmaps.class_names), len(CANDIDATES)))
    count = np.zeros(len(heatmaps.class_names), int)
    for n in range(len(heatmaps)):
        row = int(heatmaps.rows[n])
        maps = heatmaps.maps([n])[0]
        for k in range(len(heatmaps.class_names)):
            mask = truth.mask(row, k)
            if mask is None or not mask.any():
                continue
            heat = map_to_original(maps[k], store.geometry[row])
            cut = heat > np.array(CANDIDATES, np.float32)[:, None, None]
            shared, predicted, true = mask_counts(cut, mask)
            total[k] += shared / (predicted + true - shared)
            count[k] += 1
    values: dict[str, Rule] = {}
    reasons: dict[str, str] = {}
    for k, name in enumerate(heatmaps.class_names):
        values[name] = CANDIDATES[int(total[k].argmax())] if count[k] else FALLBACK
        if not count[k]:
            reasons[name] = NO_TRUTH
    return Thresholds(values, reasons, dict(zip(heatmaps.class_names, count.tolist(), strict=True)))


def choose_thresholds(
    rules: Sequence[Rule],
    network: Classifier,
    data_file: str | os.PathLike[str],
    transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]],
    inferer: AttributionInferer,
    device: str | torch.device,
    batch_size: int,
) -> list[Thresholds]:
    """The thresholds of some rules; for `tuned`, maps of the validation images are made, and of no others.

    Args:
        rules: of `boxes.thresholds`, or `tuned`.
        network: the classifier.
        data_file: the store.
        transform: from stored pixels to the network's input.
        inferer: that makes the maps.
        device: where to run.
        batch_size: images a step.

    Returns:
        One for each rule; nothing on other ranks than 0.

    Raises:
        CxrError: an unknown rule.
    """
    if distributed.rank() != 0:
        return []
    names = [network.class_names[k] for k in inferer.targets]
    for rule in rules:
        if rule != TUNED:
            check_rule(rule)
    tuned = _tuned(names, network, data_file, transform, inferer, device, batch_size) if TUNED in rules else None
    return [tuned if rule == TUNED else Thresholds(dict.fromkeys(names, rule)) for rule in rules]


def _tuned(
    names: list[str],
    network: Classifier,
    data_file: str | os.PathLike[str],
    transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]],
    inferer: AttributionInferer,
    device: str | torch.device,
    batch_size: int,
) -> Thresholds:
    store = Store(data_file)
    rows = StoreTruth(store, names).rows(VALIDATION)
    if len(rows) == 0:
        return Thresholds(dict.fromkeys(names, FALLBACK), dict.fromkeys(names, NO_TRUTH), dict.fromkeys(names, 0))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "val.h5"
        heatmaps_of(path, network, data_file, rows, transform, inferer, device, batch_size)
        return tune_thresholds(Heatmaps(path), store)


def score(
    heatmaps: Heatmaps,
    store: Store,
    box_rules: Thresholds,
    mask_rules: Thresholds,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores the heatmaps of images whose truth is known.

    Args:
        heatmaps: of the images under test.
        store: with their truth.
        box_rules: where maps are cut for boxes.
        mask_rules: where maps are cut for masks.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        `images`, `patients`; `findings`, see `metrics.localization.box_summary`, each with `near_hit_rate`, which lets
        the highest point be off by `metrics.localization.MARGIN`; `mean_hit_rate` and `mean_near_hit_rate` over the
        findings that have one, with their intervals; `overlap`, see `metrics.overlap.overlap_summary`. All at original
        size.
    """
    names = heatmaps.class_names
    truth = StoreTruth(store, names)
    shape = (len(heatmaps), len(names))
    number, hits, near = np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.nan)
    pixels = np.full((3, *shape), np.nan)
    counts: list[list[BoxCounts | None]] = []
    with progress_bar("score", len(heatmaps), "img") as bar:
        for n in range(len(heatmaps)):
            row, maps = int(heatmaps.rows[n]), heatmaps.maps([n])[0]
            geometry = store.geometry[row]
            counts.append([])
            for k, name in enumerate(names):
                boxes, mask = truth.boxes(row, k), truth.mask(row, k)
                counts[n].append(
                    None
                    if boxes is None
                    else count_boxes(find_boxes(maps[k], geometry, box_rules.values[name]).boxes, boxes)
                )
                number[n, k] = 0 if boxes is None else len(boxes)
                if mask is None:
                    continue
                pixels[:, n, k] = mask_counts(find_mask(maps[k], geometry, mask_rules.values[name]), mask)
                if mask.any():
                    heat = map_to_original(maps[k], geometry)
                    hits[n, k], near[n, k] = pointing_hit(heat, mask), pointing_hit(heat, mask, MARGIN)
            bar.update(1)
    groups = patients(store, heatmaps.rows)
    mean, interval = mean_hit_rate(hits, groups, resamples, seed)
    near_mean, near_interval = mean_hit_rate(near, groups, resamples, seed)
    findings = box_summary(counts, number, hits, names, groups, resamples, seed)
    for name, (rate, ends) in hit_rates(near, names, groups, resamples, seed).items():
        findings[name] |= {"near_hit_rate": rate, "near_hit_rate_ci": ends}
    return {
        "images": len(heatmaps),
        "patients": len(set(groups)),
        "mean_hit_rate": mean,
        "mean_hit_rate_ci": interval,
        "mean_near_hit_rate": near_mean,
        "mean_near_hit_rate_ci": near_interval,
        "findings": findings,
        "overlap": overlap_summary(*pixels, names, groups, resamples, seed),
    }


def patients(store: Store, rows: np.ndarray) -> list[str]:
    """The patient of each row; an image without one is a patient of its own."""
    ids, images = store.column("patient_id")[rows], store.column("image_id")[rows]
    return [f"p {patient}" if patient else f"i {image}" for patient, image in zip(ids, images, strict=True)]
