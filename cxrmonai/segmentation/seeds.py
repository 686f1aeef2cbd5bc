"""IR labels: where a classifier's maps leave no doubt what belongs to a finding (Ahn, Cho and Kwak, IRN, CVPR 2019)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrmonai import distributed
from cxrmonai.caching import is_made, note_made, stamp
from cxrmonai.data.geometry import content_window
from cxrmonai.data.mask_store import MaskStore, MaskStoreWriter
from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.data.store import Store
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError
from cxrmonai.explain import Heatmaps, attribute
from cxrmonai.networks import load_classifier
from cxrmonai.progress import progress_bar
from cxrmonai.segmentation.crf import CrfSettings, refine
from cxrmonai.segmentation.pseudo_labels import draw_subset
from cxrmonai.transforms.batch import BatchEqualizeHistogramd, BatchNormalized, BatchResized, BatchScaleIntensityd

PART = 256  # images of a part, the most that an interrupted run does again


@dataclass(frozen=True)
class SeedSettings:
    """How maps become IR labels; the defaults are CheXseg's, IRN has 0.30 and 0.05 on photographs.

    Attributes:
        foreground: above this share of its maximum a map's pixels are seeds of the finding.
        background: below this share they are seeds of its background.
        refined: whether a dense CRF fits both to the image's edges.

    Raises:
        CxrError: numbers out of range.
    """

    foreground: float = 0.25
    background: float = 0.10
    refined: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.background <= self.foreground < 1:
            raise CxrError(
                f"background {self.background}, foreground {self.foreground}: must be above 0, in this order, below 1"
            )


def ir_labels(
    images: torch.Tensor, maps: torch.Tensor, settings: SeedSettings | None = None, crf: CrfSettings | None = None
) -> torch.Tensor:
    """Labels pixels that surely belong to a finding (1), that surely do not (0), and the others (255).

    Args:
        images: (B, H, W) uint8.
        maps: (B, K, H, W), 0–1, on the same device.
        settings: of the seeds.
        crf: of the CRF.

    Returns:
        (B, K, H, W) uint8; all 255 for a map that is constant, which tells nothing.
    """
    settings = settings or SeedSettings()
    inside, around = maps > settings.foreground, maps > settings.background
    if settings.refined:
        inside, around = refine(images, torch.cat([inside, around], dim=1), crf).chunk(2, dim=1)
    labels = torch.full(maps.shape, MASK_UNKNOWN, dtype=torch.uint8, device=maps.device)
    labels[~(inside | around)] = 0
    labels[inside] = 1
    labels[maps.amax(dim=(2, 3)) == maps.amin(dim=(2, 3))] = MASK_UNKNOWN
    return labels


class MapSource:
    """Maps of a store's images: those of a file, or made by a classifier as they are asked for.

    Args:
        data_file: the store.
        classifier: path of its weights; beside `heatmaps` it may be `None`.
        heatmaps: a file of heatmaps, see `explain.heatmaps`; `None` asks the classifier.
        classes: names in any spelling, as a list or `A,B`; the classifier's (or the file's) by default.
        method: of `explain.attribute`.
        device: where to run.

    Attributes:
        class_names: (K,).
        network: the classifier, `None` where maps come from a file.
        equalize: whether the classifier sees equalised images; `False` without one.

    Raises:
        CxrError: neither is there, a class is unknown, or the heatmaps do not fit the store.
    """

    def __init__(
        self,
        data_file: str | os.PathLike[str],
        classifier: str | os.PathLike[str] | None,
        heatmaps: str | os.PathLike[str] | None = None,
        classes: str | Sequence[str] | None = None,
        method: str = "gradcam",
        device: str | torch.device = "cpu",
    ) -> None:
        self.store, self.method, self.device = Store(data_file), method, torch.device(device)
        self.path = heatmaps if heatmaps is not None else classifier
        if self.path is None:
            raise CxrError("no maps to learn from; give --classifier models/model.pt, or --heatmaps FILE.h5")
        self._file = Heatmaps(heatmaps) if heatmaps is not None else None
        network = None if classifier is None else load_classifier(classifier)
        self.network = None if self._file else network.to(self.device).eval()
        known = (self._file or self.network).class_names
        self.equalize = bool(network and network.settings["asked"].get("equalize"))
        try:
            self._chosen = match_classes(name_list(classes) or known, known)
        except CxrError as error:
            raise CxrError(f"{self.path}: {error}") from error
        self.class_names = name_list(classes) or list(known)
        if self._file is not None:
            self._place_of = {int(row): place for place, row in enumerate(self._file.rows)}
            if self._file.size != self.store.size:
                raise CxrError(f"{heatmaps}: maps of {self._file.size} pixels do not fit {data_file}; make them anew")
            self._check_ids()

    def _check_ids(self) -> None:
        """Refuses maps that were made of another store."""
        ids = dict(enumerate(self.store.column("image_id")))
        for row, image_id in zip(self._file.rows.tolist(), self._file.image_ids, strict=True):
            if ids.get(row) != image_id:
                raise CxrError(
                    f"{self.path}: its image {image_id} is not row {row} of {self.store.path}; make maps of it"
                )

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """(B, K, S, S) float32 0–1, on the device.

        Raises:
            CxrError: the file has no maps of a row.
        """
        if self._file is not None:
            missing = [int(row) for row in rows if int(row) not in self._place_of]
            if missing:
                raise CxrError(f"{self.path}: no maps of row {missing[0]}; make heatmaps of all its images")
            maps = self._file.maps([self._place_of[int(row)] for row in rows])[:, self._chosen]
            return torch.from_numpy(maps).to(self.device)
        size = self.network.settings["image_size"] or self.store.size
        batch = {"image": torch.from_numpy(self.store.images[rows])[:, None].to(self.device)}
        batch = BatchScaleIntensityd("image")(batch)
        if self.equalize:
            batch = BatchEqualizeHistogramd("image")(batch)
        batch = BatchNormalized("image")(BatchResized("image", size)(batch))
        return attribute(self.network, batch["image"], self._chosen, self.method, size=self.store.size)


def write_ir_labels(
    path: str | os.PathLike[str],
    source: MapSource,
    splits: Sequence[str] = ("train", "val"),
    settings: SeedSettings | None = None,
    crf: CrfSettings | None = None,
    subset: int | None = None,
    seed: int = 0,
) -> str:
    """Makes the IR labels of the images of a store, once; an interrupted run goes on where it was.

    Findings that an image's label does not call present stay undecided there, images without any are left out, and
    so is the padding. Where the labels are there already and were made of the same things, nothing is done.

    Args:
        path: of the mask store, kind `ir`.
        source: of the maps.
        splits: whose images.
        settings: of the seeds.
        crf: of the CRF.
        subset: how many images of the first split are drawn; all by default.
        seed: of that draw.

    Returns:
        The path.

    Raises:
        CxrError: no image of one of the splits has a finding, see also `MapSource`.
    """
    settings, crf = settings or SeedSettings(), crf or CrfSettings()
    path, record, store = Path(path), Path(f"{path}.json"), source.store
    wanted = {
        "data": [str(store.path), stamp(store.path)],
        "maps": [str(source.path), stamp(source.path), source.method],
        "classes": source.class_names,
        "splits": list(splits),
        "seeds": asdict(settings),
        "crf": asdict(crf),
        "subset": [subset, seed],
    }
    if distributed.rank() == 0 and not is_made(record, wanted):
        _write(path, source, wanted, *_positive(store, source.class_names, splits, subset, seed), settings, crf)
        note_made(record, wanted, [path])
    distributed.broadcast_number(0)  # the other ranks wait until the file is there
    return str(path)


def _write(
    path: Path,
    source: MapSource,
    wanted: dict[str, Any],
    rows: np.ndarray,
    there: np.ndarray,
    settings: SeedSettings,
    crf: CrfSettings,
) -> None:
    """Writes the labels in parts, each of which says what it was made of, and joins them."""
    store = source.store
    image_ids = store.column("image_id")
    parts = [(Path(f"{path}.part-{k}"), slice(k, k + PART)) for k in range(0, len(rows), PART)]
    with progress_bar("IR labels", len(rows), "img") as bar:
        for part, some in parts:
            if not is_made(f"{part}.json", wanted):
                with MaskStoreWriter(part, source.class_names, store.size, "ir") as writer:
                    for start in range(some.start, min(some.stop, len(rows)), 16):
                        batch = slice(start, min(start + 16, some.stop))
                        labels = _labels_of(source, rows[batch], there[batch], settings, crf)
                        writer.add(rows[batch], image_ids[rows[batch]], labels)
                        bar.update(len(labels))
                note_made(f"{part}.json", wanted, [part])
            else:
                bar.update(len(rows[some]))
    sure = 0
    with MaskStoreWriter(path, source.class_names, store.size, "ir", wanted) as writer:
        for part, _ in parts:
            made = MaskStore(part)
            for place, row in enumerate(made.rows):
                labels = made.get([place])
                sure += int((labels == 1).any())
                writer.add([row], [made.image_ids[place]], labels)
    for part, _ in parts:
        part.unlink()
        Path(f"{part}.json").unlink()
    if not sure:
        print(
            "note: in no image do the maps say surely where a finding is, so that IRNet has nothing to learn from; "
            "look at them with bundles/cam_localization, and give a better classifier or a larger --image_size"
        )
    size = path.stat().st_size
    print(f"{path}: IR labels of {len(rows)} images, {size / 1e6:.1f} MB, {size / len(rows):.0f} bytes an image")


def _positive(
    store: Store, names: Sequence[str], splits: Sequence[str], subset: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a finding, and (N, K) which."""
    try:
        columns = match_classes(names, store.class_names)
    except CxrError as error:
        raise CxrError(f"{store.path}: {error}") from error
    there = store.labels[:, columns] == 1
    rows = []
    for split, count in zip(splits, [subset] + [None] * (len(splits) - 1), strict=True):
        inside = np.flatnonzero(store.column("split") == split)
        if not there[inside].any():
            raise CxrError(
                f"{store.path}: no image of the split {split} has one of {', '.join(names)}; "
                "name other classes with --classes, or give a store whose patients of that split have some"
            )
        rows.append(inside[draw_subset(there[inside], count, seed)])
    chosen = np.concatenate(rows)
    return chosen, there[chosen]


def _labels_of(
    source: MapSource, rows: np.ndarray, there: np.ndarray, settings: SeedSettings, crf: CrfSettings
) -> np.ndarray:
    maps = source(rows)
    labels = np.full(maps.shape, MASK_UNKNOWN, np.uint8)
    for n, row in enumerate(rows):
        inside = content_window(source.store.geometry[row])
        chosen = np.flatnonzero(there[n])
        image = torch.from_numpy(_levels(source.store.images[row])).to(maps.device)[None]
        found = ir_labels(image, maps[n : n + 1, chosen], settings, crf)[0].cpu().numpy()
        for k, label in zip(chosen, found, strict=True):
            labels[n, k][inside] = label[inside]
    return labels


def _levels(image: np.ndarray) -> np.ndarray:
    """A stored image in 256 levels."""
    return (image if image.dtype == np.uint8 else image >> 8).astype(np.uint8)


__all__ = ["MapSource", "SeedSettings", "ir_labels", "write_ir_labels"]
