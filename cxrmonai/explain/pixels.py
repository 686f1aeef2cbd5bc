"""A classifier as a function of pixels from 0 to 1, before they are normalised."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.store import open_store
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, load_classifier

TRAINING = "python -m monai.bundle run --config_file bundles/supervised/configs/train.json"
Transform = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


def trained_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Reads a classifier, and says how to train one where there is none; otherwise as `networks.load_classifier`."""
    if not os.path.exists(path):
        raise CxrError(
            f"{os.path.relpath(path)}: no classifier here; train one with `{TRAINING}`, or name one with --ckpt_path"
        )
    return load_classifier(path)


def some_rows(data_file: str | os.PathLike[str], split: str, limit: int = 0, seed: int = 0) -> np.ndarray:
    """Rows of a split in order, at most `limit` of them drawn with the seed; 0 for all."""
    rows = open_store(data_file).rows(split)
    if not limit or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def class_places(class_names: Sequence[str], classes: str | Sequence[str] | None) -> list[int]:
    """Places of classes, `A,B` or a list in any spelling, among a classifier's; all where none is named.

    Raises:
        CxrError: a class that the classifier does not have.
    """
    names = name_list(classes)
    return match_classes(names, class_names) if names else list(range(len(class_names)))


class PixelClassifier:
    """A network in evaluation mode, with what lies between its input and pixels that may be changed.

    What cannot be differentiated (equalisation of the histogram) and what changes the size is done before, by `seen`:
    the pixels that are changed are those which the network sees, before `normalise`.

    Args:
        network: (B, C, S, S) → (B, K) logits; it is put into evaluation mode.
        seen: batch transform from stored pixels to (B, 1, S, S), 0–1.
        normalise: batch transform from there to the network's input; differentiable.
        device: where to run.
        kind: `multilabel`, each class by itself, or `multiclass`, one class of several.
    """

    def __init__(
        self,
        network: nn.Module,
        seen: Transform,
        normalise: Transform,
        device: str | torch.device = "cpu",
        kind: str = "multilabel",
    ) -> None:
        self.network, self.seen, self.normalise = network.to(device).eval(), seen, normalise
        self.device, self.kind = torch.device(device), kind

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S), 0–1 → (B, K) logits."""
        return self.network(self.normalise({"image": images})["image"])

    def log_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S), 0–1 → (B, K) logarithms of the probabilities, exact where these are near 0 and 1."""
        logits = self(images)
        return logits.log_softmax(dim=1) if self.kind == "multiclass" else F.logsigmoid(logits)

    def probabilities(self, images: torch.Tensor) -> np.ndarray:
        """(B, 1, S, S), 0–1 → (B, K) float64 probabilities."""
        with torch.no_grad():
            return self.log_probabilities(images).double().exp().cpu().numpy()

    def batches(
        self, data_file: str | os.PathLike[str], rows: np.ndarray, batch_size: int = 128
    ) -> Iterator[torch.Tensor]:
        """Some images of a store as the network sees them, in order: (B, 1, S, S) float32, 0–1, on the device."""
        for batch in store_loader(StoreDataset(data_file, rows=rows), batch_size, shard=False):
            yield self.seen({"image": batch["image"].to(self.device)})["image"].clamp(0, 1)
