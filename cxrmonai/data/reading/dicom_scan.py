"""Reading the headers of many DICOM files, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from cxrmonai.data.reading.base import quietly
from cxrmonai.data.reading.dicom_header import open_dataset, refusal, tag_of
from cxrmonai.errors import CxrError
from cxrmonai.processes import follow_parent
from cxrmonai.progress import progress_bar

if TYPE_CHECKING:
    from pydicom import Dataset

CHUNK = 256
TEXTS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "IssuerOfPatientID",
    "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "Modality", "Manufacturer", "BodyPartExamined",
    "ViewPosition", "ImageLaterality", "Laterality", "PresentationIntentType",
)  # fmt: skip
VIEW_MEANING = "view meaning"
REASON = "reason"
COLUMNS = (*TEXTS, VIEW_MEANING, REASON)
_KEYWORDS = (*TEXTS, "ViewCodeSequence", "Rows", "Columns", "NumberOfFrames")


def read_headers(root: Path, paths: Sequence[str], workers: int, progress: bool = True) -> dict[str, list[str]]:
    """Reads the headers of DICOM files, and no pixels.

    Args:
        root: folder that the paths are below.
        paths: of the files.
        workers: processes; 0 or 1 works in this one, and so do few files.
        progress: whether to show a bar.

    Returns:
        One list for each of `COLUMNS`, in the order of the paths: the elements as text, empty where they are absent;
        the meaning of the view's code; and the reason why a file is not one image, empty where it is.

    Raises:
        CxrError: a process died.
    """
    chunks = [(str(root), paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK)]
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    known: dict[str, str] = {}  # one copy of each text, however many files say it
    with progress_bar("headers", len(paths), "file", progress) as bar:
        for rows in _chunk_by_chunk(chunks, min(workers, len(chunks))):
            for row in rows:
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(known.setdefault(value, value))
            bar.update(len(rows))
    return columns


def _chunk_by_chunk(chunks: Sequence[tuple[str, Sequence[str]]], workers: int) -> Iterator[list[tuple[str, ...]]]:
    if workers <= 1:
        yield from map(_read_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=follow_parent)
    try:
        yield from pool.map(_read_chunk, chunks)
    except BrokenProcessPool as error:
        raise CxrError("a process that read headers died (out of memory?); run the same command again") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _read_chunk(chunk: tuple[str, Iterable[str]]) -> list[tuple[str, ...]]:
    root, paths = chunk
    with quietly("pydicom"):
        return [_read_header(Path(root, path)) for path in paths]


def _read_header(path: Path) -> tuple[str, ...]:
    texts = [""] * (len(TEXTS) + 1)
    try:
        with path.open("rb") as file:
            dataset, _ = open_dataset(path, file, _KEYWORDS)
        reason = refusal(dataset)
        texts = [*(_text(dataset, name) for name in TEXTS), _view_meaning(dataset)]
    except CxrError as error:
        reason = str(error).removeprefix(f"{path}: ")
    except OSError as error:
        reason = f"cannot be read ({error.strerror or type(error).__name__})"
    except Exception as error:  # elements are converted as they are looked up
        reason = f"the DICOM header is damaged ({type(error).__name__})"
    return (*texts, reason)


def _text(dataset: Dataset, keyword: str) -> str:
    element = dataset.get_item(tag_of(keyword))
    value = None if element is None else element.value
    if isinstance(value, bytes) and not value.isascii():
        value = dataset[keyword].value  # which knows the character set, and takes its time
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii")
    elif not isinstance(value, str):
        value = "\\".join(map(str, value))
    return value.strip(" \0")


def _view_meaning(dataset: Dataset) -> str:
    codes = dataset.get("ViewCodeSequence")
    return _text(codes[0], "CodeMeaning").lower() if codes else ""
