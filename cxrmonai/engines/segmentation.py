"""Training and using segmenters: the overlap a run is judged by, pictures, thresholds, masks at original size."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.data.dataset import store_loader
from cxrmonai.data.geometry import letterbox_geometry, map_to_original, mask_to_original
from cxrmonai.data.mask_file import MaskFileWriter
from cxrmonai.data.masks import MASK_UNKNOWN, encode_rle
from cxrmonai.data.segmentation import SegmentationDataset
from cxrmonai.data.vocabulary import canonical
from cxrmonai.engines.batches import PrepareBatch
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.engines.pretraining import closing_lines, short
from cxrmonai.engines.sharing import is_shared, joined, sampler_of
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path, write_json
from cxrmonai.metrics.overlap import class_overlap, mask_counts, mean_overlap
from cxrmonai.networks.segmenter import Segmenter, load_segmenter

THRESHOLDS_FILE = "thresholds.json"
THRESHOLDS = np.round(np.arange(0.2, 0.801, 0.05), 2)
UNTUNED = 0.5
CHEXLOCALIZE_TASKS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Airspace Opacity", "Edema", "Consolidation",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Support Devices",
)  # fmt: skip
EXPORTS = ("none", "masks", "chexlocalize")
Transform = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


class MeanOverlap(Metric):
    """Overlap of masks at probability one half, mean over the classes, at the network's size.

    Args:
        measure: one of `metrics.overlap.MEASURES`.
        output_transform: from the engine's output to (logits (B, K, H, W), target (B, K, H, W) of 0, 1 and NaN).
    """

    def __init__(
        self,
        measure: str = "dice",
        output_transform: Callable[[Any], Any] = lambda output: (output["pred"], output["label"]),
    ) -> None:
        self.measure = measure
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets what was seen."""
        self._counts: list[np.ndarray] = []

    def update(self, output: Sequence[torch.Tensor]) -> None:
        """Counts the pixels of a batch."""
        logits, target = output
        self._counts.append(known_counts(logits.detach() >= 0, target))

    def compute(self) -> float:
        """0–1; NaN where nothing is defined."""
        return mean_overlap(*np.concatenate(self._counts, axis=1), self.measure)


