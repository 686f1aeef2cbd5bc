"""Optimisers and learning-rate schedules by name, counted in updates of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.optimizers import WarmupCosineSchedule
from torch.optim import lr_scheduler

from cxrmonai.errors import CxrError

OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta")
SCHEDULES = ("constant", "cosine", "step", "plateau", "one_cycle", "poly")
POLY_POWER = 0.9
WITH_MOMENTUM = ("SGD", "RMSprop")


def make_optimizer(
    name: str,
    parameters: Iterable[Any],
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Builds an optimiser.

    Args:
        name: one of `OPTIMIZERS`.
        parameters: of the network, or groups with their own `lr` and `weight_decay`.
        learning_rate: of groups that name none.
        weight_decay: likewise; decoupled with AdamW, an L2 penalty with the others.
        momentum: of SGD (with Nesterov's correction) and RMSprop.

    Raises:
        CxrError: unknown name.
    """
    if name not in OPTIMIZERS:
        raise CxrError(f"optimizer '{name}': known are {', '.join(OPTIMIZERS)}")
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name in WITH_MOMENTUM:
        options["momentum"] = momentum
    if name == "SGD":
        options["nesterov"] = momentum > 0
    return getattr(torch.optim, name)(parameters, **options)


def make_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    updates_per_epoch: int,
    max_epochs: int,
    warmup_epochs: float = 0,
    step_epochs: Sequence[int] = (),
    factor: float = 0.1,
    plateau_epochs: int = 3,
) -> Any:
    """Builds a schedule for `StepSchedule`.

    Args:
        name: `constant`; `cosine`, to 0 at the end; `step`, times `factor` after each of `step_epochs`; `plateau`,
            times `factor` when the metric was not better for `plateau_epochs`; `one_cycle` (Smith and Topin, 2018),
            whose peak is the optimiser's learning rate; or `poly`, falling to 0 as (1 − share of the run)^0.9
            (Chen et al., DeepLab, 2017).
        optimizer: whose learning rates are scheduled.
        updates_per_epoch: of the weights.
        max_epochs: of the run.
        warmup_epochs: of linear rise from 0, at the start of `cosine`; the share of the rise in `one_cycle`.
        step_epochs: of `step`.
        factor: of `step` and `plateau`.
        plateau_epochs: of `plateau`.

    Raises:
        CxrError: unknown name, or `step` without epochs.
    """
    total = max(1, updates_per_epoch * max_epochs)
    if name == "constant":
        return lr_scheduler.LambdaLR(optimizer, _one)
    if name == "cosine":
        return WarmupCosineSchedule(optimizer, warmup_steps=round(warmup_epochs * updates_per_epoch), t_total=total)
    if name == "step":
        if not step_epochs:
            raise CxrError("schedule step needs the epochs to step after; give --step_epochs, such as [4,8,12]")
        milestones = [int(epoch) * updates_per_epoch for epoch in step_epochs]
        return lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)
    if name == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=factor, patience=plateau_epochs)
    if name == "one_cycle":
        peak = [group["lr"] for group in optimizer.param_groups]
        rise = min(0.9, warmup_epochs / max_epochs) if warmup_epochs else 0.3
        return lr_scheduler.OneCycleLR(optimizer, peak, total_steps=total + 1, pct_start=rise, cycle_momentum=False)
    if name == "poly":
        return lr_scheduler.LambdaLR(optimizer, lambda update: max(0.0, 1 - update / total) ** POLY_POWER)
    raise CxrError(f"schedule '{name}': known are {', '.join(SCHEDULES)}")


def _one(_: int) -> float:
    return 1.0


def suggest_learning_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The learning rate at which a range test's smoothed loss falls fastest (Smith, 2017).

    Args:
        rates: (N,) rising, log-spaced.
        losses: (N,) smoothed.

    Raises:
        CxrError: the loss nowhere falls.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__)
    falls = [(losses[k] - losses[k - 1]) / (math.log(rates[k]) - math.log(rates[k - 1])) for k in range(1, lowest + 1)]
    if not falls or min(falls) >= 0:
        raise CxrError("the loss falls at no learning rate of the range test; look at the data, or lower its start")
    return float(rates[1 + falls.index(min(falls))])
