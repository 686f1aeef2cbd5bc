"""Randomness as a function of the seed and the epoch, so that a resumed run draws what the uninterrupted one would."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable

from cxrmonai import distributed


class EpochSeed:
    """Seeds the global generators, the transforms and the sampler at the start of each epoch.

    Args:
        seed: of the run.
        transforms: Randomizable transforms to seed, such as the `Compose` of a batch's augmentation.
        sampler: with `set_epoch`, or `None`.
        every_epoch: whether each epoch draws anew, and each rank otherwise; a validation that shall see the same views
            each time, whatever the number of ranks, says no.
    """

    def __init__(
        self,
        seed: int,
        transforms: Sequence[Randomizable] = (),
        sampler: object | None = None,
        every_epoch: bool = True,
    ) -> None:
        self.seed, self.transforms, self.sampler, self.every_epoch = seed, list(transforms), sampler, every_epoch

    def attach(self, engine: Engine) -> None:
        """Attaches to the start of an epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds for the engine's current epoch."""
        epoch, rank = (engine.state.epoch, distributed.rank()) if self.every_epoch else (0, 0)
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)
        base = np.random.SeedSequence([self.seed, epoch, rank]).generate_state(1 + len(self.transforms))
        for transform, value in zip(self.transforms, base[1:], strict=True):
            transform.set_random_state(seed=int(value))
        if self.every_epoch:
            seed_everything(int(base[0]))


class SetEpoch:
    """Tells those who draw by the epoch which one begins.

    Args:
        items: what has a `set_epoch` is told; the others are passed over, so that a config can name its parts whatever
            they are.
    """

    def __init__(self, items: Sequence[object]) -> None:
        self.items = [item for item in items if hasattr(item, "set_epoch")]

    def attach(self, engine: Engine) -> None:
        """Attaches to the start of an epoch, before its first batch."""
        if self.items:
            engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Tells the engine's current epoch."""
        for item in self.items:
            item.set_epoch(engine.state.epoch)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)
