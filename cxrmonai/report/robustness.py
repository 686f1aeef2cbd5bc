"""What a measurement of robustness leaves: numbers, a plot and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task
from cxrmonai.explain.robustness import KINDS, binary_targets, robustness_summary
from cxrmonai.files import atomic_path, write_json
from cxrmonai.report.classification import SYNTHETIC
from cxrmonai.report.curves import Line, curve_panels
from cxrmonai.report.figures import png_bytes
from cxrmonai.report.html import Estimate, Report

NORM_WORDS = {
    "Linf": "largest change of a pixel (L∞)",
    "L2": "root of the summed squares of the changes (L2)",
}
_MEANING = (
    "Images are changed within a distance ε of themselves so that the classifier errs: projected gradient steps that "
    "take the scores of positives down and those of negatives up, all findings at once. A stronger attack may find "
    "more, so that the curve is an upper bound of the robust AUROC. Noise is a random change of the same size: it "
    "tells what is due to the size alone. Pixels are 0 to 1, at the size that the network sees. Brackets hold 95 % "
    "intervals from resampling patients."
)


def write_robustness(
    output_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    task: Task,
    rows: np.ndarray,
    logits: Mapping[str, Mapping[str, np.ndarray]],
    epsilons: Mapping[str, Sequence[float]],
    facts: Mapping[str, object],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes AUROC against ε, each file atomically, and says what came of it.

    Args:
        output_dir: gets `metrics.json`, `robustness.png` and `report.html`.
        data_file: the store.
        task: its targets.
        rows: (N,) of the images.
        logits: of `explain.robustness.attacked_logits`.
        epsilons: the radii of each norm.
        facts: to be listed.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds: `curves`, see `robustness_summary`, and the facts.
    """
    folder, store = Path(output_dir), open_store(data_file)
    patients = store.column("patient_id")[rows]
    truth = binary_targets(task)[rows]
    names = task.class_names
    curves = robustness_summary(logits, epsilons, truth, names, task.kind, patients, resamples, seed)
    figure = robustness_figure(curves)
    metrics = {"curves": curves, "facts": dict(facts), "synthetic": store.synthetic}
    with atomic_path(folder / "robustness.png") as temporary:
        temporary.write_bytes(png_bytes(figure))
    report = Report("Robustness of a classifier", f"{len(rows)} images of {len(set(patients))} patients")
    if store.synthetic:
        report.note(SYNTHETIC)
    report.text(_MEANING)
    report.table(["Fact", "Value"], [(key, str(value)) for key, value in facts.items()])
    report.section("AUROC against ε")
    report.figure(
        figure,
        "Mean AUROC over the findings with its 95 % interval; thin grey lines are single findings under attack; the "
        "dashed line at 0.5 is chance.",
        "Curves of AUROC against the size of the change; the tables below hold the numbers.",
    )
    for norm, points in curves.items():
        report.section(NORM_WORDS[norm][:1].upper() + NORM_WORDS[norm][1:])
        cells = [[f"{point['epsilon']:g}", *(_mean(point[name]) for name in KINDS)] for point in points]
        report.table(["ε", "Mean AUROC, attack", "Mean AUROC, noise"], cells)
        each = [[name, *(_single(point["attack"]["findings"][name]) for point in points)] for name in names]
        report.table(["Finding", *(f"ε {point['epsilon']:g}" for point in points)], each, "AUROC under attack")
    report.save(folder / "report.html")
    write_json(folder / "metrics.json", metrics)
    for norm, points in curves.items():
        told = ", ".join(f"{point['epsilon']:g}: {point['attack']['mean_auroc']:.3f}" for point in points)
        print(f"mean AUROC by ε in {norm}: {told}")
    print(f"see {folder / 'report.html'}")
    return metrics


def robustness_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Mean AUROC against ε, a panel for each norm: attack and noise with intervals, single findings behind."""
    panels, behind = {}, {}
    for norm, points in curves.items():
        epsilon = np.array([point["epsilon"] for point in points])
        lines = []
        for name in KINDS:
            ends = np.array([point[name]["mean_auroc_ci"] for point in points], float)
            mean = np.array([point[name]["mean_auroc"] for point in points], float)
            lines.append(Line(name, epsilon, mean, ends[:, 0], ends[:, 1]))
        panels[norm] = lines
        behind[norm] = [
            Line(name, epsilon, np.array([point["attack"]["findings"][name]["auroc"] for point in points], float))
            for name in points[0]["attack"]["findings"]
        ]
    return curve_panels(panels, "ε, pixels from 0 to 1", "AUROC", behind, (-0.02, 1.02), chance=0.5)


def _mean(summary: Mapping[str, Any]) -> Estimate:
    return Estimate(summary["mean_auroc"], *summary["mean_auroc_ci"])


def _single(finding: Mapping[str, Any]) -> Estimate:
    return Estimate(finding["auroc"], *finding["auroc_ci"])
