"""Watching a run: progress bar, TensorBoard, and a stop when the loss is no number."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cxrmonai import distributed
from cxrmonai.errors import CxrError

_open_writers: weakref.WeakValueDictionary[str, SummaryWriter] = weakref.WeakValueDictionary()


def summary_writer(log_dir: str | os.PathLike[str]) -> SummaryWriter | None:
    """The run's one TensorBoard writer on rank 0, `None` on the others.

    Who asks again while the writer is in use gets the same one, so that a run writes one event file.

    Raises:
        CxrError: the folder cannot be made.
    """
    if distributed.rank() != 0:
        return None
    try:
        os.makedirs(log_dir, exist_ok=True)
    except OSError as error:
        raise CxrError(f"{log_dir}: cannot write here ({error.strerror}); choose another --output_dir") from error
    folder = os.path.abspath(log_dir)
    writer = _open_writers.get(folder)
    if writer is None:
        writer = _open_writers[folder] = SummaryWriter(str(log_dir))
        weakref.finalize(writer, writer.file_writer.close)
    return writer


class ProgressBar:
    """A bar per epoch with the mean loss, the learning rate and images per second; shown by rank 0 alone.

    Args:
        batch_size: images a step over all ranks.
        optimizer: whose learning rate is shown; none for an evaluation.
        every: seconds between updates; reading the loss more often would hold a GPU up.
        label: of the bar.
    """

    def __init__(
        self,
        batch_size: int,
        optimizer: torch.optim.Optimizer | None = None,
        every: float = 0.5,
        label: str = "epoch",
    ) -> None:
        self.batch_size, self.optimizer, self.every, self.label = batch_size, optimizer, every, label
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Attaches to the start and end of an epoch and to each step."""
        if distributed.rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.stop)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.failed)

    def start(self, engine: Engine) -> None:
        """Opens the bar of an epoch."""
        many = (engine.state.max_epochs or 1) > 1
        name = f"{self.label} {engine.state.epoch}/{engine.state.max_epochs}" if many else self.label
        self.bar = tqdm(
            total=engine.state.epoch_length, desc=name, unit="step", file=sys.stderr, mininterval=self.every
        )
        self.total: torch.Tensor | None = None
        self.count, self.begun, self.shown = 0, time.perf_counter(), 0.0

    def step(self, engine: Engine) -> None:
        """Moves the bar."""
        self.count += 1
        loss = engine.state.output.get("loss") if isinstance(engine.state.output, dict) else None
        if loss is not None:
            self.total = loss.detach() if self.total is None else self.total + loss.detach()
        now = time.perf_counter()
        if now - self.shown >= self.every or self.count == engine.state.epoch_length:
            self.shown = now
            self.bar.set_postfix(self._facts(now), refresh=False)
        self.bar.update(1)

    def _facts(self, now: float) -> dict[str, str]:
        facts = {} if self.total is None else {"loss": f"{self.total.item() / self.count:.3f}"}
        if self.optimizer is not None:
            facts["lr"] = f"{self.optimizer.param_groups[0]['lr']:.1e}"
        return {**facts, "img/s": f"{self.count * self.batch_size / (now - self.begun):.0f}"}

    def stop(self, engine: Engine) -> None:
        """Closes the bar."""
        self.bar.close()

    def failed(self, engine: Engine, error: BaseException) -> None:
        """Closes the bar and lets the error go on."""
        if self.bar is not None:
            self.bar.close()
        raise error


class TensorBoardLog:
    """Writes a run to TensorBoard: per step loss and rate, per epoch their means and the validation's metrics.

    Args:
        writer: from `summary_writer`; `None` writes nothing.
        optimizer: whose learning rate is written.
        batch_size: images a step over all ranks.
        validator: evaluator whose metrics are written, under the epoch of training.
        step_metrics: name → function of the network's output in training, written with the loss.
        every: steps between writings of the loss, besides each epoch's last; reading it more often would hold a GPU
            up.
        pairs: number of images whose views are drawn once, at the start; 0 for none.
        views: of an image.
    """

    def __init__(
        self,
        writer: SummaryWriter | None,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        validator: Engine | None = None,
        step_metrics: dict[str, Callable[[Any], torch.Tensor]] | None = None,
        every: int = 10,
        pairs: int = 0,
        views: int = 2,
    ) -> None:
        self.writer, self.optimizer, self.batch_size = writer, optimizer, batch_size
        self.validator, self.step_metrics, self.every = validator, step_metrics or {}, every
        self.pairs, self.views = pairs, views

    def attach(self, engine: Engine) -> None:
        """Attaches to steps and epochs."""
        if self.writer is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.writer.flush())
        if self.pairs:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self.draw_pairs)

    def start(self, engine: Engine) -> None:
        """Starts the clock of an epoch."""
        self.begun = time.perf_counter()

    def step(self, engine: Engine) -> None:
        """Writes the step's loss, metrics and learning rate."""
        step = engine.state.iteration
        self.writer.add_scalar("train/loss", engine.state.output["loss"].item(), step)
        self.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], step)
        with torch.no_grad():
            for name, function in self.step_metrics.items():
                self.writer.add_scalar(f"train/{name}", function(engine.state.output["pred"]).item(), step)

    def epoch(self, engine: Engine) -> None:
        """Writes the last step, the rate, and the validation's metrics of this epoch."""
        if engine.state.iteration % self.every:
            self.step(engine)
        images = engine.state.epoch_length * self.batch_size
        self.writer.add_scalar(
            "train/images_per_second", images / engine.state.times["EPOCH_COMPLETED"], engine.state.epoch
        )
        if self.validator is not None:
            for name, value in self.validator.state.metrics.items():
                self.writer.add_scalar(f"validation/{name}", value, engine.state.epoch)

    def draw_pairs(self, engine: Engine) -> None:
        """Draws the first views: those of an image in a row."""
        images = engine.state.output["image"].detach().float().cpu()
        views = images.chunk(self.views)
        rows = [torch.cat([view[k] for view in views], dim=2) for k in range(min(self.pairs, len(views[-1])))]
        low, high = images.min(), images.max()
        self.writer.add_image("views", (torch.cat(rows, dim=1) - low) / (high - low).clamp_min(1e-6), 0)


class StopOnNonFinite:
    """Ends the run with a sentence when the loss is NaN or infinite.

    Args:
        every: steps between looks.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def attach(self, engine: Engine) -> None:
        """Attaches to steps and to the end of an epoch, before anything is saved."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Looks at the loss.

        Raises:
            CxrError: it is not finite.
        """
        loss = engine.state.output["loss"]
        if not torch.isfinite(loss).all():
            raise CxrError(
                f"the loss is {loss.item()} at step {engine.state.iteration}; lower --learning_rate, or set --amp False"
            )