def known_counts(prediction: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Pixel counts of predicted masks where the target is known.

    Args:
        prediction: (B, K, H, W) bool.
        target: (B, K, H, W) of 0, 1 and NaN.

    Returns:
        (3, B, K) float64: in both, predicted, true; NaN where no pixel of a mask is known.
    """
    known = ~target.isnan()
    counts = torch.stack(mask_counts(prediction & known, target == 1)).double()
    return counts.masked_fill(~known.flatten(2).any(dim=2), torch.nan).cpu().numpy()


@dataclass(frozen=True)
class Thresholds:
    """From which probability on a pixel belongs to each class.

    Attributes:
        values: (K,) of 0–1.
        origin: where they come from, in words.
    """

    values: np.ndarray
    origin: str


def probability_maps(
    network: nn.Module,
    dataset: SegmentationDataset,
    transform: Transform,
    device: str | torch.device,
    batch_size: int = 32,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Runs a segmenter in eval mode over a data set, in its order.

    Args:
        network: (B, C, s, s) → (B, K, s, s) logits; its mode is left as it was.
        dataset: of images with masks.
        transform: from stored pixels to the network's input, and from masks to the target.
        device: where to run.
        batch_size: images a step.

    Yields:
        (B, K, s, s) float32 probabilities, and the target of 0, 1 and NaN.
    """
    prepare, was_training = PrepareBatch(transform), network.training
    network.eval()
    try:
        with torch.no_grad():
            for batch in store_loader(dataset, batch_size, shard=False):
                images, target = prepare(batch, device)
                yield network(images).float().sigmoid(), target
    finally:
        network.train(was_training)


def tune_thresholds(
    network: nn.Module, dataset: SegmentationDataset, transform: Transform, device: str, measure: str = "dice"
) -> Thresholds:
    """Chooses for each class the threshold, 0.2 to 0.8, at which a measure is best. Give validation images.

    Ties go to the threshold nearest to one half. A class whose masks are all empty or unknown keeps one half.

    Args:
        network: a segmenter on `device`.
        dataset: of validation images with masks.
        transform: see `probability_maps`.
        device: where to run.
        measure: one of `metrics.overlap.MEASURES`.
    """
    parts = [
        np.stack([known_counts(probability >= float(value), target) for value in THRESHOLDS])
        for probability, target in probability_maps(network, dataset, transform, device)
    ]
    counts = np.concatenate(parts, axis=2)  # (T, 3, N, K)
    scores = np.stack([class_overlap(*each, measure) for each in counts])
    scores = np.nan_to_num(scores, nan=-1.0) - 1e-9 * np.abs(THRESHOLDS - UNTUNED)[:, None]
    positive = np.nansum(counts[0, 2], axis=0) > 0
    values = np.where(positive, THRESHOLDS[scores.argmax(axis=0)], UNTUNED)
    names = [name for name, there in zip(dataset.mask_names, positive, strict=True) if not there]
    origin = f"chosen for the best {measure} on {len(dataset)} validation images"
    return Thresholds(values, origin + (f"; {', '.join(names)}: none there, so one half" if names else ""))


def write_thresholds(thresholds: Thresholds, folder: str | os.PathLike[str], class_names: Sequence[str]) -> None:
    """Writes thresholds beside the weights that they belong to."""
    content = dict(zip(class_names, thresholds.values.tolist(), strict=True))
    write_json(Path(folder) / THRESHOLDS_FILE, {"thresholds": content, "origin": thresholds.origin})


def read_thresholds(ckpt_path: str | os.PathLike[str], class_names: Sequence[str]) -> Thresholds:
    """Reads the thresholds beside a checkpoint; where there are none, takes one half and says so.

    Raises:
        CxrError: the file is damaged, or of other classes.
    """
    path = Path(ckpt_path).with_name(THRESHOLDS_FILE)
    if not path.is_file():
        distributed.note(f"no {short(path)}, so that a pixel belongs to a class from a probability of one half on")
        return Thresholds(np.full(len(class_names), UNTUNED), "one half for every class")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = np.array([float(content["thresholds"][name]) for name in class_names])
        return Thresholds(values, str(content["origin"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CxrError(f"{path}: not the thresholds of these weights; remove it, or train again") from error


def masks_at_original(probability: np.ndarray, geometry: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Masks in the image's own geometry: padding cut off, probabilities resized, then compared.

    Args:
        probability: (K, S, S) float32, 0–1, of the square image.
        geometry: (8,) of the square image, see `data.geometry`.
        thresholds: (K,).

    Returns:
        (K, height, width) bool.
    """
    return np.stack([map_to_original(each, geometry) >= t for each, t in zip(probability, thresholds, strict=True)])


class _MaskOutput:
    """What a run does with masks at original size, step by step; a mask file is whole or not there.

    One rank writes a mask at once. Where a loader shares images out to several, each keeps its masks as run lengths,
    and rank 0 writes all of them at the end, in the order of the data set.

    Args:
        class_names: of the network.
        thresholds: of the classes.
        export: `none`; `masks`, a mask file with the network's own names; or `chexlocalize`, one with the ten tasks of
            CheXlocalize, those that the network does not know being empty.
        path: of the mask file.

    Raises:
        CxrError: an unknown export, or `chexlocalize` for a network that knows none of its tasks.
    """

    def __init__(
        self, class_names: Sequence[str], thresholds: Thresholds, export: str, path: str | os.PathLike[str]
    ) -> None:
        if export not in EXPORTS:
            raise CxrError(f"export '{export}': known are {', '.join(EXPORTS)}")
        self.class_names, self.thresholds = list(class_names), thresholds
        self.path, self._block = Path(path), ExitStack()
        self._writer: MaskFileWriter | None = None
        self._kept: list[tuple[str, dict[str, str]]] | None = None
        self.export = export
        self._sources: dict[str, int | None] = {name: k for k, name in enumerate(self.class_names)}
        if export == "chexlocalize":
            known = {canonical(name): k for name, k in self._sources.items()}
            self._sources = {task: known.get(canonical(task)) for task in CHEXLOCALIZE_TASKS}
            if set(self._sources.values()) == {None}:
                raise CxrError(f"export chexlocalize: none of its ten tasks is among {', '.join(self.class_names)}")

    def attach(self, engine: Engine) -> None:
        """Attaches to start, steps, end and failure."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.failed)

    def start(self, engine: Engine) -> None:
        """Begins the mask file."""
        self._kept = [] if is_shared(engine) else None
        if self.export != "none" and (self._kept is None or distributed.rank() == 0):
            self._writer = self._block.enter_context(MaskFileWriter(self.path))

    def step(self, engine: Engine) -> None:
        """Takes a batch."""
        raise NotImplementedError

    def keep(self, image_id: str, masks: np.ndarray) -> None:
        """Writes (K, h, w) masks of an image to the mask file, where there is one, or keeps them for rank 0."""
        if self.export == "none":
            return
        empty = np.zeros(masks.shape[1:], bool)
        named = {task: empty if k is None else masks[k] for task, k in self._sources.items()}
        if self._kept is None:
            self._writer.add(image_id, named)
        else:
            self._kept.append((image_id, {task: encode_rle(mask) for task, mask in named.items()}))

    def finish(self, engine: Engine) -> None:
        """Ends the mask file."""
        if self._kept is not None and self.export != "none":
            everything = joined(engine, np.fromiter(self._kept, object, len(self._kept)))
            for image_id, masks in everything if distributed.rank() == 0 else ():
                self._writer.add_encoded(image_id, masks)
        self._block.close()

    def failed(self, engine: Engine, error: BaseException) -> None:
        """Leaves no mask file behind, and lets the error go on."""
        with self._block:
            raise error


def _maps(engine: Engine, size: int | None = None) -> np.ndarray:
    """(B, K, S, S) float32 probabilities of the batch just done."""
    probability = engine.state.output["pred"].float().sigmoid()
    if size is not None and probability.shape[-1] != size:
        probability = F.interpolate(probability, size=(size, size), mode="bilinear", align_corners=False)
    return probability.cpu().numpy()


class MaskScorer(_MaskOutput):
    """Compares masks with those of a store at original size, image by image, as a run goes.

    Args:
        dataset: what the run reads.
        thresholds: of the classes.
        export: see `_MaskOutput`; `none`, `masks` or `chexlocalize`.
        path: of the mask file.

    Attributes:
        counts: (3, N, K) pixels in both masks, predicted and true after a run; NaN where a mask is unknown.
        kept: places in the data set of some images, evenly spread, whose masks are kept to be drawn.
        drawn: for each of those, (2, K, S, S) bool masks of the square image: drawn and predicted.

    Where a loader shares images out to ranks, rank 0 has counts and masks of all images, and the others their own.
    """

    kept_at_most = 300

    def __init__(
        self,
        dataset: SegmentationDataset,
        thresholds: Thresholds,
        export: str = "none",
        path: str | os.PathLike[str] = "masks.json",
    ) -> None:
        super().__init__(dataset.mask_names, thresholds, export, path)
        self.dataset, self._ids = dataset, dataset.store.column("image_id")
        self.counts = np.zeros((3, 0, len(self.class_names)))
        self.kept = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), self.kept_at_most)).astype(int))

    def start(self, engine: Engine) -> None:
        """Begins anew."""
        super().start(engine)
        self._places = sampler_of(engine).places() if is_shared(engine) else np.arange(len(self.dataset))
        self._parts: list[np.ndarray] = []
        self._drawn: dict[int, np.ndarray] = {}

    def step(self, engine: Engine) -> None:
        """Counts a batch."""
        batch, store = engine.state.batch, self.dataset.store
        truth, known = batch["mask"].cpu().numpy(), batch["mask_known"].cpu().numpy()
        probability, wanted = _maps(engine, store.size), set(self.kept.tolist())
        for k, row in enumerate(batch["index"].tolist()):
            place = int(self._places[len(self._parts)])
            if place in wanted:
                predicted = probability[k] >= self.thresholds.values[:, None, None]
                self._drawn[place] = np.stack([truth[k] == 1, predicted & (truth[k] != MASK_UNKNOWN)])
            geometry = store.geometry[row]
            masks = masks_at_original(probability[k], geometry, self.thresholds.values)
            drawn = np.stack([mask_to_original(each == 1, geometry) for each in truth[k]])
            self._parts.append(np.where(known[k], np.stack(mask_counts(masks, drawn)), np.nan))
            self.keep(self._ids[row], masks)

    def finish(self, engine: Engine) -> None:
        """Ends the mask file and joins the counts."""
        super().finish(engine)
        counts = joined(engine, np.stack(self._parts).astype(np.float64))
        self.counts = np.moveaxis(counts, 0, 1)
        if is_shared(engine):
            parts = distributed.collect({place: np.packbits(masks, axis=-1) for place, masks in self._drawn.items()})
            size = self.dataset.store.size
            for place, masks in ((p, m) for part in parts or () for p, m in part.items()):
                self._drawn[place] = np.unpackbits(masks, axis=-1, count=size).astype(bool)
        self.drawn = [self._drawn[place] for place in sorted(self._drawn)]


class MaskWriter(_MaskOutput):
    """Writes masks of image files in their own geometry: a PNG for each class, and a mask file.

    `masks/CLASS/IMAGE_ID.png` holds 0 and 255; `masks.json` the run lengths.

    Args:
        folder: gets both.
        network: the segmenter.
        thresholds: of the classes.
        export: `masks` or `chexlocalize`, the names in the mask file, see `_MaskOutput`.

    Raises:
        CxrError: at the end: no image could be read, or a file cannot be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], network: Segmenter, thresholds: Thresholds, export: str = "masks"
    ) -> None:
        super().__init__(network.class_names, thresholds, export, Path(folder) / "masks.json")
        self.folder, self.count = Path(folder), 0
        self.skipped: list[tuple[str, str]] = []

    def step(self, engine: Engine) -> None:
        """Writes a batch."""
        batch = engine.state.batch
        self.skipped += batch["skipped"]
        probability = _maps(engine) if batch["image_id"] else np.zeros(0)
        for maps, image_id, shape in zip(probability, batch["image_id"], batch["shape"], strict=True):
            masks = masks_at_original(maps, letterbox_geometry(*shape, maps.shape[-1]), self.thresholds.values)
            self.keep(image_id, masks)
            for name, mask in zip(self.class_names, masks, strict=True):
                with atomic_path(self.folder / "masks" / name.replace("/", "_") / f"{image_id}.png") as temporary:
                    temporary.write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())
            self.count += 1

    def finish(self, engine: Engine) -> None:
        """Says what was written, and what could not be read."""
        for _, reason in self.skipped:
            print(f"skipped {reason}", file=sys.stderr)
        if not self.count:
            self.failed(engine, CxrError(f"none of the {len(self.skipped)} files could be read"))
        super().finish(engine)
        print(
            f"{self.path}: masks of {len(self.class_names)} classes for {self.count} images, "
            f"{len(self.skipped)} skipped"
        )


class MaskPictures:
    """Draws some validation images with drawn (left) and predicted masks (right) to TensorBoard, each epoch.

    Args:
        writer: from `summary_writer`; `None` draws nothing.
        count: images, the first of the first batch that have a mask.
    """

    def __init__(self, writer: SummaryWriter | None, count: int = 6) -> None:
        self.writer, self.count = writer, count

    def attach(self, engine: Engine) -> None:
        """Attaches to the first step of a validation."""
        if self.writer is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draws the first batch."""
        if (engine.state.iteration - 1) % engine.state.epoch_length:
            return
        output = engine.state.output
        images, truth = output["image"].float().cpu(), (output["label"] == 1).cpu()
        predicted = (output["pred"] >= 0).cpu()
        chosen = truth.flatten(1).any(dim=1).nonzero().flatten()[: self.count].tolist() or [0]
        rows = [torch.cat([paint(images[k], truth[k]), paint(images[k], predicted[k])], dim=2) for k in chosen]
        self.writer.add_image("validation/masks", torch.cat(rows, dim=1), engine.state.epoch)


def paint(image: torch.Tensor, masks: torch.Tensor, strength: float = 0.45) -> torch.Tensor:
    """Lays masks in colours over an image.

    Args:
        image: (C, H, W) float of any range; its first channel is shown.
        masks: (K, H, W) bool.
        strength: of the colours, 0–1.

    Returns:
        (3, H, W) float, 0–1.
    """
    grey = image[0] - image[0].min()
    picture = (grey / grey.max().clamp_min(1e-6)).expand(3, -1, -1).clone()
    for k, mask in enumerate(masks):
        colour = torch.tensor(COLOURS[k % len(COLOURS)])[:, None]
        picture[:, mask] = (1 - strength) * picture[:, mask] + strength * colour
    return picture


COLOURS = (
    (0.90, 0.62, 0.00), (0.34, 0.71, 0.91), (0.00, 0.62, 0.45), (0.94, 0.89, 0.26), (0.00, 0.45, 0.70),
    (0.84, 0.37, 0.00), (0.80, 0.47, 0.65), (0.60, 0.60, 0.60), (0.55, 0.34, 0.29), (0.74, 0.74, 0.13),
)  # fmt: skip


def finish_segmenter(
    ckpt_dir: str,
    log_dir: str,
    dataset: SegmentationDataset,
    transform: Transform,
    device: str,
    config: str,
    measure: str = "dice",
) -> None:
    """Tunes the thresholds on the validation images, and says on rank 0 what a run made.

    Args:
        ckpt_dir: of the run; gets `thresholds.json`.
        log_dir: of TensorBoard.
        dataset: of validation images.
        transform: from stored pixels to the network's input, and from masks to the target.
        device: where to run.
        config: the bundle's evaluate.json, for the hint.
        measure: that is made best.
    """
    if distributed.rank() != 0:
        return
    path = Path(ckpt_dir) / BEST
    network = load_segmenter(path).to(device)
    thresholds = tune_thresholds(network, dataset, transform, device, measure)
    write_thresholds(thresholds, ckpt_dir, network.class_names)
    values = ", ".join(f"{name} {t:.2f}" for name, t in zip(network.class_names, thresholds.values, strict=True))
    lines = ["", f"Done. The segmenter is {short(path)}; thresholds {thresholds.origin}: {values}."]
    print("\n".join(lines + closing_lines(log_dir, config, path, str(dataset.store.path))), flush=True)
