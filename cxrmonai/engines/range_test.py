"""The learning-rate range test: how fast a network learns at rates from very low to too high."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxrmonai import distributed
from cxrmonai.engines.optimisation import suggest_learning_rate
from cxrmonai.files import atomic_path, write_json
from cxrmonai.progress import progress_bar

SMOOTHING = 0.9
DIVERGED = 4.0  # times the lowest smoothed loss


def find_learning_rate(
    trainer: Any,
    output_dir: str | os.PathLike[str],
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> float:
    """Trains with a rate that rises from step to step, and reads off where the loss falls fastest (Smith, 2017).

    The network is left as the test made it; a run that finds a rate does nothing else.

    Args:
        trainer: MONAI's trainer, not yet run: its loader, batches, network, loss and optimiser are used.
        output_dir: gets `learning_rates.png` and `learning_rates.json`.
        lowest: rate of the first step.
        highest: rate of the last step; the test ends sooner where the loss is four times its lowest.
        steps: of the test.

    Returns:
        The suggestion; rank 0 prints it.

    Raises:
        CxrError: the loss falls nowhere.
    """
    device, optimizer, network = trainer.state.device, trainer.optimizer, trainer.network
    base = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]  # a schedule may begin at 0
    autocast = torch.autocast(torch.device(device).type, **trainer.amp_kwargs) if trainer.amp else nullcontext()
    rates: list[float] = []
    losses: list[float] = []
    smoothed = 0.0
    network.train()
    with progress_bar("learning rates", steps, "step") as bar:
        for step, batch in zip(range(steps), _endless(trainer.data_loader), strict=False):
            rate = lowest * (highest / lowest) ** (step / max(1, steps - 1))
            for group, first in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * first / max(base)
            images, target = trainer.prepare_batch(batch, device, True)[:2]
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = trainer.loss_function(network(images), target)
            loss.backward()
            optimizer.step()
            bar.update(1)
            value = distributed.broadcast_number(loss.item())
            if not math.isfinite(value):
                break
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * value
            rates.append(rate)
            losses.append(smoothed / (1 - SMOOTHING ** (step + 1)))
            if losses[-1] > DIVERGED * min(losses):
                break
    best = suggest_learning_rate(rates, losses)
    if distributed.rank() == 0:
        folder = Path(output_dir)
        write_json(folder / "learning_rates.json", {"rates": rates, "losses": losses, "suggestion": best})
        _draw(rates, losses, best, folder / "learning_rates.png")
        print(f"suggestion: --learning_rate {best:.2g} (curve in {folder / 'learning_rates.png'})")
    return best


def _endless(loader: Any) -> Any:
    epoch = 0
    while True:
        epoch += 1
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader


def _draw(rates: list[float], losses: list[float], best: float, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.semilogx(rates, losses)
    axes.axvline(best, linestyle="--", color="#D55E00", label=f"steepest fall: {best:.2g}")
    axes.set(xlabel="learning rate", ylabel="smoothed loss", title="Learning-rate range test")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
