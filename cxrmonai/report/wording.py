"""What the report of an evaluation says in words: for a doctor first, then the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrmonai.metrics import Evaluation

FEW_IMAGES = 10


def tested(summary: Mapping[str, Any]) -> str:
    """Says what was tested, on how many images and patients."""
    several = len(summary["findings"])
    if summary["task"] == "multiclass":
        gave = f"The model sorted each image into one of {several} classes"
    else:
        gave = f"The model gave each image a probability for {count(several, 'finding')}"
    splits = ", ".join(f"{name or 'no split'}: {number}" for name, number in summary["splits"].items())
    tested = f"{count(summary['images'], 'image')} of {count(summary['patients'], 'patient')} ({splits})"
    return f"{gave}. It was tested on {tested}; the labels that came with the images are taken as the truth."


def findings_in_words(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[str]:
    """Says what the numbers of `evaluation_summary` mean, a sentence or two each."""
    points = [_discrimination_in_words(summary)]
    if "multiclass" in summary:
        points.append(_classes_in_words(summary["multiclass"]))
    else:
        points.append(_thresholds_in_words(evaluation, summary))
    points.append(_calibration_in_words(summary))
    widest = _widest_gap(summary)
    if widest:
        attribute, finding, gap = widest
        apart = f"{gap['gap']:.3f} ({finding}, {attribute}: {gap['highest']} above {gap['lowest']})"
        points.append(
            f"The largest gap in AUROC between groups of patients or views is {apart}{_bracket(gap['gap_ci'])}."
        )
    return points


def _discrimination_in_words(summary: Mapping[str, Any]) -> str:
    mean = summary["mean_auroc"]
    if undefined(mean):
        return "How well the model tells images apart cannot be said: no finding has images both with and without it."
    areas = {name: row["auroc"] for name, row in summary["findings"].items() if not undefined(row["auroc"])}
    kind, several = ("class", "classes") if summary["task"] == "multiclass" else ("finding", "findings")
    what = "AUROC" if len(areas) == 1 else f"mean AUROC over {len(areas)} {several}"
    pair = f"Shown one image with the {kind} and one without, it gives the higher probability to the right one"
    text = (
        f"{pair} {100 * mean:.0f} times in 100 ({what}: {mean:.3f}{_bracket(summary['mean_auroc_ci'])}); guessing: 50."
    )
    if len(areas) < 2:
        return text
    best, worst = max(areas, key=areas.get), min(areas, key=areas.get)
    return f"{text} Best is {best} ({areas[best]:.3f}), weakest {worst} ({areas[worst]:.3f})."


def _thresholds_in_words(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    rows = {
        name: row
        for name, row in summary["findings"].items()
        if not undefined(row["sensitivity"]) and not undefined(row["specificity"])
    }
    if evaluation.operating is None:
        return "No thresholds were given, so that no image is called positive or negative; only the order is judged."
    if not rows:
        return "At its thresholds nothing can be said: they are not defined, or the images are of one class."
    if len(rows) == 1:
        ((name, row),) = rows.items()
        found = f"it finds {percent(row['sensitivity'])} of the images with {name}"
        return f"At its threshold {found} and calls {percent(row['specificity'])} of the images without it negative."
    parts = []
    for key, words in (
        ("sensitivity", "images with a finding that it catches"),
        ("specificity", "images it rightly clears"),
    ):
        ends = [function(rows, key=lambda name: rows[name][key]) for function in (min, max)]
        low, high = (f"{percent(rows[name][key])} ({name})" for name in ends)
        parts.append(f"the share of {words} ({key}) lies between {low} and {high}")
    return f"At its thresholds {' and '.join(parts)}."


def _classes_in_words(part: Mapping[str, Any]) -> str:
    if undefined(part["accuracy"]):
        return "How often it names the right class cannot be said: no image has a known class."
    text = (
        f"It names the right class for {percent(part['accuracy'])} of the images{_bracket(part['accuracy_ci'])}; "
        f"with every class counted alike (balanced accuracy), {percent(part['balanced_accuracy'])}."
    )
    if undefined(part.get("quadratic_kappa")):
        return text
    kappa = f"{part['quadratic_kappa']:.3f}{_bracket(part['quadratic_kappa_ci'])}"
    return f"{text} Quadratic weighted kappa, which forgives near misses: {kappa}; 0 is chance, 1 is perfect."


def _calibration_in_words(summary: Mapping[str, Any]) -> str:
    rows = summary["findings"].values()
    errors = [row["ece"] for row in rows if not undefined(row["ece"])]
    if not errors:
        return "How far its probabilities can be taken at their word cannot be said: no label is known."
    text = f"Its probabilities are off by {100 * np.mean(errors):.1f} percentage points on average (calibration error)"
    after = [row["ece_calibrated"] for row in rows if not undefined(row["ece_calibrated"])]
    return f"{text}, {100 * np.mean(after):.1f} after temperature scaling." if after else f"{text}."


def cautions(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[str]:
    """Says what to keep in mind when reading the numbers."""
    points = []
    own = [name for name in summary["splits"] if name in ("train", "training")]
    if own:
        points.append("Training images are among those tested, so that the numbers flatter the model.")
    if evaluation.operating is not None and any(name in ("val", "valid", "validation") for name in summary["splits"]):
        points.append(
            "Validation images are among those tested; where thresholds and temperatures come from them, they flatter."
        )
    few = few_images(summary)
    if few:
        points.append(f"Fewer than {FEW_IMAGES} images with or without it, too few to judge: {', '.join(few)}.")
    orphans = int((evaluation.patient_ids == "").sum())
    if orphans:
        points.append(f"{count(orphans, 'image')} without a patient: each is counted as a patient of its own.")
    known = ~np.isnan(evaluation.truth)
    if not known.all():
        points.append(f"{percent(1 - known.mean())} of the labels are unknown and left out.")
    if not evaluation.synthetic:
        points.append(
            "The truth is no better than the labels; those of public sets are often drawn from reports by program."
        )
    points.append("Other hospitals, machines and patients may give other numbers. This is research, no medical device.")
    return points


def methods(summary: Mapping[str, Any]) -> list[str]:
    """Says how the numbers were made, with references."""
    bootstrap, multiclass = summary["bootstrap"], summary["task"] == "multiclass"
    paragraphs = [
        f"Intervals: percentile bootstrap, {bootstrap['resamples']} resamples of whole patients with replacement, seed "
        f"{bootstrap['seed']}, 95 % (Efron, Annals of Statistics 1979;7:1-26). AUROC with ties as half (Hanley and "
        "McNeil, Radiology 1982;143:29-36); average precision without interpolation (Davis and Goadrich, ICML 2006).",
        "Calibration: Brier score (Monthly Weather Review 1950;78:1-3); ECE over 15 bins of the probability of the "
        f"{'class' if multiclass else 'finding'}, of equal width or of equal numbers of images (Naeini et al., AAAI "
        f"2015); temperature scaling, one temperature {'in all' if multiclass else 'a finding'}, by the least negative "
        "log-likelihood on validation images (Guo et al., ICML 2017). It changes "
        f"{'no predicted class' if multiclass else 'no order, and so neither AUROC nor AP nor the calls'}; curves and "
        "thresholds are of the unscaled probability.",
    ]
    if multiclass:
        paragraphs.append(
            "Balanced accuracy is the mean recall over the classes that occur, macro F1 the mean over those that occur "
            "or are predicted; kappa with quadratic weights (Cohen, Psychological Bulletin 1968;70:213-220)."
        )
    elif summary["operating_points"] is not None:
        paragraphs.append(
            "A probability at or above the threshold is called positive. PPV and NPV, the share of positive and "
            "negative calls that are right, go with the share of positive images here and change with it elsewhere "
            "(Altman and Bland, BMJ 1994;309:102). Youden's index: Cancer 1950;3:32-35."
        )
    return paragraphs


def _widest_gap(summary: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]] | None:
    gaps = [
        (attribute, finding, measures["auroc"])
        for attribute, part in summary["subgroups"].items()
        for finding, measures in part["gaps"].items()
        if not undefined(measures["auroc"]["gap"])
    ]
    return max(gaps, key=lambda found: found[2]["gap"], default=None)


def few_images(summary: Mapping[str, Any]) -> list[str]:
    """Names the findings with fewer than `FEW_IMAGES` images of either class."""
    findings = summary["findings"].items()
    return [name for name, finding in findings if min(finding["positives"], finding["negatives"]) < FEW_IMAGES]


def _bracket(ends: Sequence[float | None]) -> str:
    return "" if any(undefined(end) for end in ends) else ", 95 % interval {:.3f} to {:.3f}".format(*ends)


def count(number: int, what: str) -> str:
    """Writes `1 image` or `2 images`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """Writes 0.84 as `84 %`."""
    return f"{100 * share:.0f} %"


def undefined(value: float | None) -> bool:
    """Whether a number is None or NaN."""
    return value is None or value != value
