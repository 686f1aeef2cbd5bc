"""The phantom as a store: what every bundle runs on when it is given nothing else."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrmonai import distributed
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.packing import pack_bits
from cxrmonai.data.phantom import FINDINGS, MASK_NAMES, Study, draw_population, outline_sheet, population_table, render
from cxrmonai.data.splits import split_by_patient
from cxrmonai.data.store import write_store
from cxrmonai.data.table import BOX_COLUMNS, make_table
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path
from cxrmonai.processes import available_cores, follow_parent
from cxrmonai.progress import progress_bar

DEFAULT_PATIENTS, DEFAULT_SIZE, DEFAULT_SEED = 1500, 96, 0
WORTH_A_PROCESS = 300  # images; starting one takes as long as rendering about 80

Picture = tuple[np.ndarray, np.ndarray, list[tuple[str, float, float, float, float]]]


def write_phantom(
    out: str | os.PathLike[str],
    patients: int = DEFAULT_PATIENTS,
    size: int = DEFAULT_SIZE,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
    progress: bool = True,
    workers: int | None = None,
    exposure: float = 0.0,
    prevalence: float = 1.0,
) -> int:
    """Makes a store of synthetic radiographs with every finding's mask and boxes, and the lungs' mask.

    Args:
        out: the store to write.
        patients: how many.
        size: edge of the images in pixels.
        seed: of the population and of the split.
        overwrite: whether an existing file may be replaced.
        progress: whether to show a bar.
        workers: processes; as many as there are cores by default where that is worth it, 0 or 1 works in this one.
        exposure: of this hospital off the usual one, see `draw_population`.
        prevalence: share of the usual findings that this hospital's patients have, see `draw_population`.

    Returns:
        Number of images; they do not depend on `workers`.

    Raises:
        CxrError: `out` exists, cannot be written, or a number is out of range.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise CxrError(f"{out}: exists already; give another --out, or --overwrite to replace it")
    studies = draw_population(patients, seed, exposure, prevalence)
    render(studies[0], size)
    table = population_table(studies)
    labels = table[list(FINDINGS)]
    columns = {name: table[name] for name in table if name not in FINDINGS}
    columns["image"] = table["image_id"]
    columns["split"] = split_by_patient(table["patient_id"].tolist(), seed=seed)
    images = np.empty((len(studies), size, size), np.uint8)
    bits = np.empty((len(studies), size, size), np.uint32)
    boxes: list[tuple[object, ...]] = []
    bar = progress_bar("phantom", len(studies), "img", progress)
    with bar:
        for k, (image, packed, found) in enumerate(_pictures(studies, size, workers)):
            images[k], bits[k] = image, packed
            boxes += [(table["image_id"].iloc[k], *box) for box in found]
            bar.update(1)
    count = len(studies)
    annotated = np.full(count, 2 ** len(MASK_NAMES) - 1, np.uint32)
    write_store(
        out,
        images=images,
        geometry=np.tile(letterbox_geometry(size, size, size), (count, 1)),
        table=make_table(columns, labels),
        class_names=list(FINDINGS),
        source="phantom",
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)),
        masks=(np.arange(count), annotated, bits),
        mask_names=MASK_NAMES,
        synthetic=True,
        options={"patients": patients, "size": size, "seed": seed, "exposure": exposure, "prevalence": prevalence},
    )
    return count


def _pictures(studies: Sequence[Study], size: int, workers: int | None) -> Iterator[Picture]:
    """Renders studies in order, in several processes."""
    if workers is None:
        workers = min(available_cores(), len(studies) // WORTH_A_PROCESS)
    draw = partial(_picture, size=size)
    if workers <= 1:
        yield from map(draw, studies)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_process)
    try:
        yield from pool.map(draw, studies, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    follow_parent()
    cv2.setNumThreads(1)


def _picture(study: Study, size: int) -> Picture:
    """The image, the packed masks and the boxes of a study."""
    radiograph = render(study, size)
    return radiograph.image, pack_bits(radiograph.masks, MASK_NAMES, size), radiograph.boxes


def write_sheet(
    out: str | os.PathLike[str], patients: int = DEFAULT_PATIENTS, size: int = 256, seed: int = DEFAULT_SEED
) -> Path:
    """Draws 16 radiographs of a population with their findings outlined: each finding at least once, then others.

    Args:
        out: a PNG or JPEG file.
        patients: in the population.
        size: edge of each radiograph in pixels.
        seed: of the population.

    Returns:
        The path.

    Raises:
        CxrError: the file cannot be written, or a number is out of range.
    """
    studies = draw_population(patients, seed)
    chosen = [next((study for study in studies if name in study.findings), None) for name in FINDINGS]
    chosen = list(dict.fromkeys(study for study in chosen if study is not None))
    chosen += [study for study in studies if study not in chosen][: 16 - len(chosen)]
    sheet = outline_sheet(sorted(chosen[:16], key=lambda study: (study.patient, study.study)), size)
    suffix = Path(out).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise CxrError(f"{out}: a sheet is a .png or .jpg file")
    encoded = cv2.imencode(suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    with atomic_path(out) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return Path(out)


def default_store(dataset_dir: str | os.PathLike[str]) -> str:
    """The phantom that bundles fall back on, made at first use.

    Several ranks may make it at once: each writes the same content and renames it.

    Args:
        dataset_dir: folder to keep it in.

    Returns:
        Path of the store.
    """
    path = Path(dataset_dir) / f"phantom_{DEFAULT_SIZE}px_{DEFAULT_PATIENTS}.h5"
    if not path.exists():
        distributed.note(f"no --data_file given: making the synthetic phantom {path}")
        write_phantom(path, overwrite=True)
    return str(path)
