"""Reports as they arrive: a folder or ZIP archive of files, or a table; one at a time, so that memory stays bounded."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cxrmonai.data.reports.files import MAX_BYTES, ReportFile, ReportFiles, open_report_files
from cxrmonai.data.reports.openi import parse_openi
from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError

MAX_CHARACTERS = 100_000
TEXT_COLUMNS = (
    ("report",), ("text",), ("report_text",), ("radiology_report",), ("findings", "impression"),
    ("section_findings", "section_impression"), ("impression",), ("findings",),
)  # fmt: skip
ID_COLUMNS = ("report_id", "study_id", "study", "uid", "id")


@dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        report_id: the file's stem, or the cell of the id column.
        name: the file or row, for messages.
        text: all of it; empty where `parts` are there.
        parts: texts with the names of their sections, where the input tells them apart.
        reason: why it cannot be labelled; empty where it can.
    """

    report_id: str
    name: str
    text: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    reason: str = ""


@dataclass
class Reports:
    """The reports of an input, to be gone through once.

    Attributes:
        total: their number, those that cannot be read included.
        each: gives one after the other.
        notes: sentences on how the input is read; further ones come in while it is gone through.
    """

    total: int
    each: Iterator[Report]
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_reports(path: Path, text_column: str | None = None, id_column: str | None = None) -> Iterator[Reports]:
    """Opens a folder, a ZIP archive, or a table (`.csv`, `.csv.gz`).

    Args:
        path: of the input.
        text_column: of a table: one column, or several as `A,B`, whose texts are joined.
        id_column: of a table.

    Raises:
        CxrError: there is no such input, it is of no known kind, damaged as a whole, or two reports have one id.
    """
    is_table = path.name.lower().endswith((".csv", ".csv.gz"))
    if not path.exists():
        raise CxrError(f"{path}: no such file or folder")
    if is_table and path.is_file():
        yield _of_table(path, text_column, id_column)
        return
    for option, value in (("text_column", text_column), ("id_column", id_column)):
        if value is not None:
            raise CxrError(f"{path}: --{option} is for a table (.csv, .csv.gz) only; leave it out")
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise CxrError(f"{path}: give a folder or .zip of .xml and .txt reports, or a .csv or .csv.gz table")
    with open_report_files(path) as files:
        reports = Reports(len(files.files), iter(()))
        if files.passed_over:
            reports.notes.append(f"{files.passed_over} files are neither .xml nor .txt, or hidden: passed over")
        reports.each = _of_files(files, reports.notes)
        yield reports


def _of_files(files: ReportFiles, notes: list[str]) -> Iterator[Report]:
    windows = 0
    for file in files.files:
        report, utf8 = _of_file(files, file)
        windows += not utf8
        yield report
    if windows:
        notes.append(f"{windows} .txt reports are not UTF-8: read as Windows-1252")


def _of_file(files: ReportFiles, file: ReportFile) -> tuple[Report, bool]:
    name, report_id = file.name, file.report_id
    try:
        if file.reason:
            raise CxrError(file.reason)
        data = files.read(file)
        if not data.strip():
            raise CxrError("the file is empty")
        if name.lower().endswith(".xml"):
            return _checked(Report(report_id, name, parts=parse_openi(data).sections)), True
        text, utf8 = _decoded(data)
        return _checked(Report(report_id, name, text)), utf8
    except CxrError as error:
        return Report(report_id, name, reason=str(error)), True


def _decoded(data: bytes) -> tuple[str, bool]:
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text, encoding.startswith("utf")
    raise CxrError("not a text file, whatever its name says")


def _checked(report: Report) -> Report:
    length = len(report.text) + sum(len(text) for _, text in report.parts)
    if length > MAX_CHARACTERS:
        raise CxrError(f"over {MAX_CHARACTERS:,} characters: no single report")
    return report


def _of_table(path: Path, text_column: str | None, id_column: str | None) -> Reports:
    with _open_table(path) as stream:
        header = next(_rows(path, stream), None)
    if header is None:
        raise CxrError(f"{path}: the table is empty")
    texts = _text_columns(path, header, text_column)
    identity = _id_column(path, header, id_column)
    total = _count(path, header, identity)
    notes = [f"{path.name}: reports from column {' and '.join(texts)}, ids from column {identity}"]
    return Reports(total, _of_rows(path, header, texts, identity), notes)


def _text_columns(path: Path, header: list[str], chosen: str | None) -> list[str]:
    if chosen is not None:
        names = name_list(chosen)
        missing = [name for name in names if name not in header]
        if missing or not names:
            raise CxrError(f"{path}: no column '{missing[0] if missing else chosen}'; it has {', '.join(header)}")
        return names
    by_lower = {name.lower(): name for name in reversed(header)}
    for names in TEXT_COLUMNS:
        if all(name in by_lower for name in names):
            return [by_lower[name] for name in names]
    raise CxrError(f"{path}: no column of reports known by name; name it with --text_column ({', '.join(header)})")


def _id_column(path: Path, header: list[str], chosen: str | None) -> str:
    if chosen is not None:
        if chosen not in header:
            raise CxrError(f"{path}: no column '{chosen}'; it has {', '.join(header)}")
        return chosen
    by_lower = {name.lower(): name for name in reversed(header)}
    for name in ID_COLUMNS:
        if name in by_lower:
            return by_lower[name]
    raise CxrError(f"{path}: no column of ids known by name; name it with --id_column ({', '.join(header)})")


def _count(path: Path, header: list[str], identity: str) -> int:
    place, first, number = header.index(identity), {}, 0
    with _open_table(path) as stream:
        rows = _rows(path, stream)
        next(rows)
        for number, row in enumerate(rows, 1):
            cell = row[place].strip() if len(row) > place else ""
            known = first.setdefault(cell, number) if cell else number
            if known != number:
                raise CxrError(f"{path}: rows {known} and {number} have the same id in column '{identity}'")
    if not number:
        raise CxrError(f"{path}: the table has no rows")
    return number


def _of_rows(path: Path, header: list[str], texts: list[str], identity: str) -> Iterator[Report]:
    with _open_table(path) as stream:
        rows = _rows(path, stream)
        next(rows)
        for number, row in enumerate(rows, 1):
            yield _of_row(f"row {number}", dict(zip(header, row, strict=False)), row[len(header) :], texts, identity)


def _of_row(name: str, cells: dict[str, str], surplus: list[str], texts: list[str], identity: str) -> Report:
    report_id = cells.get(identity, "").strip()
    found = [(column.upper().removeprefix("SECTION_"), cells.get(column, "").strip()) for column in texts]
    try:
        if any(cell.strip() for cell in surplus):
            raise CxrError("it has more cells than the header")
        if not report_id:
            raise CxrError("it has no id")
        if not any(text for _, text in found):
            raise CxrError("it has no text")
        if len(found) == 1:
            return _checked(Report(report_id, name, found[0][1]))
        return _checked(Report(report_id, name, parts=tuple(part for part in found if part[1])))
    except CxrError as error:
        return Report(report_id, name, reason=str(error))


@contextmanager
def _open_table(path: Path) -> Iterator[TextIO]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield stream
    except OSError as error:
        raise CxrError(f"{path}: cannot be read ({error.strerror or error})") from error


def _rows(path: Path, stream: TextIO) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_BYTES)
    try:
        for row in csv.reader(stream, strict=True):
            if row:
                yield row
    except (csv.Error, UnicodeDecodeError, EOFError) as error:
        raise CxrError(f"{path}: not a readable CSV table ({error})") from error
