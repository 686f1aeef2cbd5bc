"""What a classifier's probabilities for a store are worth: files, figures and a line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrmonai import distributed
from cxrmonai.data.tasks import Task
from cxrmonai.engines import make_evaluation, summary_writer
from cxrmonai.metrics.evaluation import OperatingPoints
from cxrmonai.report.classification import write_evaluation


def write_predictions(
    output_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    task: Task,
    rows: np.ndarray,
    probability: np.ndarray,
    operating: OperatingPoints | None = None,
    facts: Mapping[str, object] | None = None,
    ordered: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates a network's probabilities for some images of a store, see `write_evaluation`, and says the result.

    The figures go to TensorBoard as well, into `tensorboard` of the same folder. Rank 0 does it, the others nothing.

    Args:
        output_dir: gets the files.
        data_file: the store.
        task: its targets.
        rows: (N,) of the images.
        probability: (N, K).
        operating: what was chosen on validation images.
        facts: to be listed in the report.
        ordered: whether the classes are grades in order.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    if distributed.rank() != 0:
        return {}
    evaluation = make_evaluation(data_file, task, rows, probability, operating, facts, ordered)
    writer = summary_writer(Path(output_dir) / "tensorboard")
    summary = write_evaluation(output_dir, evaluation, resamples=resamples, seed=seed, writer=writer)
    if writer is not None:
        writer.flush()
    low, high = summary["mean_auroc_ci"]
    kind = "synthetic radiographs" if evaluation.synthetic else "radiographs"
    print(
        f"mean AUROC {summary['mean_auroc']:.3f} [{low:.3f}, {high:.3f}] on {summary['images']} {kind}; "
        f"see {Path(output_dir) / 'report.html'}"
    )
    return summary
