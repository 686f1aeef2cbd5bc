"""Writing what a network makes of each image file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from ignite.engine import Engine, Events

from cxrmonai.engines.classification import probabilities
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path
from cxrmonai.metrics.evaluation import OperatingPoints, recalibrate
from cxrmonai.networks import Classifier


class _FileWriter:
    """Collects what a network puts out for files, names those that cannot be read on stderr, and writes at the end.

    Args:
        path: of the file to write.

    Raises:
        CxrError: at the end: no image could be read, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.ids: list[str] = []
        self.parts: list[np.ndarray] = []
        self.skipped: list[tuple[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to steps and the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def step(self, engine: Engine) -> None:
        """Keeps a batch."""
        batch = engine.state.batch
        self.ids += batch["image_id"]
        self.skipped += batch["skipped"]
        if batch["image_id"]:
            self.parts.append(engine.state.output["pred"].float().cpu().numpy())

    def finish(self, engine: Engine) -> None:
        """Writes the file and says so."""
        for _, reason in self.skipped:
            print(f"skipped {reason}", file=sys.stderr)
        if not self.ids:
            raise CxrError(f"none of the {len(self.skipped)} files could be read")
        print(f"{self.path}: {self.write(np.concatenate(self.parts))}, {len(self.skipped)} skipped")

    def write(self, output: np.ndarray) -> str:
        """Writes (N, D) `output` to `path`, and says in words what that holds."""
        raise NotImplementedError


class EmbeddingWriter(_FileWriter):
    """Writes `image_id` (N,) text and `embedding` (N, D) float32 to an NPZ file when an inference ends.

    Files that could not be read are named on stderr; the others are written all the same.

    Args:
        path: of the NPZ file.

    Raises:
        CxrError: at the end: no image could be read, or the file cannot be written.
    """

    def write(self, output: np.ndarray) -> str:
        """Writes the embeddings."""
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, image_id=np.array(self.ids), embedding=output)
        return f"{output.shape[1]} numbers for each of {len(self.ids)} images"


class PredictionWriter(_FileWriter):
    """Writes a classifier's probabilities to a CSV file when an inference ends.

    Columns: `image_id`; a probability for each class, recalibrated where there are temperatures; then, for a
    multi-class network, `predicted`, else for each class that has a threshold `NAME positive`, 1 or 0.

    Args:
        path: of the CSV file.
        network: the classifier.
        operating: thresholds and temperatures, or `None`.

    Raises:
        CxrError: at the end: no image could be read, or the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], network: Classifier, operating: OperatingPoints | None = None
    ) -> None:
        super().__init__(path)
        self.network, self.operating = network, operating

    def write(self, output: np.ndarray) -> str:
        """Writes the probabilities."""
        names = self.network.class_names
        probability = probabilities(self.network, output)
        task = self.network.task
        shown = probability if self.operating is None else recalibrate(probability, task, self.operating)
        table = pd.DataFrame(shown, columns=names)
        table.insert(0, "image_id", self.ids)
        if task == "multiclass":
            table["predicted"] = np.array(names)[probability.argmax(axis=1)]
        elif self.operating is not None:
            for name, column, threshold in zip(names, probability.T, self.operating.thresholds, strict=True):
                if threshold == threshold:
                    table[f"{name} positive"] = (column >= threshold).astype(int)
        with atomic_path(self.path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6f")
        return f"probabilities of {len(names)} classes for each of {len(self.ids)} images"
