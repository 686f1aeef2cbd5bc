"""The phantom as a hospital would hand it over: image files and tables, to practise on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrmonai.data.phantom import MASK_NAMES, Study, draw_population, population_table, render
from cxrmonai.errors import CxrError
from cxrmonai.progress import progress_bar

PREFIX = "synthetic-"  # of file names, by which `prepare` marks a store of these images as synthetic


def write_phantom_folder(
    folder: str | os.PathLike[str],
    patients: int,
    size: int,
    seed: int = 0,
    masks: int = 20,
    exposure: float = 0.0,
    prevalence: float = 1.0,
    progress: bool = True,
) -> int:
    """Writes synthetic radiographs as PNG files with a table of labels, and some with masks.

    The folder gets `images/`, `labels.csv` (paths, patient, study, view, age, sex, a column for each finding), `masks/`
    and `masks.csv` (a column of mask files for the lungs and each finding; a mask is black where a finding is absent).

    Args:
        folder: to make.
        patients: how many.
        size: edge of the images in pixels.
        seed: of the population.
        masks: how many patients get masks, of their first radiograph; fewer where there are fewer patients.
        exposure: see `draw_population`.
        prevalence: see `draw_population`.
        progress: whether to show a bar.

    Returns:
        Number of radiographs.

    Raises:
        CxrError: the folder is there already or cannot be made, or a number is out of range.
    """
    folder = Path(folder)
    if folder.exists():
        raise CxrError(f"{folder}: is there already; give another --folder, or remove it")
    if masks < 0:
        raise CxrError(f"masks: {masks} is negative; give 0 or more")
    studies = draw_population(patients, seed, exposure, prevalence)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            _fill(made, studies, size, masks, progress)
            made.replace(folder)
    except OSError as error:
        raise CxrError(f"{folder}: cannot write here ({error.strerror}); give another --folder") from error
    return len(studies)


def _fill(folder: Path, studies: Sequence[Study], size: int, masks: int, progress: bool) -> None:
    drawn: list[dict[str, str]] = []
    files = [f"images/{PREFIX}{study.study_id}.png" for study in studies]
    with progress_bar("phantom", len(studies), "img", progress) as bar:
        for file, study in zip(files, studies, strict=True):
            radiograph = render(study, size)
            _write(folder / file, radiograph.image)
            if study.study == 0 and len(drawn) < masks:
                row = {"image": file, "patient_id": study.patient_id}
                for name in MASK_NAMES:
                    row[name] = f"masks/{name}/{Path(file).name}"
                    mask = radiograph.masks.get(name, np.zeros((size, size), bool))
                    _write(folder / row[name], mask.astype(np.uint8) * 255)
                drawn.append(row)
            bar.update(1)
    table = population_table(studies).drop(columns="image_id")
    table["age"] = table["age"].astype(int)
    table.insert(0, "image", files)
    table.to_csv(folder / "labels.csv", index=False, float_format="%.0f")
    if drawn:
        pd.DataFrame(drawn).to_csv(folder / "masks.csv", index=False)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
