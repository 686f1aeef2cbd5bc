"""What a pretext task's network is worth at its own task: figures for a validation, and with intervals."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.data.dataset import store_loader
from cxrmonai.engines.batches import PrepareBatch
from cxrmonai.engines.monitoring import ProgressBar
from cxrmonai.engines.parallel import amp_options
from cxrmonai.engines.pretext.tasks import PretextTask, remake_task
from cxrmonai.engines.sharing import joined
from cxrmonai.errors import CxrError
from cxrmonai.metrics import auroc, bootstrap_auroc, bootstrap_sums, percentile_interval
from cxrmonai.networks.checkpoints import OWN_MEAN, OWN_STD
from cxrmonai.networks.pretext import PretextNetwork

Transform = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


class TaskScores:
    """Collects a task's measures over an evaluation, and puts their means and AUROCs among the engine's metrics.

    Where a loader shares items out to ranks, rank 0 has those of all, and the others their own.

    Args:
        task: what was asked.
        prefix: of the metrics' names.

    Attributes:
        means: name → (N,) float64 after a run, NaN where it is not defined.
        ranked: name → (2, N) float64, truth and score.
        rows: (N,) of the items in the store; of a pair, of its first image.
    """

    def __init__(self, task: PretextTask, prefix: str = "val_") -> None:
        self.task, self.prefix = task, prefix

    def attach(self, engine: Engine) -> None:
        """Attaches to the start, the steps and the end of an epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forgets what was seen."""
        self._means: dict[str, list[np.ndarray]] = {}
        self._ranked: dict[str, list[np.ndarray]] = {}
        self._rows: list[np.ndarray] = []

    def step(self, engine: Engine) -> None:
        """Keeps a batch."""
        output = engine.state.output
        measures = self.task.measures(output["pred"].detach(), output["label"])
        for name, values in measures.means.items():
            self._means.setdefault(name, []).append(_array(values))
        for name, pair in measures.ranked.items():
            self._ranked.setdefault(name, []).append(np.stack([_array(values) for values in pair]))
        rows = _array(engine.state.batch["index"]).astype(np.int64)
        self._rows.append(rows[: len(rows) // self.task.images])

    def finish(self, engine: Engine) -> None:
        """Joins the batches, and puts the figures among the engine's metrics."""
        self.means = {name: joined(engine, np.concatenate(parts)) for name, parts in self._means.items()}
        self.ranked = {name: joined(engine, np.concatenate(parts, axis=1).T).T for name, parts in self._ranked.items()}
        self.rows = joined(engine, np.concatenate(self._rows))
        for name, values in self.means.items():
            known = values[~np.isnan(values)]
            engine.state.metrics[self.prefix + name] = float(known.mean()) if len(known) else float("nan")
        for name, (truth, score) in self.ranked.items():
            engine.state.metrics[self.prefix + name] = float(auroc(truth, score))


class PictureGrid:
    """Draws, once an epoch, what the network saw, what it gave back and what was there, one image a row.

    Args:
        task: what was asked; one without pictures shows what the network saw.
        writer: from `summary_writer`; `None` draws nothing.
        rows: number of images.
    """

    def __init__(self, task: PretextTask, writer: SummaryWriter | None, rows: int = 6) -> None:
        self.task, self.writer, self.rows = task, writer, rows
        self._seen = False

    def attach(self, engine: Engine) -> None:
        """Attaches to the first step of each epoch of a validation."""
        if self.writer is not None:
            engine.add_event_handler(Events.EPOCH_STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def start(self, engine: Engine) -> None:
        """A new epoch, a new grid."""
        self._seen = False

    def draw(self, engine: Engine) -> None:
        """Draws the first batch."""
        if self._seen:
            return
        self._seen = True
        output = engine.state.output
        seen = output["image"].float() * OWN_STD[0] + OWN_MEAN[0]
        shown = self.task.pictures(output["pred"].detach(), output["label"]) or ()
        columns = torch.cat([seen[: self.rows], *(part[: self.rows].float() for part in shown)], dim=3).clamp(0, 1)
        self.writer.add_image("pictures", torch.cat(list(columns), dim=1).cpu(), engine.state.epoch)


def task_figures(
    network: PretextNetwork,
    data_file: str | os.PathLike[str],
    split: str,
    transform: Transform,
    batch_size: int = 128,
    device: str | torch.device = "cpu",
    amp: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """A network's figures at its own task on a split, with 95 % bootstrap intervals by patient.

    The items are shared out to the ranks, all of which must call it; rank 0 has the figures of all.

    Args:
        network: of a checkpoint, see `networks.load_pretext`.
        data_file: a store.
        split: `val`, `test`, or `all`, which is both.
        transform: batch transform from stored pixels to the network's input, with the task's step.
        batch_size: items a step.
        device: where to run.
        amp: mixed precision, on a GPU.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `task`, and `figures`: name → `value`, `ci` [low, high] and `items`, how many count; they are printed too.
        Where the store cannot serve the task, `refused` says why instead. A pair belongs to the patient of its first
        image.
    """
    task = remake_task(network.settings["task"])
    images_per_step = batch_size * task.images * distributed.world_size()
    collected: list[TaskScores] = []
    for part in ("val", "test") if split == "all" else (split,):
        try:
            dataset = task.dataset(str(data_file), part)
        except CxrError as error:
            distributed.note(f"the network is not judged at its own task: {error}")
            return {"task": task.name, "refused": str(error)}
        scores = TaskScores(task)
        SupervisedEvaluator(
            device=torch.device(device),
            val_data_loader=store_loader(dataset, batch_size),
            network=network,
            prepare_batch=PrepareBatch(transform),
            val_handlers=[scores, ProgressBar(images_per_step, label=f"{task.name} {part}")],
            amp=amp,
            amp_kwargs=amp_options(),
            decollate=False,
        ).run()
        collected.append(scores)
    if distributed.rank() != 0:
        return {}
    patients = dataset.store.column("patient_id")[np.concatenate([each.rows for each in collected])]
    draws = {"groups": patients, "resamples": resamples, "seed": seed}
    figures = {}
    for name in collected[0].means:
        values = np.concatenate([each.means[name] for each in collected])
        figures[name] = _mean_figure(values, draws)
    for name in collected[0].ranked:
        truth, score = np.concatenate([each.ranked[name] for each in collected], axis=1)
        low, high = bootstrap_auroc(truth, score, **draws)
        known = int((~np.isnan(truth)).sum())
        figures[name] = {"value": float(auroc(truth, score)), "ci": [low, high], "items": known}
    for name, figure in figures.items():
        print(f"{task.name}: {name} {figure['value']:.3f} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}] on {split}")
    return {"task": task.name, "figures": figures}


def _mean_figure(values: np.ndarray, draws: Mapping[str, Any]) -> dict[str, Any]:
    known = ~np.isnan(values)
    columns = np.stack([np.where(known, values, 0), known], axis=1)
    sums = bootstrap_sums(columns, **draws)
    samples = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    low, high = percentile_interval(samples[:, None])
    mean = float(values[known].mean()) if known.any() else float("nan")
    return {"value": mean, "ci": [float(low[0]), float(high[0])], "items": int(known.sum())}


def _array(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
