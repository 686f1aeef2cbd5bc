"""Watching for collapse: a network that gives every image the same embedding has learned nothing, at a low loss."""

from __future__ import annotations

import sys
from collections import deque

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.metrics.contrastive import deviations, effective_rank, spread


class CollapseMonitor:
    """Measures the embeddings of the last training steps, writes them to TensorBoard, and warns once of a collapse.

    The scalars are `embedding/spread` (0 collapsed, 1 even) and `embedding/effective_rank` (dimensions in use), see
    `metrics.contrastive`. They are taken over this rank's last steps of the epoch, as many as make `images` embeddings,
    each step about its own mean. A run counts as collapsed when the spread falls below `least_spread` or the rank below
    `least_rank` at the end of an epoch; the first such epoch is told on stderr.

    Args:
        module: whose output (B, D) in training is watched: a projection head, or an encoder.
        writer: from `summary_writer`; `None` writes nothing.
        every: steps between measurements, besides each epoch's last.
        images: how many of the last embeddings are measured, at least.
        least_spread: of a run that has not collapsed.
        least_rank: likewise.

    Attributes:
        collapsed: whether the last epoch that ended was.
        spread: last measured; NaN before.
        rank: likewise.
    """

    def __init__(
        self,
        module: nn.Module,
        writer: SummaryWriter | None = None,
        every: int = 100,
        images: int = 512,
        least_spread: float = 0.03,
        least_rank: float = 1.5,
    ) -> None:
        self.module, self.writer, self.every, self.images = module, writer, every, images
        self.least_spread, self.least_rank = least_spread, least_rank
        self.collapsed, self.spread, self.rank = False, float("nan"), float("nan")
        self._parts: deque[torch.Tensor] = deque()
        self._warned = False

    def attach(self, engine: Engine) -> None:
        """Attaches to the run, to steps and to epochs."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._parts.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, lambda _: self._hook.remove())

    def start(self, engine: Engine) -> None:
        """Begins to keep what the module puts out."""
        self._hook = self.module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, _: object, output: torch.Tensor) -> None:
        if not module.training:
            return
        self._parts.append(output.detach())
        while len(self._parts) > 1 and sum(map(len, self._parts)) - len(self._parts[0]) >= self.images:
            self._parts.popleft()

    def measure(self, engine: Engine) -> None:
        """Measures and writes."""
        if not self._parts:
            return
        apart = deviations([part.cpu() for part in self._parts])
        self.spread, self.rank = spread(apart), effective_rank(apart)
        if self.writer is not None:
            self.writer.add_scalar("embedding/spread", self.spread, engine.state.iteration)
            self.writer.add_scalar("embedding/effective_rank", self.rank, engine.state.iteration)

    def epoch(self, engine: Engine) -> None:
        """Judges the epoch."""
        self.measure(engine)
        self.collapsed = self.spread < self.least_spread or self.rank < self.least_rank
        if self.collapsed and not self._warned and distributed.rank() == 0:
            self._warned = True
            print(
                f"warning: the embeddings have collapsed by epoch {engine.state.epoch} (spread {self.spread:.3f} of 1, "
                f"effective rank {self.rank:.1f} of {self._parts[-1].shape[1]}): nearly all images get the same; lower "
                "--learning_rate or raise --batch_size, and start anew",
                file=sys.stderr,
            )
