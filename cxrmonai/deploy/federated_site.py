"""What a hospital does in federated training: its bundle under MONAI's `MonaiAlgo`, fed with weights of the federation.

Nothing here knows the server's software; `federated_client` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks.utils import copy_model_state, get_state_dict
from torch import nn

from cxrmonai.engines import CheckpointHandler
from cxrmonai.errors import CxrError

ERROR_FILE = "error.txt"  # beside a site.json: what ended that hospital's part
REQUIRED = ("config_files", "options", "rounds", "local_epochs")


class BundleAlgo(MonaiAlgo):
    """`MonaiAlgo` on a bundle of this project: one workflow trains and validates, and whole weights are exchanged.

    MONAI's class builds a second workflow from evaluate.json for validation; ours read a finished `model.pt`
    there, so the validation of train.json serves, which shares its network with the trainer.

    Args:
        config_files: train.json and overlays, absolute.
        local_epochs: of each round.
        options: overrides of the config.
    """

    def __init__(self, config_files: list[str], local_epochs: int, options: Mapping[str, Any]) -> None:
        super().__init__(
            bundle_root=str(Path(config_files[0]).parents[1]),
            local_epochs=local_epochs,
            send_weight_diff=False,
            config_train_filename=config_files,
            train_kwargs=dict(options),
            config_evaluate_filename=None,
        )

    def initialize(self, extra: dict | None = None) -> None:
        """Builds trainer and validator, which see the same network."""
        super().initialize(extra)
        self.evaluator = self.train_workflow.evaluator

    def evaluate(self, data: ExchangeObject, extra: dict | None = None) -> ExchangeObject:
        """Validates the given weights on this hospital's validation patients.

        Returns:
            `metrics` of the config's validation.
        """
        load_shared(self.trainer.network, data.weights)
        self.evaluator.run(self.trainer.state.epoch + 1)
        return ExchangeObject(metrics=dict(self.evaluator.state.metrics))


class Site:
    """A hospital: trains on its own patients from given weights, and gives weights and numbers back.

    Args:
        settings: what its `site.json` holds: `config_files` (train.json and overlays, absolute), `options` (overrides:
            `data_file`, `output_dir` and `ckpt_dir` of this hospital, and what all agreed on), `rounds`,
            `local_epochs`.
        name: of the hospital, for messages.

    Raises:
        CxrError: a key is missing, or the bundle cannot be trained by rounds.
    """

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        missing = [key for key in REQUIRED if key not in settings]
        if missing:
            raise CxrError(f"site.json of {name}: has no {', '.join(missing)}")
        self.name = name
        options = {"max_epochs": settings["rounds"] * settings["local_epochs"], **settings["options"]}
        self.algo = BundleAlgo(list(settings["config_files"]), settings["local_epochs"], options)
        self.algo.initialize({"CLIENT_NAME": name})
        handler = checkpoint_handler(self.algo.train_workflow)
        if handler.patience:
            raise CxrError("patience: an early stop would end this hospital's part; leave it at 0")
        if any(id(part) not in _parts(self.network) for part in handler.kept.parameters()):
            raise CxrError("ema_decay: averages of weights are not exchanged between hospitals; set it to 0")

    @classmethod
    def read(cls, path: str | os.PathLike[str], name: str) -> Site:
        """Makes the site that a `site.json` describes.

        Raises:
            CxrError: it cannot be read; see the class.
        """
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CxrError(f"{path}: not a readable site.json ({error}); see docs/federated.md") from error
        return cls(settings, name)

    @property
    def network(self) -> nn.Module:
        """That is trained."""
        return self.algo.trainer.network

    @property
    def folder(self) -> Path:
        """Where this hospital keeps weights."""
        return checkpoint_handler(self.algo.train_workflow).folder

    @property
    def images(self) -> int:
        """Training images; what this hospital's weights count for."""
        return len(self.algo.trainer.data_loader.dataset)

    def shared(self) -> dict[str, torch.Tensor]:
        """What is exchanged, on the CPU: all floating-point weights and running statistics of the network."""
        return {key: value.clone() for key, value in shared_state(self.network).items()}

    def validate(self, weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics of weights of the federation on this hospital's validation patients.

        Raises:
            CxrError: they are of another network.
        """
        self.check(weights)
        metrics = self.algo.evaluate(ExchangeObject(weights=dict(weights))).metrics
        return {name: float(value) for name, value in metrics.items()}

    def train(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Trains for a round from weights of the federation, and returns this hospital's.

        Raises:
            CxrError: they are of another network.
        """
        self.check(weights)
        self.algo.train(ExchangeObject(weights={**get_state_dict(self.network), **weights}))
        state = self.algo.get_weights().weights
        return {key: state[key].clone() for key in weights}

    def save(self, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
        """Writes weights of the federation as the `model.pt` that the bundle's own training would write.

        Raises:
            CxrError: they are of another network, or the file cannot be written.
        """
        self.check(weights)
        load_shared(self.network, weights)
        checkpoint_handler(self.algo.train_workflow).save_kept(path)

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Makes sure that weights are of this network.

        Raises:
            CxrError: they are not; the message names the first that differs.
        """
        ours = shared_state(self.network)
        if weights.keys() != ours.keys():
            key = sorted(weights.keys() ^ ours.keys())[0]
            raise CxrError(
                f"{self.name} trains another network than the federation ({key}); agree on encoder and options"
            )
        for key, value in weights.items():
            if value.shape != ours[key].shape:
                raise CxrError(
                    f"{self.name}: {key} is {tuple(ours[key].shape)} here and {tuple(value.shape)} in the federation; "
                    "agree on --classes, encoder and options"
                )


def shared_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The floating-point part of a network's state, on the CPU: counters and the description stay where they are."""
    return {key: value.cpu() for key, value in get_state_dict(network).items() if value.is_floating_point()}


def load_shared(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts weights of the federation into a network."""
    copy_model_state(src=dict(weights), dst=network)


def checkpoint_handler(workflow: ConfigWorkflow) -> CheckpointHandler:
    """The handler of a train workflow that knows which network is kept.

    Raises:
        CxrError: there is none.
    """
    for handler in workflow.parser.get_parsed_content("train::handlers"):
        if isinstance(handler, CheckpointHandler):
            return handler
    raise CxrError("this config keeps no network (no CheckpointHandler among train::handlers); it cannot be federated")


def _parts(network: nn.Module) -> set[int]:
    return {id(part) for part in network.parameters()}
