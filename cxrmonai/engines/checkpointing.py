"""Saving a run so that it can go on exactly, and its best network for others to use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path
from cxrmonai.networks.checkpoints import load_all

KEEP = "keep it, or start anew with --resume False"
CHECKPOINT, BEST, FINAL = "checkpoint.pt", "model.pt", "model_final.pt"


class CheckpointHandler:
    """Writes `checkpoint.pt` each epoch, `model.pt` at the best metric, `model_final.pt` at the end; resumes; stops.

    `checkpoint.pt` holds the network, the optimiser, the schedule, the loss scaler, the epoch and the best metric; with
    `EpochSeed` a resumed run equals one that was never interrupted. `model.pt` is the network's flat state dict.
    Attach it after the validation.

    Args:
        ckpt_dir: folder for the three files.
        network: whose state is saved; a DDP wrapper is looked through.
        objects: what else is part of the state, by name, each with `state_dict` and `load_state_dict`.
        validator: evaluator whose state holds the metric; without one the newest network is the best.
        metric: name of the metric in `validator.state.metrics`.
        mode: `min` or `max`.
        resume: whether to go on from `checkpoint.pt`; without that file the run starts anew and says so.
        patience: epochs without a better metric after which to stop; 0 never stops early.
        kept: the network that `model.pt` and `model_final.pt` hold, where it is another than the one that is trained
            (an average of its weights, which must then be among `objects`).

    Raises:
        CxrError: when the run starts: `checkpoint.pt` belongs to a run of other length, or is already complete.
    """

    def __init__(
        self,
        ckpt_dir: str | os.PathLike[str],
        network: nn.Module,
        objects: Mapping[str, Any] | None = None,
        validator: Engine | None = None,
        metric: str = "val_loss",
        mode: str = "min",
        resume: bool = False,
        patience: int = 0,
        kept: nn.Module | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise CxrError(f"mode '{mode}': must be min or max")
        self.folder, self.network, self.objects = Path(ckpt_dir), network, dict(objects or {})
        self.validator, self.metric, self.mode = validator, metric, mode
        self.resume, self.patience = resume, patience
        self.kept = network if kept is None else kept
        self.best: float | None = None
        self.best_epoch = 0

    @property
    def best_path(self) -> Path:
        """Where the best network lies."""
        return self.folder / BEST

    def attach(self, engine: Engine) -> None:
        """Attaches to start, end of epoch and end of run."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def start(self, engine: Engine) -> None:
        """Resumes, where asked to."""
        if not self.resume:
            return
        path = self.folder / CHECKPOINT
        if not path.exists():
            if distributed.rank() == 0:
                print(f"note: no {path} to resume from; the run starts anew")
            return
        content = read_checkpoint(path)
        state = content.pop("state")
        self._check(engine, state, path)
        load_all(self._bare_network(), content.pop("network"), path)
        for name, item in self._everything(engine).items():
            if name not in content:
                raise CxrError(f"{path}: holds no state of {name}; it belongs to another config")
            _check_hyperparameters(item, content[name], path)
            _restore(item, content[name])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.best, self.best_epoch = state["best"], state["best_epoch"]

    def _check(self, engine: Engine, state: Mapping[str, Any], path: Path) -> None:
        if state["epoch"] >= engine.state.max_epochs:
            raise CxrError(
                f"{path}: has run {state['epoch']} of {engine.state.max_epochs} epochs; raise --max_epochs, or start "
                "anew with --resume False"
            )
        steps = getattr(engine, "accumulation_steps", 1)
        if state["accumulation_steps"] != steps:
            raise CxrError(
                f"{path}: was made with accumulation_steps {state['accumulation_steps']}, not {steps}; {KEEP}"
            )
        if state["epoch_length"] != engine.state.epoch_length:
            raise CxrError(
                f"{path}: was made with {state['epoch_length']} steps an epoch and this run has "
                f"{engine.state.epoch_length}; keep data_file, batch_size and the number of ranks, or --resume False"
            )

    def epoch_completed(self, engine: Engine) -> None:
        """Notes whether this epoch is the best, saves, and stops when there was no better one for long."""
        improved = self._improved(engine)
        if distributed.rank() == 0:
            if improved:
                save(_bare(self.kept).state_dict(), self.best_path)
            save(self._content(engine), self.folder / CHECKPOINT)
        if self.patience and engine.state.epoch - self.best_epoch >= self.patience:
            if distributed.rank() == 0:
                print(f"note: no better {self.metric} for {self.patience} epochs; stopped after {engine.state.epoch}")
            engine.terminate()

    def completed(self, engine: Engine) -> None:
        """Saves the last network."""
        if distributed.rank() == 0:
            save(_bare(self.kept).state_dict(), self.folder / FINAL)

    def save_kept(self, path: str | os.PathLike[str]) -> None:
        """Saves the network as it is now, in the form of `model.pt`, elsewhere.

        Raises:
            CxrError: the file cannot be written.
        """
        save(_bare(self.kept).state_dict(), Path(path))

    def _improved(self, engine: Engine) -> bool:
        value = None if self.validator is None else self.validator.state.metrics.get(self.metric)
        if value is None:
            self.best_epoch = engine.state.epoch
            return True
        value = distributed.broadcast_number(float(value))
        better = self.best is None or math.isnan(self.best)
        better = better or (value < self.best if self.mode == "min" else value > self.best)
        if better:
            self.best, self.best_epoch = value, engine.state.epoch
        return better

    def _content(self, engine: Engine) -> dict[str, Any]:
        state = {
            "epoch": engine.state.epoch,
            "epoch_length": engine.state.epoch_length,
            "accumulation_steps": getattr(engine, "accumulation_steps", 1),
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        parts = {name: item.state_dict() for name, item in self._everything(engine).items()}
        return {"state": state, "network": self._bare_network().state_dict(), **parts}

    def _everything(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return self.objects if scaler is None else {**self.objects, "scaler": scaler}

    def _bare_network(self) -> nn.Module:
        return _bare(self.network)


def _bare(network: nn.Module) -> nn.Module:
    return getattr(network, "module", network)


def _check_hyperparameters(item: Any, state: Mapping[str, Any], path: Path) -> None:
    """An optimiser's and a schedule's state would silently put their own settings in place of this run's."""
    pairs = [({"warmup_steps": getattr(item, "warmup_steps", None)}, state)] if "warmup_steps" in state else []
    pairs += list(zip(getattr(item, "param_groups", []), state.get("param_groups", []), strict=False))
    for ours, theirs in pairs:
        for key, value in ours.items():
            if key not in ("lr", "params") and key in theirs and value != theirs[key]:
                name = "learning_rate" if key == "initial_lr" else key
                raise CxrError(f"{path}: was made with {name} {theirs[key]}, not {value}; {KEEP}")


def _restore(item: Any, state: Mapping[str, Any]) -> None:
    """Loads a state; a schedule's length stays as this run has it, so that a run can be made longer."""
    length = getattr(item, "t_total", None)
    item.load_state_dict(state)
    if length is not None:
        item.t_total = length


def save(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint under a temporary name and renames it.

    Raises:
        CxrError: the folder cannot be written to.
    """
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running code.

    Raises:
        CxrError: it is damaged or no checkpoint of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CxrError(f"{path}: not a readable checkpoint; start anew with --resume False") from error
    if not isinstance(content, dict) or "state" not in content or "network" not in content:
        raise CxrError(f"{path}: not a checkpoint of a cxrmonai run; start anew with --resume False")
    return content
