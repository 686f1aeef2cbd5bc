"""Linear models on features that do not change: logistic regression, and a linear layer by gradient descent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from cxrmonai.data.dataset import EpochSampler, as_it_is
from cxrmonai.engines.monitoring import ProgressBar, StopOnNonFinite
from cxrmonai.engines.optimisation import make_optimizer, make_schedule
from cxrmonai.engines.scheduling import StepSchedule
from cxrmonai.engines.seeding import EpochSeed
from cxrmonai.metrics.multiclass import mean_auroc
from cxrmonai.progress import progress_bar

PENALTIES = tuple(10.0**power for power in range(-4, 3))  # C of scikit-learn, that validation chooses from
USUAL_C = 0.0327  # cxrlearn's
ABSENT_LOGIT = -30.0  # of a class that no training image shows, among several of which one is there


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear layer on standardised features.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        mean: (D,) that is subtracted from the features.
        std: (D,) that they are divided by.
        notes: sentences that the user should read.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    notes: list[str] = field(default_factory=list)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) features → (N, K) float64."""
        return (features.astype(np.float64) - self.mean) / self.std @ self.weight.T + self.bias

    def probability(self, features: np.ndarray, kind: str) -> np.ndarray:
        """(N, D) features → (N, K) float64: of each class, or adding up to 1 if `kind` is `multiclass`."""
        logits = self.logits(features)
        return softmax(logits, axis=1) if kind == "multiclass" else expit(logits)


def fit_logistic(
    features: np.ndarray,
    targets: np.ndarray,
    class_names: Sequence[str],
    kind: str = "multilabel",
    c: float | None = None,
    max_iter: int = 1000,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    progress: bool = False,
) -> LinearModel:
    """Logistic regression on standardised features: one model a column, or a multinomial one for several classes.

    Args:
        features: (N, D) of the training images.
        targets: (N, K) of 1, 0 and NaN (left out), or (N, 1) class numbers for `multiclass`.
        class_names: (K,).
        kind: `multilabel` or `multiclass`.
        c: inverse of the L2 penalty, as scikit-learn counts it; `None` takes for each model the one of `PENALTIES` that
            has the highest AUROC on the validation images, the smallest of equals.
        max_iter: of L-BFGS.
        validation: features and targets of the validation images, for `c` of `None`.
        progress: whether to show a bar.

    Returns:
        The model. A column that is never, or always, present has probability 0.5 throughout, and a note says so; one
        of several exclusive classes that no image shows has probability 0.
    """
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    held_out = None if validation is None else (scaler.transform(validation[0]), validation[1])
    search = _Search(class_names, kind, c, max_iter, held_out, progress)
    weight, bias = search.fit(scaled, targets)
    return LinearModel(weight, bias, scaler.mean_, scaler.scale_, search.notes)


