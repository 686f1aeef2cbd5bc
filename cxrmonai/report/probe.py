"""The files an evaluation of a probe leaves: metrics, predictions and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from cxrmonai import distributed
from cxrmonai.engines.probe import Probe, ProbeResult
from cxrmonai.files import atomic_path, write_json
from cxrmonai.report.classification import classification_report


def write_probe(
    output_dir: str | os.PathLike[str],
    probe: Probe,
    features: np.ndarray,
    untrained: nn.Module,
    description: Mapping[str, object],
    resamples: int = 1000,
    seed: int = 0,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fits a probe on an encoder's features and on those of the same encoder untrained, and writes what came of it.

    The ranks share out the work on the untrained encoder; rank 0 does the rest.

    Args:
        output_dir: gets `metrics.json`, `predictions.csv` (a row per image and finding) and `report.html`.
        probe: what to fit, and on which patients.
        features: (N, D) of the encoder, in the order of `probe.both`.
        untrained: the same encoder with random weights.
        description: facts for the report.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
        more: further figures for `metrics.json`.

    Returns:
        What `metrics.json` holds; nothing on other ranks than 0.
    """
    untrained_features = probe.features(untrained, progress=True, shard=True)
    if distributed.rank() != 0:
        return {}
    folder = Path(output_dir)
    result, baseline = probe.fit(features), probe.fit(untrained_features)
    summary, compared = (probe.summary(each, resamples, seed) for each in (result, baseline))
    metrics = {
        **summary,
        "untrained": compared,
        "by_view": {name: _part(probe, result, rows, resamples, seed) for name, rows in _views(probe, result).items()},
        "probe": probe.method,
        "synthetic": probe.store.synthetic,
        **(more or {}),
    }
    write_json(folder / "metrics.json", metrics)
    with atomic_path(folder / "predictions.csv") as temporary:
        prediction_table(probe, result).to_csv(temporary, index=False)
    classification_report(
        folder / "report.html",
        title=f"{'Linear' if probe.method == 'linear' else 'kNN'} probe of a frozen encoder",
        summary=summary,
        truth=result.truth,
        score=result.score,
        class_names=result.class_names,
        description=description,
        baseline=compared,
        synthetic=probe.store.synthetic,
        labels=("pretrained", "untrained"),
    )
    low, high = summary["mean_auroc_ci"]
    print(
        f"mean AUROC {summary['mean_auroc']:.3f} [{low:.3f}, {high:.3f}], untrained {compared['mean_auroc']:.3f}; "
        f"see {folder / 'report.html'}"
    )
    return metrics


def _views(probe: Probe, result: ProbeResult) -> dict[str, np.ndarray]:
    """Rows of the predictions by view position: a finding that goes with a view can be told by the view alone."""
    views = probe.store.column("view")[result.rows]
    return {str(name): np.flatnonzero(views == name) for name in np.unique(views) if name}


def _part(probe: Probe, result: ProbeResult, rows: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    part = ProbeResult(result.rows[rows], result.truth[rows], result.score[rows], result.class_names)
    return probe.summary(part, resamples, seed)


def prediction_table(probe: Probe, result: ProbeResult) -> pd.DataFrame:
    """Predictions as one row per image and finding.

    Columns: `image_id`, `patient_id`, `split`, `finding`, `truth` (blank where unknown) and `probability`.
    """
    table = probe.store.table[["image_id", "patient_id", "split"]].iloc[result.rows]
    count = len(result.class_names)
    long = table.loc[table.index.repeat(count)].reset_index(drop=True)
    long["finding"] = np.tile(result.class_names, len(table))
    long["truth"] = result.truth.ravel()
    long["probability"] = result.score.ravel()
    return long
