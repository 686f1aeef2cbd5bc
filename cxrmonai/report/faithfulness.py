"""What a test of maps leaves: insertion and deletion, the sanity check, plots, a table of items and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrmonai.data.store import open_store
from cxrmonai.explain.faithfulness import MEASURES, Curves, Items, item_table, mean_intervals
from cxrmonai.explain.randomisation import REFERENCE, SIMILARITIES
from cxrmonai.files import atomic_path, write_json
from cxrmonai.report.classification import SYNTHETIC
from cxrmonai.report.curves import Line, curve_panels
from cxrmonai.report.figures import png_bytes
from cxrmonai.report.html import Estimate, Report

_CURVES = (
    "Deletion takes the pixels away in the order of the map, the highest first: the sooner the probability of the "
    "finding falls, the better the map (small area). Insertion puts them back on the baseline: the sooner it rises, "
    "the better (large area). Random orders of the pixels are the measure of chance. Both say whether the map follows "
    "the classifier, not whether the classifier follows the disease. Brackets hold 95 % intervals from resampling "
    "patients."
)
_CHECK = (
    "The layers of the classifier are re-initialised one after the other, from the top down, and the maps compared "
    "with those of the trained classifier: Spearman's rank correlation over pixels, and SSIM. A map that explains the "
    "classifier loses its likeness; one that stays the same draws the image. The first row compares the maps of "
    "different images, to show how alike maps of this method are without any reason."
)


def write_faithfulness(
    output_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    items: Items,
    class_names: Sequence[str],
    curves: tuple[Curves, Curves],
    check: Sequence[tuple[str, Mapping[str, np.ndarray]]],
    check_items: Items,
    method: str,
    facts: Mapping[str, object],
    flag_above: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes both tests of a map, each file atomically, and says what came of them.

    Args:
        output_dir: gets `metrics.json`, `faithfulness.csv` (a row for each image and finding), `curves.png`,
            `randomisation.png` and `report.html`.
        data_file: the store.
        items: pairs of image and finding of the curves.
        class_names: of the classifier.
        curves: of the maps and of random orders, see `explain.faithfulness.faithfulness`.
        check: see `explain.randomisation.randomisation_check`.
        check_items: its pairs of image and finding.
        method: of the maps.
        facts: to be listed.
        flag_above: the check fails where the mean Spearman correlation after the last step is above this.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds: `curves` and `randomisation`, see `summarise_check`.
    """
    folder, store = Path(output_dir), open_store(data_file)
    ids, patients = (store.column(name) for name in ("image_id", "patient_id"))
    columns = item_table(*curves)
    areas = mean_intervals(columns, items.classes, class_names, patients[items.rows], resamples, seed)
    summary = summarise_check(check, patients[check_items.rows], flag_above, resamples, seed)
    figures = {"curves": curves_figure(*curves), "randomisation": check_figure(summary)}
    table = pd.DataFrame({"image_id": ids[items.rows], "finding": [class_names[k] for k in items.classes], **columns})
    metrics = {
        "method": method,
        "curves": areas,
        "randomisation": summary,
        "facts": dict(facts),
        "synthetic": store.synthetic,
    }
    with atomic_path(folder / "faithfulness.csv") as temporary:
        table.to_csv(temporary, index=False)
    for name, figure in figures.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png_bytes(figure))
    _report(metrics, figures).save(folder / "report.html")
    write_json(folder / "metrics.json", metrics)
    print(
        f"{method}: deletion {_words(areas, 'deletion')}, at random {areas['random_deletion']:.3f}; "
        f"insertion {_words(areas, 'insertion')}, at random {areas['random_insertion']:.3f}"
    )
    last = summary["cascade"][-1]
    print(f"{method}: Spearman {_words(last, 'spearman')} after all layers were randomised: {summary['verdict']}")
    print(f"see {folder / 'report.html'}")
    return metrics