class _Search:
    """The fits of one call of `fit_logistic`."""

    def __init__(
        self,
        class_names: Sequence[str],
        kind: str,
        c: float | None,
        max_iter: int,
        validation: tuple[np.ndarray, np.ndarray] | None,
        progress: bool,
    ) -> None:
        self.names, self.kind, self.max_iter, self.validation = list(class_names), kind, max_iter, validation
        self.candidates = PENALTIES if c is None and validation is not None else (USUAL_C if c is None else c,)
        self.progress, self.notes = progress, []

    def fit(self, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.names)
        weight, bias = np.zeros((count, features.shape[1])), np.zeros(count)
        columns = [slice(0, 1)] if self.kind == "multiclass" else [slice(k, k + 1) for k in range(count)]
        bar = progress_bar("logistic regression", len(columns) * len(self.candidates), "fit", self.progress)
        slow, chosen = [], []
        with bar:
            for column in columns:
                name = "the classes" if self.kind == "multiclass" else self.names[column.start]
                best, c, converged = self._best(features, targets[:, column], column, bar.update)
                if best is None:
                    continue
                rows = slice(None) if self.kind == "multiclass" else column
                weight[rows], bias[rows] = best
                chosen += [f"{name} {c:g}"] if c in PENALTIES else []
                slow += [] if converged else [name]
        if slow:
            self.notes.append(f"logistic regression of {', '.join(slow)} did not converge in {self.max_iter} steps")
        if len(self.candidates) > 1 and chosen:
            self.notes.append(f"C chosen on validation images: {', '.join(chosen)}")
        return weight, bias

    def _best(
        self, features: np.ndarray, targets: np.ndarray, column: slice, done: Callable[[int], Any]
    ) -> tuple[tuple[np.ndarray, np.ndarray] | None, float, bool]:
        known = ~np.isnan(targets[:, 0])
        classes = np.unique(targets[known, 0])
        name = "the classes" if self.kind == "multiclass" else self.names[column.start]
        if len(classes) < 2:
            self.notes.append(f"{name}: the training images show one class only, so that nothing was learned")
            done(len(self.candidates))
            return None, math.nan, True
        candidates = self.candidates
        if len(candidates) > 1 and math.isnan(self._score(np.zeros((1, features.shape[1])), np.zeros(1), column)):
            self.notes.append(f"{name}: the validation images show one class only, so that C is {USUAL_C}")
            candidates = (USUAL_C,)
        best, best_c, best_score, converged = None, candidates[0], -math.inf, True
        for c in candidates:
            model = LogisticRegression(C=c, max_iter=self.max_iter)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(features[known], targets[known, 0])
            fitted = self._as_rows(model)
            score = self._score(*fitted, column) if len(candidates) > 1 else 0.0
            if score > best_score:
                best, best_c, best_score, converged = fitted, c, score, not caught
            done(1)
        done(len(self.candidates) - len(candidates))
        return best, best_c, converged

    def _as_rows(self, model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
        """(1, D) and (1,), or for several classes (K, D) and (K,)."""
        if self.kind != "multiclass":
            return model.coef_, model.intercept_
        weight = np.zeros((len(self.names), model.coef_.shape[1]))
        bias = np.full(len(self.names), ABSENT_LOGIT)
        seen = model.classes_.astype(int)
        bias[seen] = 0
        rows = seen[1:] if len(seen) == 2 else seen  # of two classes scikit-learn keeps the second's logit alone
        weight[rows], bias[rows] = model.coef_, model.intercept_
        return weight, bias

    def _score(self, weight: np.ndarray, bias: np.ndarray, column: slice) -> float:
        features, targets = self.validation
        scores = features @ weight.T + bias
        if self.kind == "multiclass":
            whole = np.zeros((len(features), len(self.names)))
            whole[:, : scores.shape[1]] = scores
            return mean_auroc(targets, softmax(whole, axis=1), self.kind)
        return mean_auroc(targets[:, column], scores, self.kind)


@dataclass(frozen=True)
class LinearTraining:
    """How a linear layer is trained; see `make_optimizer` and `make_schedule`.

    Attributes:
        weights: (N,) how often each image is drawn, or `None`.
        patience: epochs without a better AUROC on validation images after which to stop; 0 never stops early.
    """

    optimizer_name: str = "SGD"
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 0
    step_epochs: Sequence[int] = ()
    factor: float = 0.1
    plateau_epochs: int = 3
    max_epochs: int = 30
    batch_size: int = 64
    patience: int = 0
    seed: int = 0
    device: str = "cpu"


def fit_linear(
    features: np.ndarray,
    targets: np.ndarray,
    loss: nn.Module,
    classes: int,
    kind: str = "multilabel",
    training: LinearTraining | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
    progress: bool = False,
    writer: SummaryWriter | None = None,
) -> LinearModel:
    """Trains a linear layer on standardised features, and keeps the best epoch by mean AUROC on validation images.

    The layer starts at 0, so that what comes out depends on the order of the images alone.

    Args:
        features: (N, D) of the training images.
        targets: (N, K), or (N, 1) class numbers.
        loss: of logits (B, K) and targets.
        classes: K.
        kind: `multilabel` or `multiclass`.
        training: optimiser, schedule and length.
        validation: features and targets; without them the last epoch is kept.
        weights: (N,) how often each image is drawn, see `EpochSampler`.
        progress: whether to show a bar for each epoch.
        writer: of TensorBoard, for the curves of loss and AUROC.

    Raises:
        CxrError: the loss is no number any more, or an option is unknown.
    """
    training = training or LinearTraining()
    scaler = StandardScaler().fit(features)
    device = torch.device(training.device)
    layer = nn.Linear(features.shape[1], classes).to(device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    sampler = EpochSampler(len(features), shuffle=True, seed=training.seed, shard=False, weights=weights)
    size = min(training.batch_size, len(features))
    dataset = _Features(scaler.transform(features), targets, device)
    loader = DataLoader(dataset, size, sampler=sampler, drop_last=True, collate_fn=as_it_is)
    optimizer = make_optimizer(
        training.optimizer_name,
        layer.parameters(),
        training.learning_rate,
        training.weight_decay,
        training.momentum,
    )
    schedule = make_schedule(
        training.schedule,
        optimizer,
        len(loader),
        training.max_epochs,
        training.warmup_epochs,
        training.step_epochs,
        training.factor,
        training.plateau_epochs,
    )
    held_out = None if validation is None else (scaler.transform(validation[0]), validation[1])
    keeper = _KeepBest(layer, held_out, kind, training.patience, writer)
    bar = [ProgressBar(size, optimizer)] if progress else []
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=training.max_epochs,
        train_data_loader=loader,
        network=layer,
        optimizer=optimizer,
        loss_function=loss.to(device),
        decollate=False,
        train_handlers=[
            EpochSeed(training.seed, [], sampler),
            StopOnNonFinite(),
            *bar,
            keeper,
            StepSchedule(schedule, keeper, "mean_auroc"),
        ],
    )
    trainer.run()
    return LinearModel(*keeper.best, scaler.mean_, scaler.scale_)


class _Features(Dataset):
    """Features and targets on a device, served as whole batches."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, device: torch.device) -> None:
        self.features = torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
        self.targets = torch.from_numpy(np.ascontiguousarray(targets, np.float32)).to(device)

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, places: list[int]) -> dict[str, torch.Tensor]:
        chosen = torch.tensor(places, device=self.features.device)
        return {"image": self.features[chosen], "label": self.targets[chosen]}


class _KeepBest:
    """Judges a layer on validation features after each epoch, and keeps the weights of the best."""

    def __init__(
        self,
        layer: nn.Linear,
        validation: tuple[np.ndarray, np.ndarray] | None,
        kind: str,
        patience: int,
        writer: SummaryWriter | None,
    ) -> None:
        self.layer, self.validation, self.kind = layer, validation, kind
        self.patience, self.writer = patience, writer
        self.best = self._weights()
        self.best_score, self.best_epoch = math.nan, 0
        self.state = _State()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        weight, bias = self._weights()
        score, epoch = math.nan, engine.state.epoch
        if self.validation is not None:
            logits = self.validation[0] @ weight.T + bias
            scores = softmax(logits, axis=1) if self.kind == "multiclass" else logits
            score = mean_auroc(self.validation[1], scores, self.kind)
        self.state.metrics["mean_auroc"] = score
        if self.writer is not None:
            self.writer.add_scalar("train/loss", float(engine.state.output["loss"].detach()), epoch)
            self.writer.add_scalar("validation/val_mean_auroc", score, epoch)
        if math.isnan(self.best_score) or score > self.best_score:
            self.best, self.best_score, self.best_epoch = (weight, bias), score, epoch
        if self.patience and epoch - self.best_epoch >= self.patience:
            engine.terminate()

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        state = self.layer.state_dict()
        return state["weight"].double().cpu().numpy(), state["bias"].double().cpu().numpy()


class _State:
    """What `StepSchedule` reads of a validation engine."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
