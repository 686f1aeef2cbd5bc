"""Training and using classifiers: the metric a run is judged by, predictions, and what is chosen on validation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric

from cxrmonai import distributed
from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.store import Store
from cxrmonai.data.tasks import Task
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.engines.pretraining import closing_lines, short
from cxrmonai.engines.probe import extract_features
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json
from cxrmonai.metrics.evaluation import Evaluation, OperatingPoints, evaluation_summary, fit_operating_points
from cxrmonai.metrics.multiclass import mean_auroc
from cxrmonai.networks import Classifier, load_classifier
from cxrmonai.transforms.batch import Batch

OPERATING_POINTS = "operating_points.json"
Transform = Callable[[Batch], Mapping[Any, Any]]


class MeanAuroc(Metric):
    """Mean AUROC over the classes that have images of both kinds, each against the rest for `multiclass`.

    Args:
        kind: `multilabel` or `multiclass`.
        output_transform: from the engine's output to (logits (B, K), target (B, K) or (B, 1)).
    """

    def __init__(
        self,
        kind: str = "multilabel",
        output_transform: Callable[[Any], Any] = lambda output: (output["pred"], output["label"]),
    ) -> None:
        self.kind = kind
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets what was seen."""
        self._scores: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def update(self, output: Sequence[torch.Tensor]) -> None:
        """Keeps a batch."""
        logits, target = output
        logits = logits.detach().float()
        # The softmax of a row depends on all its classes; the order within a sigmoid does not.
        self._scores.append((logits.softmax(dim=1) if self.kind == "multiclass" else logits).cpu())
        self._targets.append(target.detach().cpu())

    def compute(self) -> float:
        """0–1; NaN where no class has both."""
        scores, truth = torch.cat(self._scores).numpy(), torch.cat(self._targets).numpy()
        return mean_auroc(truth, scores, self.kind) if np.isfinite(scores).all() else float("nan")


def predict(
    network: Classifier,
    data_file: str | os.PathLike[str],
    rows: np.ndarray,
    transform: Transform,
    device: str | torch.device,
    batch_size: int = 128,
    progress: bool = False,
    amp: bool = False,
) -> np.ndarray:
    """Probabilities of some images of a store, whatever the size of the batches.

    Args:
        network: a classifier; its mode is left as it was.
        data_file: the store.
        rows: (N,) which images.
        transform: from stored pixels to the network's input; no augmentation.
        device: where to run.
        batch_size: images a step.
        progress: whether to show a bar.
        amp: mixed precision, on a GPU.

    Returns:
        (N, K) float64.
    """
    loader = store_loader(StoreDataset(data_file, rows=rows), batch_size, shard=False)
    logits = extract_features(network, loader, transform, device, progress, amp)
    return probabilities(network, logits)


def probabilities(network: Classifier, logits: np.ndarray) -> np.ndarray:
    """(N, K) logits → (N, K) float64 probabilities."""
    return network.probabilities(torch.from_numpy(logits).double()).numpy()


def make_evaluation(
    data_file: str | os.PathLike[str],
    task: Task,
    rows: np.ndarray,
    probability: np.ndarray,
    operating: OperatingPoints | None = None,
    facts: Mapping[str, object] | None = None,
    ordered: bool = False,
) -> Evaluation:
    """Joins predictions with what a store tells of their images.

    Args:
        data_file: the store.
        task: its targets.
        rows: (N,) of the images.
        probability: (N, K).
        operating: what was chosen on validation images.
        facts: to be listed in the report.
        ordered: whether the classes are grades in order.
    """
    store = Store(data_file)
    column = {name: store.column(name)[rows] for name in ("image_id", "patient_id", "split", "sex", "age", "view")}
    return Evaluation(
        truth=task.truth[rows],
        probability=probability,
        class_names=task.class_names,
        image_ids=column["image_id"],
        patient_ids=column["patient_id"],
        splits=column["split"],
        task=task.kind,
        ordered=ordered,
        sex=column["sex"],
        age=column["age"],
        view=column["view"],
        operating=operating,
        facts=facts or {},
        synthetic=store.synthetic,
    )


