"""What a fine-tuning or a probe leaves at its end: operating points, and the evaluation on test patients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from cxrmonai import distributed
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task
from cxrmonai.engines import choose_operating_points, predict
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.engines.classification import Transform
from cxrmonai.engines.frozen_probe import KNN, FrozenProbe
from cxrmonai.engines.pretraining import closing_lines, short
from cxrmonai.metrics.evaluation import fit_operating_points
from cxrmonai.report.classifier import write_predictions


def finish_fine_tuning(
    method: str,
    probe: FrozenProbe,
    ckpt_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    task: Task,
    transform: Transform,
    device: str | torch.device,
    config: str,
    rule: str = "youden",
    facts: Mapping[str, object] | None = None,
    ordered: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Chooses thresholds on validation patients, evaluates on test patients, and says on rank 0 what there is.

    Test labels are read here for the first time.

    Args:
        method: `full`, or one of a `FrozenProbe`.
        probe: that was run, unless the method is `full`.
        ckpt_dir: of the run; gets `operating_points.json`.
        output_dir: gets the evaluation, see `report.write_evaluation`, where there are test patients.
        data_file: the store it ran on.
        task: its targets.
        transform: from stored pixels to the network's input.
        device: where to run.
        config: the bundle's evaluate.json, for the hint.
        rule: how thresholds are chosen, see `metrics.operating_points`.
        facts: to be listed in the report.
        ordered: whether the classes are grades in order.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    if distributed.rank() != 0:
        return
    split = open_store(data_file).column("split")
    rows = {name: np.flatnonzero(split == name) for name in ("val", "test")}
    if method == KNN:
        predicted, points = probe.fitted.probability, None
        if len(rows["val"]):
            points = fit_operating_points(task.truth[rows["val"]], predicted(rows["val"]), task.kind, rule)
        done = "kNN keeps no weights: evaluate.json, inference.json and exports need another --method."
    else:
        network, points = choose_operating_points(ckpt_dir, data_file, task, transform, device, rule)
        done = f"Done. The classifier is {short(Path(ckpt_dir) / BEST)}."

        def predicted(some: np.ndarray) -> np.ndarray:
            return predict(network, data_file, some, transform, device, progress=True)

    print(f"\n{done}")
    if len(rows["test"]):
        probability = predicted(rows["test"])
        options = {"operating": points, "facts": facts, "ordered": ordered, "resamples": resamples, "seed": seed}
        write_predictions(output_dir, data_file, task, rows["test"], probability, **options)
    else:
        print(f"{data_file} has no test patients, so that there is nothing to evaluate on.")
    if method != KNN:
        log_dir = f"{output_dir}/tensorboard"
        print("\n".join(closing_lines(log_dir, config, Path(ckpt_dir) / BEST, str(data_file))), flush=True)
