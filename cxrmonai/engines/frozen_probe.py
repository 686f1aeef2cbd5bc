"""Probes of a frozen encoder: features extracted once, and a simple classifier fitted on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task, sampling_weights
from cxrmonai.engines.checkpointing import BEST, save
from cxrmonai.engines.classification import Transform
from cxrmonai.engines.linear_models import LinearModel, LinearTraining, fit_linear, fit_logistic
from cxrmonai.engines.probe import extract_features, knn_probe
from cxrmonai.errors import CxrError
from cxrmonai.metrics.multiclass import class_numbers, mean_auroc, one_hot
from cxrmonai.networks import Classifier

LINEAR, LOGISTIC, KNN = "linear", "logistic", "knn"
METHODS = (LINEAR, LOGISTIC, KNN)


class FeatureBank:
    """Features of a store's images in memory; each image goes through the network once.

    The network is in evaluation mode, whatever mode it is left in, so that a feature depends neither on the size of a
    batch nor on the images beside it.

    Args:
        network: whose `features` are taken.
        data_file: the store.
        transform: batch transform from stored pixels to the network's input; no augmentation.
        device: where to run.
        batch_size: images a step.
        amp: mixed precision, on a GPU.
    """

    def __init__(
        self,
        network: Classifier,
        data_file: str | os.PathLike[str],
        transform: Transform,
        device: str | torch.device = "cpu",
        batch_size: int = 128,
        amp: bool = False,
    ) -> None:
        self.network = _Features(network)
        self.data_file, self.transform = data_file, transform
        self.device, self.batch_size, self.amp = device, batch_size, amp
        self._rows = np.empty(0, np.int64)
        self._values: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) float32 features of some rows of the store, in their order; those not seen yet are extracted."""
        missing = np.setdiff1d(rows, self._rows)
        if len(missing):
            loader = store_loader(StoreDataset(self.data_file, rows=missing), self.batch_size, shard=False)
            shown = distributed.rank() == 0
            values = extract_features(self.network, loader, self.transform, self.device, shown, self.amp)
            self._rows = np.concatenate([self._rows, missing])
            self._values = values if self._values is None else np.concatenate([self._values, values])
            order = np.argsort(self._rows)
            self._rows, self._values = self._rows[order], self._values[order]
        return self._values[np.searchsorted(self._rows, rows)]


