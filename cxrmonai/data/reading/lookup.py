"""Which reader a file gets, and what its image is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cxrmonai.data.reading.array import read_npy
from cxrmonai.data.reading.base import RawImage
from cxrmonai.data.reading.dicom import read_dicom
from cxrmonai.data.reading.dicom_header import has_magic
from cxrmonai.data.reading.jsrt import read_jsrt
from cxrmonai.data.reading.nifti import header_beside, read_nifti
from cxrmonai.data.reading.raster import read_gif, read_png_or_jpeg
from cxrmonai.errors import CxrError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DICOM_INDEX = "DICOMDIR"
READERS: dict[str, Callable[[Path], RawImage]] = {
    ".png": read_png_or_jpeg,
    ".jpg": read_png_or_jpeg,
    ".jpeg": read_png_or_jpeg,
    ".gif": read_gif,
    ".npy": read_npy,
    **dict.fromkeys(DICOM_SUFFIXES, read_dicom),
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".hdr": read_nifti,
    ".img": read_jsrt,
}


def read_image(path: str | Path) -> RawImage:
    """Reads a radiograph.

    PNG (8 and 16 bit; grey, RGB, palette; alpha is laid on black), JPEG (EXIF orientation applied), GIF, NPY (2-D, or
    3-D with 1, 3 or 4 channels last), DICOM (also under a name without a suffix or with an unknown one), NIfTI of one
    2-D image, and the raw `.IMG` of JSRT are known.

    Args:
        path: of the file; its suffix names the type.

    Returns:
        The image.

    Raises:
        CxrError: the file is missing, of an unknown type, damaged or too large; the sentence names it.
    """
    path = Path(path)
    reader = _reader(path)
    if reader is None:
        raise CxrError(f"{path}: unknown type '{path.suffix}'; known are {', '.join(READERS)}")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise CxrError(f"{path}: no such file") from error
    except OSError as error:
        raise CxrError(f"{path}: cannot be read ({error.strerror or error})") from error


def _reader(path: Path) -> Callable[[Path], RawImage] | None:
    suffix = suffix_of(path.name)
    if suffix == ".img" and header_beside(path) is not None:
        return read_nifti
    if suffix == ".img" or suffix not in READERS:
        return read_dicom if has_magic(path) else READERS.get(suffix)
    return READERS[suffix]


def suffix_of(name: str) -> str:
    """The suffix in lower case; `.nii.gz` is one."""
    return ".nii.gz" if name.lower().endswith(".nii.gz") else PurePosixPath(name).suffix.lower()


def image_files(folder: Path) -> Iterator[Path]:
    """Radiographs below a folder, sorted, hidden ones left out.

    These are files of a type in `READERS`, and those that say they are DICOM among the others whose names end in no
    suffix or in a number, as hospitals export them. Of a pair of `.hdr` and `.img` the second stands for both.
    """
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    suffix = suffix_of(path.name)
    if suffix == ".hdr":
        return not any(path.with_suffix(other).is_file() for other in (".img", ".IMG"))
    if suffix in READERS:
        return True
    return not _is_word(suffix) and path.name.upper() != DICOM_INDEX and has_magic(path)


def _is_word(suffix: str) -> bool:
    """Whether this is the suffix of a file type, and not the end of a UID or a number."""
    return re.fullmatch(r"\.[a-z]\w*", suffix) is not None


def id_from_path(path: str) -> str:
    """The image id of a path below the root: without suffix, folders joined by `_`."""
    name, suffix = str(PurePosixPath(path)), suffix_of(path)
    if _is_word(suffix) or suffix == ".nii.gz":
        name = name[: -len(suffix)]
    return name.replace("/", "_")


def ids_from_paths(paths: Sequence[str]) -> list[str]:
    """The image ids of different paths: `id_from_path`, or more of the path where that names two alike."""
    ids = [id_from_path(path) for path in paths]
    if len(set(ids)) < len(ids):
        ids = [path.replace("/", "_") for path in paths]
    if len(set(ids)) < len(ids):
        ids = [path.replace("/", "%2F") for path in paths]
    return ids
