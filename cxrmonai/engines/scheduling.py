"""Learning rates that change from update to update, or with a metric."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cxrmonai import distributed
from cxrmonai.engines.averaging import updated


class StepSchedule:
    """Steps a schedule after each update of the weights; one that waits for a plateau after each epoch.

    Args:
        lr_scheduler: counted in updates, or a `ReduceLROnPlateau`.
        validator: evaluator whose state holds the metric of a plateau; attach after its run.
        metric: its name in `validator.state.metrics`.
    """

    def __init__(self, lr_scheduler: Any, validator: Engine | None = None, metric: str = "") -> None:
        self.lr_scheduler, self.validator, self.metric = lr_scheduler, validator, metric

    def attach(self, engine: Engine) -> None:
        """Attaches to iterations, or to epochs."""
        on_plateau = isinstance(self.lr_scheduler, ReduceLROnPlateau)
        engine.add_event_handler(
            *((Events.EPOCH_COMPLETED, self.epoch) if on_plateau else (Events.ITERATION_COMPLETED, self))
        )

    def __call__(self, engine: Engine) -> None:
        """Steps, where MONAI's trainer has just updated."""
        if updated(engine):
            self.lr_scheduler.step()

    def epoch(self, engine: Engine) -> None:
        """Steps on the epoch's metric."""
        value = float(self.validator.state.metrics[self.metric])
        self.lr_scheduler.step(distributed.broadcast_number(value))