def write_operating_points(points: OperatingPoints, folder: str | os.PathLike[str]) -> None:
    """Writes what was chosen on validation images beside the weights that it belongs to."""
    content = {
        "thresholds": None if points.thresholds is None else points.thresholds.tolist(),
        "temperatures": points.temperatures.tolist(),
        "origin": points.origin,
        "reasons": list(points.reasons),
        "temperature_reasons": list(points.temperature_reasons),
    }
    write_json(Path(folder) / OPERATING_POINTS, content)


def read_operating_points(ckpt_path: str | os.PathLike[str]) -> OperatingPoints | None:
    """Reads them from beside a checkpoint; where there are none, says so and returns `None`.

    Raises:
        CxrError: the file is damaged.
    """
    path = Path(ckpt_path).with_name(OPERATING_POINTS)
    if not path.is_file():
        distributed.note(f"no {short(path)}, so that nothing is called positive and no probability is recalibrated")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        thresholds = content["thresholds"]
        return OperatingPoints(
            None if thresholds is None else _numbers(thresholds),
            _numbers(content["temperatures"]),
            str(content["origin"]),
            tuple(map(str, content["reasons"])),
            tuple(map(str, content["temperature_reasons"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CxrError(f"{path}: not as a training run writes it; remove it, or train again") from error


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def finish_classifier(
    ckpt_dir: str,
    log_dir: str,
    data_file: str,
    task: Task,
    transform: Transform,
    device: str,
    config: str,
    rule: str = "youden",
) -> None:
    """Chooses thresholds and temperatures on the validation images, and says on rank 0 what a run made.

    Args:
        ckpt_dir: of the run; gets `operating_points.json`.
        log_dir: of TensorBoard.
        data_file: the store it ran on.
        task: its targets.
        transform: from stored pixels to the network's input.
        device: where to run.
        config: the bundle's evaluate.json, for the hint.
        rule: how thresholds are chosen, see `metrics.operating_points`.
    """
    if distributed.rank() != 0:
        return
    path = Path(ckpt_dir) / BEST
    network, points = choose_operating_points(ckpt_dir, data_file, task, transform, device, rule)
    store = Store(data_file)
    rows = np.flatnonzero(store.column("split") == "test")
    lines = ["", f"Done. The classifier is {short(path)}."]
    if len(rows):
        probability = predict(network, data_file, rows, transform, device)
        evaluation = make_evaluation(data_file, task, rows, probability, points)
        summary = evaluation_summary(evaluation, resamples=500)
        low, high = summary["mean_auroc_ci"]
        kind = "synthetic radiographs" if store.synthetic else "radiographs"
        lines.append(
            f"Mean AUROC on {summary['images']} {kind} of {summary['patients']} patients held out [95 % interval]: "
            f"{summary['mean_auroc']:.3f} [{low:.3f}, {high:.3f}]"
        )
    print("\n".join(lines + closing_lines(log_dir, config, path, data_file)), flush=True)


def choose_operating_points(
    ckpt_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    task: Task,
    transform: Transform,
    device: str | torch.device,
    rule: str = "youden",
) -> tuple[Classifier, OperatingPoints | None]:
    """Chooses thresholds and temperatures for a run's best classifier on the validation images, and writes them.

    Args:
        ckpt_dir: of the run; gets `operating_points.json` where there are validation images.
        data_file: the store it ran on.
        task: its targets.
        transform: from stored pixels to the network's input.
        device: where to run.
        rule: how thresholds are chosen, see `metrics.operating_points`.

    Returns:
        The classifier on its device, and what was chosen; `None` without validation images.
    """
    network = load_classifier(Path(ckpt_dir) / BEST).to(device)
    rows = np.flatnonzero(Store(data_file).column("split") == "val")
    if not len(rows):
        return network, None
    probability = predict(network, data_file, rows, transform, device)
    points = fit_operating_points(task.truth[rows], probability, task.kind, rule)
    write_operating_points(points, ckpt_dir)
    return network, points
