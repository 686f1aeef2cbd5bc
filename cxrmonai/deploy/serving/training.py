"""Training a served segmenter on label maps that were drawn in a viewer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrmonai.data.masks import encode_rle
from cxrmonai.data.prepare import prepare
from cxrmonai.data.reading import read_image
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError
from cxrmonai.networks import load_segmenter
from cxrmonai.pipelines.running import run_config

LEAST_IMAGES = 3
BUILD = ("output_stride", "atrous_rates", "decoder_channels", "dropout", "image_size")


@dataclass(frozen=True)
class LabelledImage:
    """A radiograph and what was drawn on it.

    Attributes:
        image_id: its name.
        path: of the file.
        masks: (H, W) bool in the file's own geometry, for each class; those that were not drawn are empty.
    """

    image_id: str
    path: str
    masks: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TrainingSettings:
    """What a user may choose.

    Attributes:
        max_epochs: of the run.
        batch_size: images a step, fewer where there are fewer.
        learning_rate: of the optimizer.
        val_split: share of the images that choose the best epoch and the thresholds; at least one.
        pretrained: whether to go on from the weights that are there.
        seed: of the draw of that share, and of the run.
    """

    max_epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 0.0003
    val_split: float = 0.2
    pretrained: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0 or not 0 < self.val_split < 1:
            raise CxrError(
                f"max_epochs {self.max_epochs}, batch_size {self.batch_size}, learning_rate {self.learning_rate}, "
                f"val_split {self.val_split}: give 1 or more, 1 or more, above 0, and between 0 and 1"
            )

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> TrainingSettings:
        """Those of a request; what it does not name stays as it is.

        Raises:
            CxrError: a value is of another type or out of range.
        """
        given = {}
        for field in fields(cls):
            value = request.get(field.name, field.default)
            try:
                given[field.name] = type(field.default)(value)
            except (TypeError, ValueError) as error:
                raise CxrError(f"{field.name} {value!r}: must be as {field.default!r} is") from error
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)


def train_segmenter(
    bundle: Path, images: Sequence[LabelledImage], settings: TrainingSettings, device: str | None = None
) -> dict[str, Any]:
    """Runs the bundle's train.json on some images, and replaces its weights and thresholds when that has ended well.

    The old ones stay as `models/model_before.pt` and `models/thresholds_before.json`.

    Args:
        bundle: folder of the bundle.
        images: at least three; whose masks lack a class of the network have none of it.
        settings: of the run.
        device: where to run; as the config has it by default.

    Returns:
        `train_images`, `val_images` and `classes`.

    Raises:
        CxrError: too few images, or a mask does not fit its image.
    """
    if len(images) < LEAST_IMAGES:
        raise CxrError(
            f"{len(images)} labelled images: at least {LEAST_IMAGES} are needed; draw and submit more labels"
        )
    weights = bundle / "models/model.pt"
    network = load_segmenter(weights)
    build, known = network.encoder.description, network.settings
    shuffled = np.random.default_rng(settings.seed).permutation(len(images))
    held_out = min(max(1, round(len(images) * settings.val_split)), len(images) - 2)
    split = np.full(len(images), "train", object)
    split[shuffled[:held_out]] = "val"
    with tempfile.TemporaryDirectory(prefix="cxrmonai_train_") as temporary:
        folder = Path(temporary)
        store = folder / "labelled.h5"
        collection = _collection(images, split, network.class_names)
        made = prepare(collection, store, known["image_size"], workers=1, progress=False)
        for name, reason in made.skipped.itertuples(index=False):
            raise CxrError(f"{name}: {reason}")
        start = f"networks.load_segmenter({os.fspath(weights)!r})"
        overrides: dict[str, Any] = {key: known[key] for key in BUILD}
        overrides |= {"encoder": build.name, "stem": build.stem, "norm": build.norm, "classes": network.class_names}
        overrides |= {"network_def": f"${start}"} if settings.pretrained else {}
        overrides |= {"device": device} if device is not None else {}
        run_config(
            [bundle / "configs/train.json"],
            "train",
            bundle_root=str(bundle),
            data_file=str(store),
            ckpt_dir=str(folder / "models"),
            output_dir=str(bundle / "eval"),
            max_epochs=settings.max_epochs,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            batch_size=min(settings.batch_size, len(images) - held_out),
            **overrides,
        )
        for name in ("thresholds.json", "model.pt"):
            _replace(folder / "models" / name, bundle / "models" / name)
    return {"train_images": len(images) - held_out, "val_images": held_out, "classes": network.class_names}


def _collection(images: Sequence[LabelledImage], split: np.ndarray, names: Sequence[str]) -> Collection:
    rows = []
    for image in images:
        shape = read_image(image.path).pixels.shape
        for name in names:
            mask = np.asarray(image.masks.get(name, np.zeros(shape, bool)))
            if mask.shape != shape:
                raise CxrError(f"{image.image_id}: a label of {mask.shape} pixels on an image of {shape}; draw it anew")
            rows.append({"image_id": image.image_id, "finding": name, "path": "", "rle": encode_rle(mask)})
    ids = [image.image_id for image in images]
    columns = {"image": [os.path.abspath(image.path) for image in images], "image_id": ids, "patient_id": ids}
    table = make_table({**columns, "split": split})
    return Collection("monailabel", Path("/"), table, [], masks=pd.DataFrame(rows))


def _replace(new: Path, old: Path) -> None:
    """Moves a file over another, which stays beside it, with no moment at which none is there."""
    if old.is_file():
        shutil.copy2(old, old.with_name(f"{old.stem}_before{old.suffix}"))
    beside = old.with_name(f".{old.name}.new")
    shutil.copy2(new, beside)
    os.replace(beside, old)
