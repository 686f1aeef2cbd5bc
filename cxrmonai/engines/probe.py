"""Probes: what frozen features of an encoder know of the findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import nn

from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import make_targets
from cxrmonai.engines.batches import PrepareBatch
from cxrmonai.engines.linear_models import fit_logistic
from cxrmonai.engines.monitoring import ProgressBar
from cxrmonai.engines.parallel import amp_options
from cxrmonai.engines.sharing import joined
from cxrmonai.errors import CxrError
from cxrmonai.metrics import classification_summary

METHODS = ("linear", "knn")


@dataclass(frozen=True)
class ProbeResult:
    """Held-out predictions of a probe.

    Attributes:
        rows: (N,) rows in the store.
        truth: (N, C) 1, 0 or NaN.
        score: (N, C) 0–1; 0.5 for a finding that could not be learned.
        class_names: (C,) findings.
    """

    rows: np.ndarray
    truth: np.ndarray
    score: np.ndarray
    class_names: list[str]


class Probe:
    """Fits a classifier per finding on frozen features of training patients and scores other patients.

    Args:
        data_file: a store with findings.
        transform: batch transform from stored pixels to the network's input; no augmentation.
        method: `linear`, logistic regression on standardised features; or `knn`, votes weighted by cosine similarity.
        split: what is scored: `val`, `test`, or `all`, which is both.
        classes: findings to probe, as a list or `A,B`; all by default.
        policy: what uncertain labels count as, see `data.targets`.
        strength: of the linear probe's L2 penalty (1/C).
        neighbours: of the kNN probe.
        temperature: of the kNN probe's weights.
        batch_size: images a step.
        device: where the network runs.
        amp: mixed precision for the features, on a GPU.
        limit: most images to fit on, and most to score, drawn once with a fixed seed; 0 for all.

    Raises:
        CxrError: unknown method, split or class; a store without findings; a split without images.
    """

    def __init__(
        self,
        data_file: str,
        transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]],
        method: str = "linear",
        split: str = "test",
        classes: str | Sequence[str] | None = None,
        policy: str | Mapping[str, str] = "ignore",
        strength: float = 100.0,
        neighbours: int = 20,
        temperature: float = 0.1,
        batch_size: int = 128,
        device: str | torch.device = "cpu",
        amp: bool = False,
        limit: int = 0,
    ) -> None:
        if method not in METHODS:
            raise CxrError(f"probe '{method}': known are {', '.join(METHODS)}")
        if split not in ("val", "test", "all"):
            raise CxrError(f"split '{split}': a probe scores val, test or all (both)")
        held_out = ["val", "test"] if split == "all" else split
        self.train = _at_most(StoreDataset(data_file, "train"), limit)
        self.held_out = _at_most(StoreDataset(data_file, held_out), limit)
        self.both = StoreDataset(data_file, rows=np.concatenate([self.train.rows, self.held_out.rows]))
        self.store = self.train.store
        if not self.store.class_names:
            raise CxrError(f"{data_file}: holds no findings, so that there is nothing to probe for")
        self.class_names = name_list(classes) or list(self.store.class_names)
        unknown = [name for name in self.class_names if name not in self.store.class_names]
        if unknown:
            raise CxrError(f"{data_file}: no finding '{unknown[0]}'; it has {', '.join(self.store.class_names)}")
        self.transform, self.method, self.policy = transform, method, policy
        self.strength, self.neighbours, self.temperature = strength, neighbours, temperature
        self.batch_size, self.device, self.amp = batch_size, device, amp

    def __call__(self, network: nn.Module, progress: bool = False) -> ProbeResult:
        """Probes an encoder.

        Args:
            network: (B, 1, S, S) → (B, D); its mode is left as it was.
            progress: whether to show a bar.

        Returns:
            Predictions for the held-out images.
        """
        return self.fit(self.features(network, progress))

    def features(self, network: nn.Module, progress: bool = False, shard: bool = False) -> np.ndarray:
        """Features of the training images and then the held-out ones, in the order of `both`.

        Args:
            network: (B, 1, S, S) → (B, D); its mode is left as it was.
            progress: whether to show a bar.
            shard: share the images out to the ranks, all of which must call it; rank 0 then has all features.

        Returns:
            (N, D) float32.
        """
        loader = store_loader(self.both, self.batch_size, shard=shard)
        return extract_features(network, loader, self.transform, self.device, progress, self.amp)

    def fit(self, features: np.ndarray) -> ProbeResult:
        """Fits on the training images' part of (N, D) `features` and scores the held-out ones' part."""
        count = len(self.train)
        fitted, truth = self._truth(self.train), self._truth(self.held_out)
        if self.method == "linear":
            score = linear_probe(features[:count], fitted, features[count:], self.strength)
        else:
            score = knn_probe(features[:count], fitted, features[count:], self.neighbours, self.temperature)
        return ProbeResult(self.held_out.rows, truth, score, self.class_names)

    def summary(self, result: ProbeResult, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """AUROC and average precision with intervals by patient, see `metrics.classification_summary`."""
        return classification_summary(
            result.truth, result.score, result.class_names, groups=self.patients(result), resamples=resamples, seed=seed
        )

    def patients(self, result: ProbeResult) -> np.ndarray:
        """(N,) patient of each prediction."""
        return self.store.column("patient_id")[result.rows]

    def _truth(self, dataset: StoreDataset) -> np.ndarray:
        columns = [self.store.class_names.index(name) for name in self.class_names]
        return make_targets(self.store.labels[dataset.rows][:, columns], self.class_names, self.policy)


def _at_most(dataset: StoreDataset, limit: int) -> StoreDataset:
    if not limit or len(dataset) <= limit:
        return dataset
    chosen = np.random.default_rng(0).choice(dataset.rows, limit, replace=False)
    return StoreDataset(dataset.store.path, rows=np.sort(chosen))


def extract_features(
    network: nn.Module,
    loader: Any,
    transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]] | None,
    device: str | torch.device,
    progress: bool = False,
    amp: bool = False,
) -> np.ndarray:
    """Runs a network in eval mode over a loader that keeps its order.

    Args:
        network: (B, 1, S, S) → (B, D).
        loader: of batches with `image`.
        transform: batch transform to the network's input.
        device: where to run.
        progress: whether to show a bar.
        amp: mixed precision, on a GPU.

    Returns:
        (N, D) float32.
    """
    collector = FeatureCollector()
    images_per_step = loader.batch_size * getattr(loader.sampler, "ranks", 1)
    bar = [ProgressBar(images_per_step, label="features")] if progress else []
    evaluator = SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=loader,
        network=network,
        prepare_batch=PrepareBatch(transform),
        decollate=False,
        val_handlers=[*bar, collector],
        amp=amp,
        amp_kwargs=amp_options(),
    )
    evaluator.run()
    return collector.array


class FeatureCollector:
    """Keeps what a network puts out over a run, in the order of the data set, whatever the number of ranks.

    Attributes:
        array: (N, D) float32 after a run; of all images on rank 0, of their own on the other ranks of a loader that
            shares images out.
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self.array = np.zeros((0, 0), np.float32)

    def attach(self, engine: Engine) -> None:
        """Attaches to the start, to each step and to the end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._parts.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        """Keeps the batch just done."""
        self._parts.append(engine.state.output["pred"].float().cpu().numpy())

    def finish(self, engine: Engine) -> None:
        """Joins the batches, and on rank 0 what the ranks have."""
        self.array = joined(engine, np.concatenate(self._parts))


def linear_probe(train: np.ndarray, truth: np.ndarray, held_out: np.ndarray, strength: float = 100.0) -> np.ndarray:
    """Logistic regression per finding on features standardised by the training set.

    Args:
        train: (N, D) features.
        truth: (N, C) 1, 0 or NaN (left out).
        held_out: (M, D) features.
        strength: of the L2 penalty (1/C of scikit-learn).

    Returns:
        (M, C) probabilities; 0.5 where the training set holds one class only.
    """
    names = [str(k) for k in range(truth.shape[1])]
    return fit_logistic(train, truth, names, c=1 / strength).probability(held_out, "multilabel")


def knn_probe(
    train: np.ndarray, truth: np.ndarray, held_out: np.ndarray, neighbours: int = 20, temperature: float = 0.1
) -> np.ndarray:
    """Votes of the nearest training images by cosine, weighted by exp(cosine / temperature) (Wu et al., 2018).

    Args:
        train: (N, D) features.
        truth: (N, C) 1, 0 or NaN (no vote).
        held_out: (M, D) features.
        neighbours: that vote, among those whose label is known.
        temperature: of the weights.

    Returns:
        (M, C) shares of the vote; 0.5 where the training set holds one class only.
    """
    train = train / np.maximum(np.linalg.norm(train, axis=1, keepdims=True), 1e-12)
    held_out = held_out / np.maximum(np.linalg.norm(held_out, axis=1, keepdims=True), 1e-12)
    score = np.full((len(held_out), truth.shape[1]), 0.5)
    for k, column in enumerate(truth.T):
        known = np.flatnonzero(~np.isnan(column))
        if len(np.unique(column[known])) < 2:
            continue
        count = min(neighbours, len(known))
        for start in range(0, len(held_out), 1024):
            cosine = held_out[start : start + 1024] @ train[known].T
            nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
            weight = np.exp((np.take_along_axis(cosine, nearest, 1).astype(np.float64) - 1) / temperature)
            score[start : start + 1024, k] = (weight * column[known][nearest]).sum(1) / weight.sum(1)
    return score
