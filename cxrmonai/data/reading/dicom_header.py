"""What a DICOM header says of its pixels, in plain Python types."""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cxrmonai.data.reading.base import MAX_PIXELS, as_spacing
from cxrmonai.data.reading.dicom_grey import GreyRules, LookUpTable, Window
from cxrmonai.errors import CxrError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

MAGIC = b"DICM"
_GROUPS = (b"\x02\x00", b"\x08\x00")  # a file without preamble begins with one of these, as its first tag
_META_LENGTH = 1024  # bytes in which the transfer syntax is told
_MAX_INFLATED = 8 * MAX_PIXELS
PIXEL_KEYWORDS = (
    "SOPClassUID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "EstimatedRadiographicMagnificationFactor", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The header of one image.

    Attributes:
        syntax: UID of the transfer syntax.
        rows: height in pixels.
        columns: width in pixels.
        samples: 1, or 3 for colour.
        photometric: such as `MONOCHROME2`.
        planar: 0 where the colours of a pixel stand together, 1 where each colour is a plane.
        allocated: bits that a sample takes.
        high_bit: the highest of those in use.
        rules: how grey is made of stored values.
        padding: lowest and highest stored value that stand for no image.
        spacing: (row, column) distance of pixel centres in mm.
        dataset: of pydicom, for its colour tables.
    """

    syntax: str
    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    allocated: int
    high_bit: int
    rules: GreyRules
    padding: tuple[int, int] | None
    spacing: tuple[float, float] | None
    dataset: Dataset


def has_magic(path: Path) -> bool:
    """Whether the file says that it is DICOM, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == MAGIC
    except OSError:
        return False


@cache
def tag_of(keyword: str) -> BaseTag:
    """The tag of an element, looked up once; the library would do so for each file."""
    from pydicom.tag import Tag

    return Tag(keyword)


def open_dataset(path: Path, file: BinaryIO, keywords: tuple[str, ...]) -> tuple[Dataset, BinaryIO]:
    """Reads some elements of a header, and stops before the pixels.

    A file without preamble or without file meta information is read too, if it begins as DICOM does.

    Args:
        path: of the file, for messages.
        file: open at its beginning.
        keywords: of the elements.

    Returns:
        The elements, and the file or its inflated content, standing at the pixel data if there are any.

    Raises:
        CxrError: the file is empty, no DICOM, or damaged.
    """
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    head = file.read(132)
    if not head:
        raise CxrError(f"{path}: the file is empty")
    if head[128:] != MAGIC and head[:2] not in _GROUPS:
        raise CxrError(f"{path}: not a DICOM file, whatever its name says")
    deflated = DeflatedExplicitVRLittleEndian.encode() in file.read(_META_LENGTH)
    file.seek(0)
    try:
        if deflated:
            file = io.BytesIO(_inflated(path, file))
        dataset = pydicom.dcmread(
            file, stop_before_pixels=True, force=True, specific_tags=[tag_of(name) for name in keywords]
        )
    except (CxrError, OSError):
        raise
    except Exception as error:  # pydicom has no exception of its own for damaged files
        raise _damaged(path, error) from error
    return dataset, file


def image_header(path: Path, dataset: Dataset) -> Header:
    """Takes a header apart.

    Raises:
        CxrError: the object is no single image, too large, or lacks what decoding needs.
    """
    try:
        return _image_header(path, dataset)
    except CxrError:
        raise
    except Exception as error:  # elements are converted as they are looked up
        raise _damaged(path, error) from error


def refusal(dataset: Dataset) -> str:
    """Why an object is not one image; empty where it is one."""
    if not dataset.get("Rows") and not dataset.get("Columns"):
        kind = object_kind(dataset)
        if not kind or "Image" in kind:
            return "the header is cut off, or lacks Rows and Columns"
        return f"the object is {kind} and no image"
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        return f"{frames} frames; a radiograph has one"
    return ""


def object_kind(dataset: Dataset) -> str:
    """The name of the SOP class, such as `Basic Text SR Storage`."""
    uid = dataset.get("SOPClassUID")
    return "" if not uid else getattr(uid, "name", str(uid))


def _damaged(path: Path, error: Exception) -> CxrError:
    # The library's own words may quote what stands in the header.
    return CxrError(f"{path}: the DICOM header is damaged ({type(error).__name__}); export the file again")


def _inflated(path: Path, file: BinaryIO) -> bytes:
    from pydicom.filereader import read_file_meta_info

    # Left to the library, a small file could inflate to any size.
    file.seek(132 + 12 + read_file_meta_info(path).FileMetaInformationGroupLength)
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    content = machine.decompress(file.read(), _MAX_INFLATED)
    if not machine.eof:
        raise CxrError(f"{path}: the deflated content is truncated, or over {_MAX_INFLATED >> 20} MiB")
    return content


def _image_header(path: Path, dataset: Dataset) -> Header:
    reason = refusal(dataset)
    if reason:
        raise CxrError(f"{path}: {reason}")
    for keyword in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"):
        if not dataset.get(keyword):
            raise CxrError(f"{path}: the DICOM header lacks {keyword}; export the file again")
    allocated = int(dataset.BitsAllocated)
    stored = int(dataset.get("BitsStored") or allocated)
    high = _number(dataset, "HighBit")
    high_bit = stored - 1 if high is None else int(high)
    if not (allocated in (1, 8, 16, 32) and 1 <= stored <= high_bit + 1 <= allocated):
        raise CxrError(f"{path}: {stored} of {allocated} bits up to bit {high_bit} cannot be read as pixels")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples not in (1, 3):
        raise CxrError(f"{path}: {samples} samples per pixel; a radiograph has 1, or 3 in colour")
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    photometric = str(dataset.PhotometricInterpretation)
    return Header(
        _syntax(dataset),
        int(dataset.Rows),
        int(dataset.Columns),
        samples,
        photometric,
        int(dataset.get("PlanarConfiguration") or 0),
        allocated,
        high_bit,
        GreyRules(stored, signed, _modality(dataset), _values_of_interest(path, dataset), photometric == "MONOCHROME1"),
        _padding(dataset),
        _spacing(dataset),
        dataset,
    )


def _syntax(dataset: Dataset) -> str:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    named = dataset.file_meta.get("TransferSyntaxUID")
    if named:
        return str(named)
    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _modality(dataset: Dataset) -> LookUpTable | tuple[float, float] | None:
    table = _table(dataset, "ModalityLUTSequence")
    if table is not None:
        return table
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    rescale = (slope or 1.0, intercept or 0.0)
    return None if rescale == (1.0, 0.0) else rescale


def _values_of_interest(path: Path, dataset: Dataset) -> LookUpTable | Window | None:
    table = _table(dataset, "VOILUTSequence")
    if table is not None:
        return table
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise CxrError(f"{path}: VOI LUT function {function} is unknown; it must be LINEAR, LINEAR_EXACT or SIGMOID")
    # Writers fill in a width of 0 where there is no window.
    if center is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
        return None
    return Window(center, width, function)


def _table(dataset: Dataset, keyword: str) -> LookUpTable | None:
    items = dataset.get(keyword)
    if not items or not items[0].get("LUTDescriptor") or not items[0].get("LUTData"):
        return None
    count, first, bits = (int(value) for value in items[0].LUTDescriptor)
    count = count or 2**16
    data = items[0].LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    entries = np.asarray(data, dtype=np.float64).ravel()[:count]
    return LookUpTable(first, max(2.0**bits - 1, float(entries.max())), entries)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element, or nothing where there is none."""
    value: Any = dataset.get(keyword)
    if value is not None and not isinstance(value, (str, int, float)):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    value, limit = _number(dataset, "PixelPaddingValue"), _number(dataset, "PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted((int(value), int(value if limit is None else limit)))
    return ends[0], ends[1]


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    magnification = _number(dataset, "EstimatedRadiographicMagnificationFactor") or 1.0
    for keyword, scale in (
        ("PixelSpacing", 1.0),
        ("ImagerPixelSpacing", 1 / magnification),
        ("NominalScannedPixelSpacing", 1.0),
    ):
        pair = dataset.get(keyword)
        if pair and len(pair) == 2:
            return as_spacing(float(pair[0]) * scale, float(pair[1]) * scale)
    return None