def summarise_check(
    check: Sequence[tuple[str, Mapping[str, np.ndarray]]],
    patients: np.ndarray,
    flag_above: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The sanity check in numbers.

    Args:
        check: of `randomisation_check`, the comparison of different images first.
        patients: (M,) patient of each item.
        flag_above: largest mean Spearman correlation that passes.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `other_images` and `cascade`, a list over its steps: `randomised_down_to`, and `spearman` and `ssim` with their
        intervals; `passed` and `verdict`, in words.
    """
    none = np.zeros(len(patients), int)
    rows = []
    for label, values in check:
        means = mean_intervals(values, none, ["all"], patients, resamples, seed)
        rows.append({"randomised_down_to": label, **{key: means[key] for key in _keys()}})
    passed = rows[-1]["spearman"] <= flag_above
    return {
        "items": len(patients),
        "other_images": {key: rows[0][key] for key in _keys()},
        "cascade": rows[1:],
        "flag_above": flag_above,
        "passed": passed,
        "verdict": "the maps depend on the network" if passed else "FLAGGED, the maps hardly depend on the network",
    }


def _keys() -> list[str]:
    return [f"{name}{end}" for name in SIMILARITIES for end in ("", "_ci")]


def curves_figure(explained: Curves, random: Curves) -> Figure:
    """Mean probability against the share of pixels, for deletion and insertion, by the map and at random."""
    panels = {}
    for name in ("deletion", "insertion"):
        lines = []
        for label, found in (("by the map", explained), ("at random", random)):
            values = getattr(found, name)
            low, high = np.quantile(values, [0.25, 0.75], axis=0)
            lines.append(Line(label, found.share, values.mean(axis=0), low, high))
        panels[name.capitalize()] = lines
    return curve_panels(panels, "Share of the pixels", "Probability of the finding", limits=(-0.02, 1.02))


def check_figure(summary: Mapping[str, Any]) -> Figure:
    """Likeness of the maps against the depth of the cascade, with intervals."""
    rows = summary["cascade"]
    place = np.arange(len(rows) + 1)
    panels = {}
    for name, title in zip(SIMILARITIES, ("Spearman's rank correlation", "SSIM"), strict=True):
        ends = np.array([[1.0, 1.0], *(row[f"{name}_ci"] for row in rows)], float)
        mean = np.array([1.0, *(row[name] for row in rows)])
        lines = [Line("randomised", place, mean, ends[:, 0], ends[:, 1])]
        level = np.full(len(place), summary["other_images"][name])
        panels[title] = [*lines, Line("other images", place, level)]
    ticks = ["trained", *(row["randomised_down_to"] for row in rows)]
    return curve_panels(
        panels, "Randomised from the top down to", "Likeness to the trained network's maps", ticks=ticks
    )


def _report(metrics: Mapping[str, Any], figures: Mapping[str, Figure]) -> Report:
    areas, check = metrics["curves"], metrics["randomisation"]
    report = Report("Do the maps explain the classifier?", f"{metrics['method']}, {areas['items']} maps")
    if metrics["synthetic"]:
        report.note(SYNTHETIC)
    report.table(["Fact", "Value"], [(key, str(value)) for key, value in metrics["facts"].items()])
    report.section("Insertion and deletion")
    report.text(_CURVES)
    report.figure(
        figures["curves"],
        "Mean over images and findings; bands hold the middle half of them.",
        "Curves of the probability as pixels are removed and put back; the table below holds the areas.",
    )
    headers = ["Finding", "Maps", "Deletion", "Insertion", "Deletion at random", "Insertion at random"]
    headers += ["Gain in deletion", "Gain in insertion"]
    rows = [[name, *_area_cells(part)] for name, part in areas["findings"].items()]
    report.table(headers, rows, "Area under the curves", ["All", *_area_cells(areas)])
    report.section("Parameter randomisation")
    report.box("Verdict", [f"{check['verdict'][:1].upper()}{check['verdict'][1:]}."], caution=not check["passed"])
    report.text(_CHECK)
    report.figure(
        figures["randomisation"],
        f"Mean of {check['items']} maps with 95 % intervals by patient.",
        "Likeness of maps against the depth of the cascade; the table below holds the numbers.",
    )
    listed = [[REFERENCE, check["other_images"]], *([row["randomised_down_to"], row] for row in check["cascade"])]
    cells = [[label, *(Estimate(row[name], *row[f"{name}_ci"]) for name in SIMILARITIES)] for label, row in listed]
    report.table(["Randomised down to", "Spearman", "SSIM"], cells)
    report.text(
        f"Above a mean Spearman correlation of {check['flag_above']:g} at the end the method is flagged; the bound is "
        "a rule of thumb."
    )
    return report


def _area_cells(part: Mapping[str, Any]) -> list[Any]:
    return [part["items"], *(Estimate(part[name], *part[f"{name}_ci"]) for name in MEASURES)]


def _words(part: Mapping[str, Any], name: str) -> str:
    low, high = part[f"{name}_ci"]
    return f"{part[name]:.3f} [{low:.3f}, {high:.3f}]"
