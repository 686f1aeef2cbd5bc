"""A classifier as a function of pixels from 0 to 1, before they are normalised."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from torch import nn

from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.store import open_store
from cxrmonai.networks import Classifier, input_of, load_classifier, need_classifier
from cxrmonai.transforms import BatchEqualizeHistogramd, BatchScaleIntensityd, PreprocessBatchd, Preprocessing

Transform = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


def trained_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Reads a classifier, as `networks.load_classifier`, and says how to train one where there is none."""
    return load_classifier(need_classifier(path))


def pixel_classifier(network: Classifier, image_size: int, device: str | torch.device = "cpu") -> PixelClassifier:
    """A trained classifier with its own input: histogram equalised or not, fitted to a square, normalised.

    Args:
        network: as `networks.load_classifier` reads it.
        image_size: edge of its input in pixels.
        device: where to run.
    """
    whole = input_of(network.encoder, image_size)
    grey = replace(whole, mean=(0.0,), std=(1.0,))
    steps = [BatchScaleIntensityd("image"), PreprocessBatchd("image", grey)]
    if network.settings["asked"]["equalize"]:
        steps.insert(1, BatchEqualizeHistogramd("image"))
    normalise = PreprocessBatchd("image", Preprocessing(image_size, mean=whole.mean, std=whole.std))
    return PixelClassifier(network, Compose(steps), normalise, device, network.task)


def some_rows(data_file: str | os.PathLike[str], split: str, limit: int = 0, seed: int = 0) -> np.ndarray:
    """Rows of a split in order, at most `limit` of them drawn with the seed; 0 for all."""
    rows = open_store(data_file).rows(split)
    if not limit or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


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
