"""From an image to a map of each finding: a classifier's attribution, as it is or spread along IRNet's edges."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cxrmonai import distributed
from cxrmonai.data.mask_store import MaskStore, MaskStoreWriter
from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.data.segmentation import SegmentationDataset
from cxrmonai.data.store import Store
from cxrmonai.data.targets import match_classes
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.engines.pretraining import closing_lines, short
from cxrmonai.engines.segmentation import (
    UNTUNED,
    Thresholds,
    known_counts,
    probability_maps,
    tune_thresholds,
)
from cxrmonai.engines.sharing import is_shared, part_path, parts_in_turn
from cxrmonai.errors import CxrError
from cxrmonai.explain import attribute_with_logits
from cxrmonai.files import atomic_path
from cxrmonai.metrics.overlap import mean_overlap
from cxrmonai.networks import Classifier, load_classifier
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.irnet import IRNet
from cxrmonai.segmentation.propagation import WalkSettings, spread_maps
from cxrmonai.segmentation.pseudo_labels import draw_subset, masks_of_maps, present, write_mask_file
from cxrmonai.segmentation.seeds import MapSource

METHODS = ("irnet", "cam")
CLASSIFIER = "classifier.pt"  # beside IRNet's weights
Transform = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]
_SURE = 1e-6  # a logit must be finite


class FindingMaps(nn.Module):
    """Gives logits of maps like a segmenter, so that whatever judges and writes a segmenter's masks does so here.

    Args:
        classifier: whose maps are taken.
        irnet: along whose edges they are spread; `None` leaves them as they are. Edges are the mean of the image's and
            its mirror image's.
        walk: how maps are spread.
        attribution: a method of `explain.attribute`.
        cutoff: probability below which the classifier takes a finding for absent, so that its map is zero, one or K;
            0 for none.
        otsu: whether maps that are not spread are cut in two by Otsu's threshold.

    Attributes:
        class_names: (K,) of IRNet, where there is one, or of the classifier.

    Raises:
        CxrError: IRNet was trained on a class that the classifier has not.
    """

    def __init__(
        self,
        classifier: Classifier,
        irnet: IRNet | None,
        walk: WalkSettings | None = None,
        attribution: str = "gradcam",
        cutoff: float | Sequence[float] = 0.0,
        otsu: bool = False,
    ) -> None:
        super().__init__()
        self.classifier, self.irnet, self.walk = classifier, irnet, walk or WalkSettings()
        self.attribution, self.otsu = attribution, otsu
        self.class_names = list((irnet or classifier).class_names)
        self.chosen = match_classes(self.class_names, classifier.class_names)
        self.cutoff = torch.as_tensor(np.broadcast_to(np.float32(cutoff), (len(self.chosen),)).copy())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) prepared as for the classifier → (B, K, H, W) logits."""
        maps, logits = attribute_with_logits(self.classifier, images, self.chosen, self.attribution)
        if self.irnet is not None:
            maps = spread_maps(maps, self.edges(images), self.walk)
        elif self.otsu:
            maps = torch.from_numpy(masks_of_maps(maps.cpu().numpy())).to(maps)
        absent = self.classifier.probabilities(logits)[:, self.chosen] < self.cutoff.to(logits.device)
        return torch.logit(maps.masked_fill(absent[:, :, None, None], 0), _SURE)

    def edges(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H/4, W/4) probabilities of an edge."""
        with torch.no_grad():
            logits = self.irnet(images)[:, 0] + self.irnet(images.flip(-1))[:, 0].flip(-1)
        return (logits.float() / 2).sigmoid()


def make_finding_maps(
    method: str,
    classifier: Classifier,
    irnet: IRNet,
    walk: WalkSettings,
    attribution: str = "gradcam",
    cutoff: float = 0.0,
    threshold: str | float = "otsu",
) -> FindingMaps:
    """Maps of IRNet's classes.

    Args:
        method: `irnet`, spread; or `cam`, as the classifier's attribution has them.
        classifier: see `FindingMaps`.
        irnet: see `FindingMaps`.
        walk: see `FindingMaps`.
        attribution: see `FindingMaps`.
        cutoff: see `FindingMaps`.
        threshold: `otsu`, for `cam` alone; other rules are applied later, see `make_thresholds`.

    Raises:
        CxrError: an unknown method, or a threshold that does not fit it.
    """
    if method not in METHODS:
        raise CxrError(f"method '{method}': known are {', '.join(METHODS)}")
    otsu = threshold == "otsu"
    if method == "irnet" and otsu:
        raise CxrError("threshold otsu is for method cam; give a share of the maximum, such as 0.25, or tuned")
    maps = FindingMaps(classifier, irnet, walk, attribution, cutoff, otsu)
    if method == "cam":
        maps.irnet = None
    return maps


def make_thresholds(
    rule: str | float,
    maps: FindingMaps,
    data_file: str | os.PathLike[str] | None = None,
    transform: Transform | None = None,
    device: str = "cpu",
) -> Thresholds:
    """Where maps are cut.

    Args:
        rule: `otsu`, which was applied already; a share of the maximum; or `tuned`, on validation images with masks.
        maps: the maps.
        data_file: whose validation images `tuned` needs.
        transform: for `tuned`, from stored pixels to the input, and from masks to the target.
        device: where to run.

    Raises:
        CxrError: an unknown rule.
    """
    count = len(maps.class_names)
    if rule == "tuned":
        dataset = SegmentationDataset(data_file, maps.class_names, split="val")
        return tune_thresholds(maps, dataset, transform, device, "miou_positive")
    if rule == "otsu":
        return Thresholds(np.full(count, UNTUNED), "Otsu's, for each map by itself")
    if isinstance(rule, str) or not 0 < rule < 1:
        raise CxrError(f"threshold {rule}: give otsu, tuned, or a share between 0 and 1")
    return Thresholds(np.full(count, float(rule)), f"{rule:g} of each map's maximum")


def pseudo_mask_rows(
    data_file: str | os.PathLike[str], split: str, class_names: Sequence[str], subset: int | None, seed: int
) -> np.ndarray:
    """Rows of a split, or a draw of those that have one of the findings, see `pseudo_labels.draw_subset`."""
    store = Store(data_file)
    rows = store.rows(split)
    if subset is None:
        return rows
    there = store.labels[rows][:, match_classes(class_names, store.class_names)] == 1
    return rows[draw_subset(there, subset, seed)]


class PseudoMaskWriter:
    """Writes masks of a store's images to a mask store, and to a mask file at original size.

    Ranks that share out the images end with one file.

    Where masks are gated by label, a finding that is absent has an empty mask and one of which nothing sure is known
    (uncertain, unknown) an undecided one; the mask store is then of kind `ir`.

    Args:
        path: of the mask store.
        data_file: the store.
        class_names: of the maps.
        thresholds: where maps are cut.
        gate: `label` (for training), or `none`, for maps that are gated by probability already.
        mask_file: path of the mask file; `None` for none.

    Raises:
        CxrError: the store has no such finding, or a file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data_file: str | os.PathLike[str],
        class_names: Sequence[str],
        thresholds: Thresholds,
        gate: str = "label",
        mask_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path, self.mask_file, self.gate = Path(path), mask_file, gate
        self.store, self.class_names, self.thresholds = Store(data_file), list(class_names), thresholds
        self.ids = self.store.column("image_id")
        self.labels = np.full((len(self.store), len(self.class_names)), np.nan, np.float32)
        if gate == "label":
            self.labels = self.store.labels[:, match_classes(self.class_names, self.store.class_names)]

    def attach(self, engine: Engine) -> None:
        """Attaches to start, steps, end and failure."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.failed)

    def start(self, engine: Engine) -> None:
        """Begins the mask store."""
        kind = "ir" if self.gate == "label" else "mask"
        options = {"thresholds": self.thresholds.values.tolist(), "origin": self.thresholds.origin, "gate": self.gate}
        self._about = (self.class_names, self.store.size, kind, options)
        self.writer = MaskStoreWriter(part_path(engine, self.path), *self._about).__enter__()

    def step(self, engine: Engine) -> None:
        """Writes a batch."""
        rows = engine.state.batch["index"].cpu().numpy()
        maps = engine.state.output["pred"].float().sigmoid()
        if maps.shape[-1] != self.store.size:
            maps = nn.functional.interpolate(maps, size=[self.store.size] * 2, mode="bilinear", align_corners=False)
        limits = torch.from_numpy(self.thresholds.values).to(maps)[:, None, None]
        values = (maps >= limits).cpu().numpy().astype(np.uint8)
        labels = self.labels[rows]
        if self.gate == "label":
            values[~present("label", labels, labels)] = 0
            values[(labels != 0) & (labels != 1)] = MASK_UNKNOWN
        self.writer.add(rows, self.ids[rows], values)

    def finish(self, engine: Engine) -> None:
        """Ends the mask store, writes the mask file, and says so."""
        self.writer.__exit__(None, None, None)
        if is_shared(engine):
            with parts_in_turn(engine, self.path, MaskStore) as turns:
                if turns is None:
                    return
                self._join(turns)
        masks, size = MaskStore(self.path), self.path.stat().st_size
        print(f"{self.path}: masks of {len(masks)} images, {size / max(1, len(masks)):.0f} bytes an image")
        if self.mask_file is not None:
            write_mask_file(self.mask_file, masks, self.store)
            print(f"{self.mask_file}: the same at original size")

    def _join(self, turns: Iterator[tuple[MaskStore, int]]) -> None:
        with MaskStoreWriter(self.path, *self._about) as writer:
            for part, k in turns:
                writer.add([int(part.rows[k])], [part.image_ids[k]], part.get([k]))

    def failed(self, engine: Engine, error: BaseException) -> None:
        """Leaves nothing behind, and lets the error go on."""
        self.writer.__exit__(type(error), error, error.__traceback__)
        raise error


class MaskCheck:
    """Writes to TensorBoard, every few epochs of a training, how well pseudo-masks fit drawn ones.

    Nothing is chosen by it: a run stays one without masks.

    Args:
        network: in training.
        source: of the maps; maps of a file are not compared.
        walk: how they are spread.
        transform: from stored pixels to the input, and from masks to the target.
        threshold: share of a map's maximum.
        writer: from `engines.summary_writer`.
        every: epochs between; 0 for never.
    """

    def __init__(
        self,
        network: IRNet,
        source: MapSource,
        walk: WalkSettings,
        transform: Transform,
        threshold: float,
        writer: SummaryWriter | None,
        every: int = 5,
    ) -> None:
        self.transform, self.threshold, self.writer, self.every = transform, threshold, writer, every
        self.device, self.dataset = source.device, None
        if writer is not None and every and source.network is not None:
            self.dataset = masks_to_check(source.store.path, network.class_names)
            self.maps = FindingMaps(source.network, network, walk, source.method)

    def attach(self, engine: Engine) -> None:
        """Attaches to the end of epochs on the rank that writes."""
        if self.dataset is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        """Compares the masks."""
        trained = self.maps.irnet.training
        counts = [
            known_counts(probability >= self.threshold, target)
            for probability, target in probability_maps(self.maps, self.dataset, self.transform, self.device)
        ]
        self.maps.irnet.train(trained)
        value = mean_overlap(*np.concatenate(counts, axis=1), "miou_positive")
        self.writer.add_scalar("validation/mask_miou", value, engine.state.epoch)


def masks_to_check(data_file: str | os.PathLike[str], class_names: Sequence[str]) -> SegmentationDataset | None:
    """Validation images with drawn masks of the classes; `None` where the store has none."""
    store = Store(data_file)
    known = {name.lower() for name in store.mask_names}
    if not all(name.lower() in known for name in class_names):
        return None
    try:
        return SegmentationDataset(data_file, list(class_names), split="val")
    except CxrError as error:
        print(f"note: pseudo-masks are compared with no drawn ones while training: {error}")
        return None


def finish_irnet(
    ckpt_dir: str, log_dir: str, data_file: str, classifier: str | None, walk: WalkSettings, config: str
) -> None:
    """Puts the classifier beside IRNet's weights, since masks need both, and says on rank 0 what a run made.

    Args:
        ckpt_dir: of the run; gets `classifier.pt`, where there is a classifier.
        log_dir: of TensorBoard.
        data_file: the store it ran on.
        classifier: path of its weights.
        walk: how maps are spread.
        config: the bundle's evaluate.json, for the hint.
    """
    if distributed.rank() != 0:
        return
    path = Path(ckpt_dir) / BEST
    if classifier is not None:
        with atomic_path(path.with_name(CLASSIFIER)) as temporary:
            shutil.copyfile(classifier, temporary)
    lines = [
        "",
        f"Done. IRNet is {short(path)}; its masks begin at {walk.threshold:g} of a map's maximum.",
        *closing_lines(log_dir, config, path, data_file),
    ]
    print("\n".join(lines), flush=True)


def beside(ckpt_path: str | os.PathLike[str]) -> str:
    """Where the classifier lies that IRNet's weights were trained on."""
    return str(Path(ckpt_path).with_name(CLASSIFIER))


def classifier_of(path: str | os.PathLike[str], irnet: IRNet) -> Classifier:
    """The classifier of a file; where there is none yet, an untrained one: what a bundle is checked as."""
    if Path(path).is_file():
        return load_classifier(path)
    return Classifier(irnet.class_names, make_encoder(**irnet.encoder.description.as_dict()))


def share_of(threshold: str | float) -> float:
    """A threshold for the settings of a walk; one that is tuned or Otsu's is none of a walk."""
    return WalkSettings().threshold if isinstance(threshold, str) else threshold


__all__ = [
    "CLASSIFIER",
    "FindingMaps",
    "MaskCheck",
    "PseudoMaskWriter",
    "beside",
    "classifier_of",
    "finish_irnet",
    "make_finding_maps",
    "make_thresholds",
    "masks_to_check",
    "pseudo_mask_rows",
    "share_of",
]
