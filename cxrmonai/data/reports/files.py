"""The report files in a folder or a ZIP archive, which is never unpacked."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cxrmonai.errors import CxrError

SUFFIXES = (".xml", ".txt")
MAX_BYTES = 10 * 2**20
MAX_RATIO = 200
_RATIO_FROM = 2**17  # below, even a high ratio unpacks to little


@dataclass(frozen=True)
class ReportFile:
    """A file of a report.

    Attributes:
        name: path below the folder or in the archive, `/` between its parts.
        reason: why it must not be read; empty where it may.
    """

    name: str
    reason: str = ""

    @property
    def report_id(self) -> str:
        """The file's stem."""
        return PurePosixPath(self.name).stem


@dataclass(frozen=True)
class ReportFiles:
    """What a folder or an archive holds.

    Attributes:
        files: `.xml` and `.txt`, sorted by name.
        passed_over: number of files of other kinds, and hidden ones.
        read: gives the bytes of a file.
    """

    files: list[ReportFile]
    passed_over: int
    read: Callable[[ReportFile], bytes]


@contextmanager
def open_report_files(path: Path) -> Iterator[ReportFiles]:
    """Opens a folder, with all below it, or a ZIP archive.

    `read` raises a `CxrError` for a file that cannot be read; the sentence does not name the file.

    Args:
        path: of the folder or archive.

    Raises:
        CxrError: it is neither, holds no report, or two of its files have the same name or stem.
    """
    if path.is_dir():
        yield _checked(path, *_in_folder(path), lambda file: _read_below(path, file))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "not a ZIP archive, or a damaged one"
        raise CxrError(f"{path}: cannot be read ({reason})") from error
    with archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            if member.filename in members:
                raise CxrError(f"{path}: {member.filename} is in it twice; pack it anew")
            if not member.is_dir():
                members[member.filename] = member
        yield _checked(path, *_in_archive(members), lambda file: _read_member(archive, members[file.name]))


def _checked(path: Path, files: list[ReportFile], passed_over: int, read: Callable[[ReportFile], bytes]) -> ReportFiles:
    if not files:
        raise CxrError(f"{path}: no .xml or .txt report in it")
    first: dict[str, str] = {}
    for file in files:
        if file.reason:
            continue
        known = first.setdefault(file.report_id, file.name)
        if known != file.name:
            raise CxrError(f"{path}: {known} and {file.name} would be the same report id; rename one of them")
    return ReportFiles(files, passed_over, read)


def _in_folder(folder: Path) -> tuple[list[ReportFile], int]:
    names = [Path(place, name).relative_to(folder).as_posix() for place, _, found in os.walk(folder) for name in found]
    wanted = sorted(name for name in names if _is_report(name))
    files = []
    for name in wanted:
        place = folder / name
        too_large = not place.is_symlink() and place.stat().st_size > MAX_BYTES
        reason = "a link" if place.is_symlink() else _TOO_LARGE if too_large else ""
        files.append(ReportFile(name, reason))
    return files, len(names) - len(wanted)


def _in_archive(members: dict[str, zipfile.ZipInfo]) -> tuple[list[ReportFile], int]:
    wanted = sorted(name for name in members if _is_report(name))
    return [ReportFile(name, _refusal(members[name])) for name in wanted], len(members) - len(wanted)


_TOO_LARGE = f"over {MAX_BYTES // 2**20} MiB: not a report"


def _is_report(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _refusal(member: zipfile.ZipInfo) -> str:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        return "its path leads out of the archive"
    if member.flag_bits & 1:
        return "encrypted"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.file_size > MAX_BYTES:
        return _TOO_LARGE
    if member.file_size > _RATIO_FROM and member.file_size > MAX_RATIO * member.compress_size:
        return f"packed more than {MAX_RATIO}-fold: not a report"
    return ""


def _read_below(folder: Path, file: ReportFile) -> bytes:
    try:
        with open(folder / file.name, "rb") as stream:
            return _within_limit(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise CxrError(f"cannot be read ({error.strerror})") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            return _within_limit(stream.read(MAX_BYTES + 1))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CxrError(f"cannot be unpacked ({error})") from error


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise CxrError(_TOO_LARGE)
    return data
