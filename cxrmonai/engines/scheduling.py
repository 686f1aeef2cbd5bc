"""Learning rates that change from update to update."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events


class StepSchedule:
    """Steps a schedule after each update of the weights; under gradient accumulation that is not each iteration.

    Args:
        lr_scheduler: counted in updates.
    """

    def __init__(self, lr_scheduler: Any) -> None:
        self.lr_scheduler = lr_scheduler

    def attach(self, engine: Engine) -> None:
        """Attaches to iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Steps, where MONAI's trainer has just updated."""
        place = (engine.state.iteration - 1) % engine.state.epoch_length + 1
        if place % engine.accumulation_steps == 0 or place == engine.state.epoch_length:
            self.lr_scheduler.step()
