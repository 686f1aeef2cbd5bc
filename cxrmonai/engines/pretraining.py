"""What pretraining is worth: a probe while it runs, and a few lines when it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.data.store import open_store
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.engines.probe import Probe
from cxrmonai.metrics import auroc
from cxrmonai.networks.checkpoints import load_encoder


class ProbeCurve:
    """Writes a probe's mean AUROC on held-out patients to TensorBoard every few epochs, where there are findings.

    Args:
        probe: see `make_probe`; `None` does nothing.
        network: with an `encoder`; a DDP wrapper is looked through.
        writer: from `summary_writer`.
        every: epochs between probes; 0 for none.
    """

    def __init__(self, probe: Probe | None, network: nn.Module, writer: SummaryWriter | None, every: int = 5) -> None:
        self.probe, self.network, self.writer, self.every = probe, network, writer, every

    def attach(self, engine: Engine) -> None:
        """Attaches to the end of epochs on the rank that writes."""
        if self.probe is not None and self.writer is not None and self.every:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        """Probes the encoder as it is."""
        encoder = getattr(self.network, "module", self.network).encoder
        result = self.probe(encoder)
        scores = auroc(result.truth, result.score)
        known = scores[scores == scores]
        if len(known):
            self.writer.add_scalar("probe/mean_auroc", known.mean(), engine.state.epoch)


def make_probe(data_file: str, split: str, **options: object) -> Probe | None:
    """A probe where the store has findings and held-out patients, else `None`.

    Args:
        data_file: a store.
        split: see `Probe`.
        **options: of `Probe`.
    """
    store = open_store(data_file)
    held_out = ("val", "test") if split == "all" else (split,)
    if not store.class_names or not np.isin(store.column("split"), held_out).any():
        return None
    return Probe(data_file, split=split, **options)


def short(path: str | os.PathLike[str]) -> str:
    """A path as a person would write it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def summarise(
    ckpt_dir: str,
    log_dir: str,
    data_file: str,
    probe: Probe | None,
    untrained: nn.Module,
    config: str,
) -> None:
    """Says on rank 0 what a pretraining run made, what it is worth and what to do next.

    Args:
        ckpt_dir: of the run.
        log_dir: of TensorBoard.
        data_file: the store it ran on.
        probe: from `make_probe` on patients that neither training nor validation saw.
        untrained: the encoder as it was before training.
        config: the bundle's evaluate.json, for the hint.
    """
    if distributed.rank() != 0:
        return
    path = Path(ckpt_dir) / BEST
    lines = ["", f"Done. The pretrained encoder is {short(path)}."]
    if probe is None:
        lines.append(f"{data_file} has no findings of test patients, so there is nothing to probe the encoder with.")
    else:
        device = torch.device(probe.device)
        results = {
            "pretrained": probe(load_encoder(path).to(device), progress=True),
            "untrained": probe(untrained.to(device), progress=True),
        }
        lines += _probe_lines(probe, results)
    lines += closing_lines(log_dir, config, path, data_file if probe is not None else "LABELLED.h5")
    print("\n".join(lines), file=sys.stdout, flush=True)


def closing_lines(log_dir: str, config: str, path: Path, data_file: str) -> list[str]:
    """What to do next: watch the run, evaluate it, use other data."""
    programs = os.environ.get("PATH", "").split(os.pathsep)
    outside = sys.prefix != sys.base_prefix and str(Path(sys.prefix, "bin")) not in programs
    activate = [f"First, in a shell:  . {short(Path(sys.prefix, 'bin', 'activate'))}"] if outside else []
    return [
        *activate,
        f"Watch the run:      tensorboard --logdir {short(log_dir)}",
        f"Evaluate in full:   python -m monai.bundle run --config_file {short(config)}"
        + f" --ckpt_path {short(path)} --data_file {data_file}",
        "Use your own data:  python -m cxrmonai prepare --help",
    ]


def _probe_lines(probe: Probe, results: dict[str, object]) -> list[str]:
    count = len(results["pretrained"].rows)
    kind = "synthetic radiographs" if probe.store.synthetic else "radiographs"
    patients = len(set(probe.patients(results["pretrained"])))
    lines = [
        f"Linear probe on {count} {kind} of {patients} patients held out, mean AUROC over the findings [95 % interval]:"
    ]
    for name, result in results.items():
        summary = probe.summary(result, resamples=500)
        low, high = summary["mean_auroc_ci"]
        lines.append(f"  {name:<11} {summary['mean_auroc']:.3f} [{low:.3f}, {high:.3f}]")
    return lines
