"""MONAI Label's tasks: what its server asks of a bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask

from cxrmonai.deploy.serving.bundles import (
    ALL,
    METHODS,
    MOST_PROBABLE,
    ClassifyingBundle,
    LocatingBundle,
    SegmentingBundle,
    ServedBundle,
    bands,
    open_bundle,
)
from cxrmonai.deploy.serving.results import read_label_map, usual_extension, write_result
from cxrmonai.deploy.serving.training import LabelledImage, TrainingSettings, train_segmenter
from cxrmonai.errors import CxrError

BANDED, VALUES = "bands", "map"


class BundleTask(InferTask):
    """Answers with one bundle, which is opened at the first request and again when its weights have changed.

    Args:
        folder: of the bundle.
        entry: of the app's `app.json`: `kind`, `labels`, `class_names`, `description`.
        source_of: from the path that a client or datastore names to the file to read.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any], source_of: Callable[[str], str]) -> None:
        kind = InferType.CLASSIFICATION if entry["kind"] == ClassifyingBundle.kind else InferType.SEGMENTATION
        super().__init__(kind, entry["labels"], 2, entry["description"])
        self._folder, self._source_of = folder, source_of
        self._kind, self._class_names = entry["kind"], list(entry["class_names"])
        self._opened: tuple[int, ServedBundle] | None = None

    def is_valid(self) -> bool:
        """Whether the bundle can be asked."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """The weights."""
        return str(self._folder / "models/model.pt")

    def config(self) -> dict[str, Any]:
        """What a user may choose in a viewer's panel; the first of a list is the default."""
        if self._kind == SegmentingBundle.kind:
            return {"finding": [ALL, *self._class_names]}
        if self._kind == LocatingBundle.kind:
            return {
                "finding": [MOST_PROBABLE, *self._class_names],
                "result": [BANDED, VALUES],
                "method": ["as configured", *METHODS],
            }
        return {}

    def bundle(self) -> ServedBundle:
        """The bundle with the weights that are there now.

        Raises:
            CxrError: it cannot be opened, or its weights are gone.
        """
        weights = Path(self.get_path())
        if not weights.is_file():
            raise CxrError(f"{self._folder.name}: its weights, models/{weights.name}, are gone; put them back")
        written = weights.stat().st_mtime_ns
        if self._opened is None or self._opened[0] != written:
            self._opened = (written, open_bundle(self._folder))
        return self._opened[1]

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """File of the result, or `None`, and what else is to be told.

        Raises:
            CxrError: the image cannot be read, or an option is none.
        """
        start = time.monotonic()
        image = request["image"]
        if not isinstance(image, str):
            raise CxrError("the image must be a file or an id of the datastore")
        source, bundle = self._source_of(image), self.bundle()
        array, told = None, {}
        if isinstance(bundle, ClassifyingBundle):
            scores = bundle.scores(source)
            told["prediction"] = [
                {"idx": k, "label": name, "score": float(score)}
                for k, (name, score) in enumerate(zip(bundle.class_names, scores, strict=True))
            ]
        elif isinstance(bundle, SegmentingBundle):
            array = bundle.label_map(source, _chosen(request, "finding", ALL))
            told["label_names"] = bundle.labels()
        elif isinstance(bundle, LocatingBundle):
            method = _chosen(request, "method", "as configured")
            finding = _chosen(request, "finding", MOST_PROBABLE)
            heat, told = bundle.heat(source, finding, None if method == "as configured" else method)
            result = _chosen(request, "result", BANDED)
            if result not in (BANDED, VALUES):
                raise CxrError(f"result '{result}': known are {BANDED}, {VALUES}")
            array = heat if result == VALUES else bands(heat)
            told["label_names"] = bundle.labels() if result == BANDED else {}
        file = None
        if array is not None and request.get("result_write_to_file", True):
            file = write_result(array, image, str(request.get("result_extension") or usual_extension(image)))
        return file, {**told, "latencies": {"total": round(time.monotonic() - start, 3)}}


class SegmenterTraining(TrainTask):
    """Trains a segmenting bundle on the final labels of the datastore.

    Args:
        folder: of the bundle.
        entry: see `BundleTask`.
        source_of: likewise.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any], source_of: Callable[[str], str]) -> None:
        super().__init__(entry["description"])
        self._folder, self._labels, self._source_of = folder, dict(entry["labels"]), source_of

    def config(self) -> dict[str, Any]:
        """What a user may choose, with the defaults."""
        return TrainingSettings().as_dict()

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Trains, and puts the new weights in place of the old ones.

        Raises:
            CxrError: too few labels, or an option is none.
        """
        settings = TrainingSettings.of(request)
        ids = {
            os.path.realpath(datastore.get_image_uri(image_id)): image_id for image_id in datastore.get_labeled_images()
        }
        images = [self._labelled(ids[pair["image"]], pair, datastore) for pair in datastore.datalist()]
        return train_segmenter(self._folder, images, settings)

    def _labelled(self, image_id: str, pair: Mapping[str, str], datastore: Datastore) -> LabelledImage:
        info = datastore.get_label_info(image_id, DefaultLabelTag.FINAL) or {}
        values = read_label_map(pair["label"])
        names = named_values(info, self._labels)
        masks = {
            name: values == names[name] if name in names else np.zeros(values.shape, bool) for name in self._labels
        }
        return LabelledImage(image_id, self._source_of(pair["image"]), masks)


def named_values(info: Mapping[str, Any], labels: Mapping[str, int]) -> dict[str, int]:
    """Which value stands for which name in a saved label map.

    Args:
        info: what the viewer told when it saved: `label_info`, a list of `name` and, in 3D Slicer, `idx`.
        labels: the bundle's own, for viewers that tell nothing.
    """
    told = info.get("label_info") or info.get("params", {}).get("label_info") or []
    found = {entry["name"]: int(entry["idx"]) for entry in told if "name" in entry and "idx" in entry}
    return found or dict(labels)


def _chosen(request: Mapping[str, Any], key: str, default: str) -> str:
    """An option; viewers send the whole list where nothing was chosen."""
    value = request.get(key) or default
    return str(value[0] if isinstance(value, list) else value)
