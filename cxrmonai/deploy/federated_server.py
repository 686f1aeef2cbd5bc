"""The server of federated training: averages weights by images, and keeps every round's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg

from cxrmonai.deploy.federated import INITIAL, ROUNDS, WEIGHTS
from cxrmonai.files import atomic_path, write_json


class ImageWeightedAveraging(FedAvg):
    """Federated averaging (McMahan et al., 2017), each hospital's weights counted by its training images.

    Metrics of round k are of the weights that round k began with; those of the last weights are asked for at the end.

    Args:
        folder: holds `initial.pt`, the weights to begin with; gets `weights.pt` and `rounds.json`.
        num_clients: hospitals that must take part in each round.
        num_rounds: how many.
    """

    def __init__(self, folder: str, num_clients: int, num_rounds: int) -> None:
        super().__init__(num_clients=num_clients, num_rounds=num_rounds, persistor_id="")
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Runs the rounds, and has the last weights validated."""
        super().run()
        if self.abort_signal.triggered:
            return
        model = FLModel(params=self._read(Path(self.folder) / WEIGHTS), current_round=self.num_rounds)
        model.total_rounds = self.num_rounds
        for result in self.send_model_and_wait(task_name="validate", data=model):
            self._note(self.num_rounds, result)

    def load_model(self) -> FLModel:
        """The weights to begin with."""
        return FLModel(params=self._read(Path(self.folder) / INITIAL))

    def save_model(self, model: FLModel) -> None:
        """Keeps the weights after each round."""
        with atomic_path(Path(self.folder) / WEIGHTS) as temporary:
            torch.save({key: torch.as_tensor(value) for key, value in model.params.items()}, temporary)

    def _aggregate_one_result(self, result: FLModel) -> bool:
        self._note(self.current_round, result)
        return super()._aggregate_one_result(result)

    def _note(self, number: int, result: FLModel) -> None:
        meta = result.meta or {}
        row = {"round": number, "site": meta.get("client_name"), "images": meta.get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)}
        self.rows.append({**row, "metrics": result.metrics or {}})
        write_json(Path(self.folder) / ROUNDS, sorted(self.rows, key=lambda row: (row["round"], str(row["site"]))))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        return {key: value.numpy() for key, value in torch.load(path, weights_only=True).items()}
