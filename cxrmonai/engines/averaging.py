"""A running average of a network's weights, which is what gets validated and kept."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of weights and buffers; `UpdateAverage` moves it.

    The average of the first updates is that of so many as there were: the decay is `min(decay, (1 + n) / (10 + n))`,
    as TensorFlow's `ExponentialMovingAverage` warms it up.

    Args:
        network: on its device, not yet wrapped for several ranks.
        decay: of the average, 0 to below 1; 0 averages nothing, and `network` is then the network itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.source = network
        self._averaged = AveragedModel(network, use_buffers=True) if decay else None

    @property
    def network(self) -> nn.Module:
        """What to validate and to keep."""
        return self.source if self._averaged is None else self._averaged.module

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights as they are now."""
        if self._averaged is None:
            return
        count = int(self._averaged.n_averaged)
        decay = min(self.decay, (1 + count) / (10 + count))
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self._averaged.update_parameters(self.source)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Of the average; empty without one."""
        return {} if self._averaged is None else self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on with an average."""
        if self._averaged is not None:
            self._averaged.load_state_dict(state)


class UpdateAverage:
    """Moves an average after each update of the weights.

    Args:
        average: of the network that is trained.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Attaches to iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Moves the average, where MONAI's trainer has just updated."""
        if updated(engine):
            self.average.update()


def updated(engine: Engine) -> bool:
    """Whether MONAI's trainer has changed the weights in this iteration; under accumulation it is not each."""
    place = (engine.state.iteration - 1) % engine.state.epoch_length + 1
    return place % engine.accumulation_steps == 0 or place == engine.state.epoch_length
