"""Running one pretraining method for a number of images seen."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cxrmonai.engines.checkpointing import CHECKPOINT, read_checkpoint
from cxrmonai.errors import CxrError
from cxrmonai.pipelines.methods import Method

VALIDATION = "ValidationHandler"
NEAR = 0.02  # of the steps asked for; the fewest epochs that come so near are taken


@dataclass(frozen=True)
class Budget:
    """How long a method trains.

    Attributes:
        images_per_step: images that its encoders see in one step.
        epochs: of the run.
        steps: of an epoch.
    """

    images_per_step: float
    epochs: int
    steps: int

    @property
    def images(self) -> int:
        """Images seen in all."""
        return round(self.images_per_step * self.epochs * self.steps)


class ImageCounter:
    """Counts the images that pass into encoders.

    An encoder of one-channel images begins with a convolution of one input channel (a stem, a patch embedding), and no
    other part of our networks does. Each image that such a convolution sees counts by its area over that of a whole
    input: two views of an image are two, a patch of a ninth of the area is a ninth, and the pass of a momentum encoder
    counts as any other.

    Args:
        size: edge of a whole input in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size, self.images = size, 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts within the block."""
        handle = register_module_forward_pre_hook(self._see)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 1:
            self.images += inputs[0].numel() / self.size**2


@dataclass(frozen=True)
class Step:
    """What one step of a method is.

    Attributes:
        images: that its encoders see in it.
        loader_steps: that go once through the data.
        epochs: of the method's own recipe.
    """

    images: float
    loader_steps: int
    epochs: int


def try_step(method: Method, overrides: Mapping[str, Any]) -> Step:
    """Trains for one step, and counts the images that the encoders saw.

    Args:
        method: with a bundle.
        overrides: of its config.

    Raises:
        CxrError: the data cannot serve the method, or its encoders see no one-channel images.
    """
    with tempfile.TemporaryDirectory() as scratch:
        workflow = _workflow(method, {**overrides, "ckpt_dir": scratch, "output_dir": scratch, "resume": False})
        part = workflow.parser.get_parsed_content
        trainer = part("train::trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), _leave)
        counter = ImageCounter(part("image_size"))
        with counter.counting():
            trainer.run()
        made = Step(counter.images, len(part("train::dataloader")), int(part("max_epochs")))
        _close(workflow)
    if not made.images:
        raise CxrError(f"method {method.name}: its encoder takes no one-channel images, so they cannot be counted")
    return made


def _leave(engine: Engine) -> None:
    engine.terminate()


def plan(step: Step, images_seen: int) -> Budget:
    """Cuts a number of images seen into epochs of whole steps, as nearly as can be.

    A run has the epochs of its method's recipe, each shortened, so that warm-up and drops of the learning rate keep
    their places in it; up to twice as many where that comes nearer to the number, and more where the data are few.

    Args:
        step: of the method.
        images_seen: of the run.

    Raises:
        CxrError: not one step can be made.
    """
    steps = round(images_seen / step.images)
    if steps < 1:
        raise CxrError(f"--images_seen {images_seen} is less than one step of {step.images:g} images; give more")
    least = min(max(step.epochs, math.ceil(steps / step.loader_steps)), steps)
    errors = {number: abs(number * max(1, round(steps / number)) - steps) for number in range(least, 2 * least + 1)}
    epochs = min(errors, key=lambda number: max(errors[number], NEAR * steps))
    return Budget(step.images, epochs, max(1, round(steps / epochs)))


@dataclass(frozen=True)
class Pretrained:
    """What came of a run.

    Attributes:
        collapsed: whether its embeddings had collapsed at the end; `None` where nothing watched them.
        spread: of the embeddings at the end, see `engines.CollapseMonitor`.
        effective_rank: likewise.
    """

    collapsed: bool | None = None
    spread: float | None = None
    effective_rank: float | None = None


def pretrain(method: Method, budget: Budget, folder: Path, overrides: Mapping[str, Any]) -> Pretrained:
    """Trains by a method, or goes on with a run that was broken off.

    Args:
        method: with a bundle.
        budget: how long.
        folder: gets `models/` and `eval/`.
        overrides: of its config.

    Raises:
        CxrError: see `try_step`; or the loss is no number.
    """
    checkpoint = folder / "models" / CHECKPOINT
    values = {
        **overrides,
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "max_epochs": budget.epochs,
        "train::trainer::epoch_length": budget.steps,
        "resume": checkpoint.exists() and read_checkpoint(checkpoint)["state"]["epoch"] < budget.epochs,
    }
    workflow = _workflow(method, values, budget.steps)
    workflow.run()
    watching = [each for each in workflow.parser.get_parsed_content("train::handlers") if hasattr(each, "collapsed")]
    _close(workflow)
    if not watching:
        return Pretrained()
    return Pretrained(bool(watching[0].collapsed), float(watching[0].spread), float(watching[0].rank))


def _workflow(method: Method, overrides: Mapping[str, Any], steps: int | None = None) -> ConfigWorkflow:
    """A run without validations: the last network counts, whatever the method's own loss says of it."""
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in method.configs],
        meta_file=str(method.bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(method.bundle),
        **overrides,
    )
    handlers = workflow.parser["train::handlers"]
    workflow.parser["train::handlers"] = [each for each in handlers if VALIDATION not in each.get("_target_", "")]
    for key in ("updates_per_epoch", "lr_scheduler::updates_per_epoch"):
        if steps is not None and key in workflow.parser:
            workflow.parser[key] = f"$-(-{steps} // @accumulation_steps)"
            break
    workflow.initialize()
    return workflow


def _close(workflow: ConfigWorkflow) -> None:
    writer = workflow.parser.get_parsed_content("writer") if "writer" in workflow.parser else None
    if writer is not None:
        writer.close()
    torch.cuda.empty_cache()
