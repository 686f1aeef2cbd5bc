"""View, sex, age and patient from the DICOM headers of the RSNA and SIIM challenges, whose tables do not tell them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from cxrmonai.progress import progress_bar

TAGS = {"patient": "PatientID", "view": "ViewPosition", "sex": "PatientSex", "age": "PatientAge"}
SUFFIXES = (".dcm", ".dicom")
ALONE = 2000  # files that one process reads in less time than others take to start
_CHUNK = 256


def read_headers(root: Path, images: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Reads what the headers tell, by several processes where there are many.

    Args:
        root: folder that the paths are below.
        images: path of each image; those of another type than DICOM have no header.
        notes: gets a sentence on headers that are absent or cannot be read, and on what they tell wrongly.

    Returns:
        (N, 4) texts `patient`, `view` (upper case), `sex` and `age`, empty where unknown.
    """
    paths = [str(root / image) for image in images]
    dicom = [k for k, path in enumerate(paths) if path.lower().endswith(SUFFIXES)]
    told: list[tuple[str, ...]] = [("",) * len(TAGS)] * len(paths)
    unread = 0
    for k, header in zip(dicom, _headers([paths[k] for k in dicom]), strict=True):
        if header is None:
            unread += 1
        else:
            told[k] = header
    if dicom:
        notes.append(
            "the pixel spacing in the DICOM headers is the scanner's, of before the images were squeezed: it is "
            "not taken over"
        )
    if len(dicom) < len(paths):
        notes.append(f"{len(paths) - len(dicom)} images are no DICOM files: view, sex and age unknown")
    if unread:
        notes.append(f"{unread} DICOM headers cannot be read: view, sex and age unknown")
    table = pd.DataFrame(told, columns=list(TAGS), dtype=object)
    return table.assign(view=table["view"].str.upper())


def _headers(paths: list[str]) -> Iterable[tuple[str, ...] | None]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with progress_bar("headers", len(paths), "file") as bar:
        if len(paths) <= ALONE or cores == 1:
            found = map(_read, chunks)
            for some in found:
                bar.update(len(some))
                yield from some
            return
        context = multiprocessing.get_context("spawn")
        ignore = (signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
        with ProcessPoolExecutor(min(cores, 8), context, signal.signal, ignore) as pool:
            for some in pool.map(_read, chunks):
                bar.update(len(some))
                yield from some


def _read(paths: list[str]) -> list[tuple[str, ...] | None]:
    return [_header(path) for path in paths]


def _header(path: str) -> tuple[str, ...] | None:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS.values()))
            return tuple(str(header.get(tag) or "").strip() for tag in TAGS.values())
    except Exception:  # a damaged header can fail anywhere in pydicom; the reader of pixels will tell what is wrong
        return None