class _Features(nn.Module):
    """A classifier without its linear layer."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.features(images)


@dataclass(frozen=True)
class FittedProbe:
    """A probe that was fitted on some training images.

    Attributes:
        probability: from rows of the store to (N, K) float64.
        model: the linear model; `None` for kNN, which has none.
        notes: sentences that the user should read.
    """

    probability: Callable[[np.ndarray], np.ndarray]
    model: LinearModel | None
    notes: list[str]


class FrozenProbe:
    """Fits a classifier on the features of a frozen encoder, for the targets of a task.

    Args:
        network: a classifier on the encoder; its head is replaced by what is fitted.
        data_file: the store.
        task: its targets.
        transform: batch transform from stored pixels to the network's input; no augmentation.
        method: `linear`, a linear layer by gradient descent; `logistic`, logistic regression; `knn`, votes of the
            nearest training images.
        ckpt_dir: gets `model.pt`, a whole `Classifier`; nothing for `knn`, which has no weights.
        rows: of the training images.
        make_loss: from rows of training images to the loss of `linear`.
        training: of `linear`.
        sampling: of `linear`, see `tasks.sampling_weights`.
        c: of `logistic`, see `fit_logistic`.
        max_iter: of `logistic`.
        neighbours: of `knn`.
        device: where the network runs.
        batch_size: images a step while features are extracted.
        amp: mixed precision for the features, on a GPU.
        writer: of TensorBoard.
    """

    def __init__(
        self,
        network: Classifier,
        data_file: str | os.PathLike[str],
        task: Task,
        transform: Transform,
        method: str,
        ckpt_dir: str | os.PathLike[str],
        rows: np.ndarray,
        make_loss: Callable[[np.ndarray], nn.Module],
        training: LinearTraining | None = None,
        sampling: str = "uniform",
        c: float | None = None,
        max_iter: int = 1000,
        neighbours: int = 20,
        device: str | torch.device = "cpu",
        batch_size: int = 128,
        amp: bool = False,
        writer: SummaryWriter | None = None,
    ) -> None:
        self.network, self.task, self.method = network, task, method
        self.bank = FeatureBank(network, data_file, transform, device, batch_size, amp)
        self.ckpt_dir, self.rows = Path(ckpt_dir), rows
        self.validation_rows = _rows(data_file, "val")
        self.make_loss, self.training, self.sampling = make_loss, training, sampling
        self.c, self.max_iter, self.neighbours, self.writer = c, max_iter, neighbours, writer
        self.fitted: FittedProbe | None = None

    def run(self) -> FittedProbe:
        """Fits on the training images, says on rank 0 what to know of it, and writes `model.pt` where there is one.

        Raises:
            CxrError: see `fit`.
        """
        self._check()
        self.extract(self.rows)
        self.fitted = fitted = self.fit(self.rows, progress=distributed.rank() == 0)
        if distributed.rank() != 0:
            return fitted
        for note in fitted.notes:
            print(f"note: {note}")
        if self.writer is not None and len(self.validation_rows):
            scores = fitted.probability(self.validation_rows)
            value = mean_auroc(self.task.targets[self.validation_rows], scores, self.task.kind)
            self.writer.add_scalar("probe/val_mean_auroc", value)
            self.writer.flush()
        if fitted.model is not None:
            model = fitted.model
            arrays = (model.weight, model.bias, model.mean, model.std)
            device = self.network.head.weight.device
            self.network.set_head(*(torch.from_numpy(array).to(device) for array in arrays))
            save(self.network.state_dict(), self.ckpt_dir / BEST)
        return fitted

    def extract(self, rows: np.ndarray) -> None:
        """Extracts the features of some rows of the store and of the validation images, in one go."""
        self.bank.of(np.unique(np.concatenate([rows, self.validation_rows])))

    def fit(self, rows: np.ndarray, progress: bool = False) -> FittedProbe:
        """Fits on some training images, and leaves the network as it is.

        Args:
            rows: of the store.
            progress: whether to show bars.

        Raises:
            CxrError: an unknown method, or a network whose features are not the encoder's own; see `fit_linear`.
        """
        self._check()
        features, targets = self.bank.of(rows), self.task.targets[rows]
        kind, names = self.task.kind, self.task.class_names
        if self.method == KNN:
            return FittedProbe(lambda others: self._votes(features, targets, others), None, [])
        held_out = self.validation_rows
        validation = (self.bank.of(held_out), self.task.targets[held_out]) if len(held_out) else None
        if self.method == LOGISTIC:
            model = fit_logistic(features, targets, names, kind, self.c, self.max_iter, validation, progress)
        else:
            loss, weights = self.make_loss(rows), sampling_weights(self.task, rows, self.sampling)
            options = (kind, self.training, validation, weights, progress, self.writer if progress else None)
            model = fit_linear(features, targets, loss, len(names), *options)
        return FittedProbe(lambda others: model.probability(self.bank.of(others), kind), model, model.notes)

    def _check(self) -> None:
        if self.method not in METHODS:
            raise CxrError(f"method '{self.method}': a probe is one of {', '.join(METHODS)}")
        if self.network.pcam or self.network.settings["attention"] != "none":
            raise CxrError(
                f"method {self.method} takes the features that the encoder gives; leave pooling PCAM and attention to "
                "--method full"
            )

    def _votes(self, features: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Shares of the vote; for several classes they add up to 1, and one that is not among them gets none."""
        multiclass = self.task.kind == "multiclass"
        if not multiclass:
            return knn_probe(features, targets, self.bank.of(rows), self.neighbours)
        count = len(self.task.class_names)
        truth = one_hot(class_numbers(targets[:, 0], count), count)
        votes = knn_probe(features, truth, self.bank.of(rows), self.neighbours)
        seen = (truth == 1).any(axis=0)
        votes[:, ~seen] = 0 if seen.any() else 1
        return votes / votes.sum(axis=1, keepdims=True)


def _rows(data_file: str | os.PathLike[str], split: str) -> np.ndarray:
    """Rows of a split, none where it is empty."""
    return np.flatnonzero(open_store(data_file).column("split") == split)
