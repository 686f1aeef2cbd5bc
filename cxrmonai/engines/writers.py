"""Writing what an encoder makes of each image."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path


class EmbeddingWriter:
    """Writes `image_id` (N,) text and `embedding` (N, D) float32 to an NPZ file when an inference ends.

    Files that could not be read are named on stderr; the others are written all the same.

    Args:
        path: of the NPZ file.

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
        engine.add_event_handler(Events.COMPLETED, self.write)

    def step(self, engine: Engine) -> None:
        """Keeps a batch."""
        batch = engine.state.batch
        self.ids += batch["image_id"]
        self.skipped += batch["skipped"]
        if batch["image_id"]:
            self.parts.append(engine.state.output["pred"].float().cpu().numpy())

    def write(self, engine: Engine) -> None:
        """Writes the file and says so."""
        for _, reason in self.skipped:
            print(f"skipped {reason}", file=sys.stderr)
        if not self.ids:
            raise CxrError(f"none of the {len(self.skipped)} files could be read")
        embedding = np.concatenate(self.parts)
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, image_id=np.array(self.ids), embedding=embedding)
        print(
            f"{self.path}: {embedding.shape[1]} numbers for each of {len(self.ids)} images, {len(self.skipped)} skipped"
        )
