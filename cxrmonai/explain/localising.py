"""Heatmaps of the images of a store, through MONAI's evaluator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn

from cxrmonai import distributed
from cxrmonai.data import phantom_store
from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.prepare import prepare
from cxrmonai.data.sources import folder
from cxrmonai.data.store import Store
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import match_classes
from cxrmonai.engines import PrepareBatch, ProgressBar
from cxrmonai.engines.sharing import is_shared, part_path, parts_in_turn
from cxrmonai.errors import CxrError
from cxrmonai.explain.attribution import Attribution, attribute_with_logits, check_method
from cxrmonai.explain.heatmaps import Heatmaps, HeatmapWriter
from cxrmonai.networks import Classifier


class AttributionInferer(Inferer):
    """Gives maps and logits in place of logits alone.

    Args:
        method: of `attribution.METHODS`.
        targets: class indices.
        size: edge of the maps in pixels.
        options: of the method.
        share: part of the image's edge that the network sees, in its centre, see `Preprocessing.share`; the map is
            zero around it.

    Raises:
        CxrError: an unknown method.
    """

    def __init__(
        self,
        method: str,
        targets: Sequence[int],
        size: int,
        options: Mapping[str, Any] | None = None,
        share: float = 1.0,
    ) -> None:
        self.method, self.targets = check_method(method), list(targets)
        self.size, self.options = size, dict(options or {})
        self.seen = round(size * share)

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Attribution:
        """(B, C, H, W) → maps (B, K', size, size) and logits (B, K)."""
        options = {**self.options, **kwargs}
        maps, logits = attribute_with_logits(network, inputs, self.targets, self.method, size=self.seen, **options)
        before = round((self.size - self.seen) / 2)
        after = self.size - self.seen - before
        return Attribution(F.pad(maps, (before, after, before, after)), logits)


def input_store(
    data_file: str | None, dataset_dir: str | None, output_dir: str | os.PathLike[str], image_size: int
) -> str:
    """The store that maps are made of.

    Args:
        data_file: a store, or `None`.
        dataset_dir: a folder of radiographs, which rank 0 then packs into `output_dir/images.h5`, so that boxes and
            masks find back to their pixels; or `None`.
        output_dir: see `dataset_dir`.
        image_size: edge of that store.

    Returns:
        `data_file`; else the packed folder; with neither, the synthetic phantom in `data`.

    Raises:
        CxrError: both are given, or no file of the folder can be read.
    """
    if data_file is not None and dataset_dir is not None:
        raise CxrError("data_file and dataset_dir are both given; give the store or the folder of radiographs")
    if data_file is not None:
        return data_file
    if dataset_dir is None:
        return phantom_store.default_store("data")
    if not Path(dataset_dir).is_dir():
        raise CxrError(f"{dataset_dir}: no such folder; name the radiographs' folder with --dataset_dir")
    path = Path(output_dir) / "images.h5"
    if distributed.rank() == 0:
        made = prepare(folder.load(Path(dataset_dir)), path, image_size, overwrite=True)
        for reason in made.skipped["reason"]:
            print(f"skipped {reason}")
    distributed.broadcast_number(0)  # the other ranks wait until the store is there
    return str(path)


def chosen_classes(network: Classifier, classes: str | Sequence[str] | None) -> list[int]:
    """Indices of a network's classes by name in any spelling, as a list or `A,B`; all for `None`.

    Raises:
        CxrError: the network has no such class.
    """
    names = name_list(classes)
    return match_classes(names, network.class_names) if names else list(range(len(network.class_names)))


def usual_method(network: Classifier) -> str:
    """What suits a classifier: `pcam` where that is its pooling, whose gradients tell little, else `gradcam`."""
    return "pcam" if network.pcam else "gradcam"


def write_heatmaps(
    evaluator: SupervisedEvaluator,
    path: str | os.PathLike[str],
    data_file: str | os.PathLike[str],
    network: Classifier,
    dtype: str = "uint8",
) -> Path:
    """Runs an evaluator and writes the maps that it makes; ranks that share out the images end with one file.

    Args:
        evaluator: over batches of a `StoreDataset`, with an `AttributionInferer`.
        path: of the HDF5 file, see `heatmaps`.
        data_file: the store.
        network: the classifier that the evaluator runs.
        dtype: of the maps in the file.

    Returns:
        The path.

    Raises:
        CxrError: see `attribute`, or the file cannot be written.
    """
    store, inferer = Store(data_file), evaluator.inferer
    image_ids = store.column("image_id")
    names = [network.class_names[k] for k in inferer.targets]
    about = (names, inferer.size, inferer.method, data_file, dtype)
    with HeatmapWriter(part_path(evaluator, path), *about) as writer:

        def keep(engine: Engine) -> None:
            rows = engine.state.batch["index"].cpu().numpy()
            found: Attribution = engine.state.output["pred"]
            probability = network.probabilities(found.logits)[:, inferer.targets]
            writer.add(rows, image_ids[rows].tolist(), found.maps, probability)

        with evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep):
            evaluator.run()
    if is_shared(evaluator):
        with parts_in_turn(evaluator, path, Heatmaps) as turns:
            if turns is not None:
                _copy(turns, HeatmapWriter(path, *about))
    return Path(path)


def _copy(turns: Iterator[tuple[Heatmaps, int]], writer: HeatmapWriter) -> None:
    with writer:
        for part, k in turns:
            writer.add(part.rows[[k]], [part.image_ids[k]], part.maps([k]), part.probability[[k]])


def heatmaps_of(
    path: str | os.PathLike[str],
    network: Classifier,
    data_file: str | os.PathLike[str],
    rows: np.ndarray,
    transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]],
    inferer: AttributionInferer,
    device: str | torch.device,
    batch_size: int,
) -> Path:
    """Writes the heatmaps of some rows of a store, see `write_heatmaps`."""
    evaluator = SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=store_loader(StoreDataset(data_file, rows=rows), batch_size, shard=False),
        network=network,
        inferer=inferer,
        prepare_batch=PrepareBatch(transform),
        decollate=False,
        val_handlers=[ProgressBar(batch_size, label="validation maps")],
    )
    return write_heatmaps(evaluator, path, data_file, network)
