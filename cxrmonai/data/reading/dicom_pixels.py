"""From the pixel data of a DICOM file to stored values."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from cxrmonai.data.reading.dicom_codecs import JPEG_EXTENDED, decode_apart
from cxrmonai.data.reading.dicom_header import Header, object_kind
from cxrmonai.errors import CxrError

PIXEL_DATA = (0x7FE0, 0x0010)
UNDEFINED = 0xFFFFFFFF
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
_ITEM = b"\xfe\xff\x00\xe0"
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS that tell the size


@dataclass(frozen=True)
class _Stream:
    """What a compressed stream says of itself."""

    rows: int
    columns: int
    samples: int
    precision: int


def stored_values(path: Path, header: Header, file: BinaryIO) -> np.ndarray:
    """Reads and decodes the pixel data.

    Args:
        path: of the file, for messages.
        header: of the image.
        file: standing at the pixel data.

    Returns:
        (H, W) or, in colour, (H, W, 3) RGB: integers, the bits in use being the lowest; those above may hold anything.

    Raises:
        CxrError: there are no pixel data, or they are truncated, of another size than the header says, in a transfer
            syntax that is not read, or damaged.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    name = UID(header.syntax).name
    try:
        decoder = get_decoder(header.syntax)
    except NotImplementedError:
        raise CxrError(
            f"{path}: the transfer syntax {name} is not read; convert the file, as with `gdcmconv --raw`"
        ) from None
    length, representation = _pixel_element(path, header, file)
    if decoder.is_encapsulated != (length == UNDEFINED):
        raise CxrError(f"{path}: the pixel data are not in the transfer syntax that the header names")
    if decoder.is_encapsulated:
        values = _decompressed(path, header, b"".join(_fragments(path, file)), name)
    else:
        data = _uncompressed(path, header, file, length)
        try:
            values, _ = decoder.as_array(data, pixel_vr=representation, **_options(header))
        except Exception as error:  # the library raises whatever it likes
            raise _undecoded(path, name) from error
    above = header.high_bit + 1 - header.rules.stored
    return values >> above if above and (not decoder.is_encapsulated or header.syntax == RLE) else values


def in_use(values: np.ndarray, header: Header) -> np.ndarray:
    """Cuts away the bits of stored values that are not in use, in which old writers hid overlays."""
    width = 8 * values.dtype.itemsize
    spare = width - header.rules.stored
    low, high = header.rules.range
    if not spare or width != header.allocated or (values.max() <= high and values.min() >= low):
        return values
    return (values << spare) >> spare


def _pixel_element(path: Path, header: Header, file: BinaryIO) -> tuple[int, str]:
    """Length and representation (OB, OW) of the element that the file stands at."""
    order = "<" if header.dataset.original_encoding[1] else ">"
    head = file.read(8)
    if len(head) < 8:
        kind = object_kind(header.dataset) or "object"
        raise CxrError(f"{path}: the {kind} has no pixel data, or is truncated before them")
    if struct.unpack(f"{order}HH", head[:4]) != PIXEL_DATA:
        raise CxrError(f"{path}: pixel data as floating-point numbers are not read")
    representation = head[4:6]
    if representation in (b"OB", b"OW", b"UN"):
        head = head[:4] + file.read(4)
    else:
        representation = b"OW"  # as implicit files mean it
    if len(head) < 8:
        raise _truncated(path)
    return struct.unpack(f"{order}I", head[4:])[0], representation.decode()


def _uncompressed(path: Path, header: Header, file: BinaryIO, length: int) -> bytearray:
    # 4:2:2 leaves out half of two of the three colours.
    samples = 2 if header.photometric == "YBR_FULL_422" and header.samples == 3 else header.samples
    expected = -(-header.rows * header.columns * samples * header.allocated // 8)
    if length < expected:
        raise CxrError(f"{path}: {length} bytes of pixel data do not make {header.rows}×{header.columns} pixels")
    data = bytearray(expected + expected % 2)
    if file.readinto(data) < expected:
        raise _truncated(path)
    return data


def _fragments(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The parts of a compressed frame; the first item, a table of offsets, is left out."""
    rest = os.fstat(file.fileno()).st_size - file.tell()
    number = 0
    while (head := file.read(8))[:4] == _ITEM:
        length = int.from_bytes(head[4:], "little")
        rest -= 8 + length
        if rest < 0:
            raise _truncated(path)
        content = file.read(length)
        if number:
            yield content
        number += 1
    if number < 2 or 0 < len(head) < 8:
        raise _truncated(path)


def _decompressed(path: Path, header: Header, frame: bytes, name: str) -> np.ndarray:
    precision = 0
    if header.syntax != RLE:
        precision = _checked_stream(path, header, frame, name).precision
        if header.syntax in (JPEG_BASELINE, JPEG_EXTENDED) and header.samples == 1:
            if precision == 8:
                return _grey_jpeg(path, frame, name)
            if precision not in (12, 16) or header.allocated != 16 or header.rules.signed:
                raise CxrError(f"{path}: JPEG of {precision} bit in {header.allocated} is against the DICOM standard")
    values = decode_apart({"syntax": header.syntax, "precision": precision, **_options(header)}, frame)
    if values is None:
        raise _undecoded(path, name)
    return values


def _grey_jpeg(path: Path, frame: bytes, name: str) -> np.ndarray:
    try:
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
        values = cv2.imdecode(np.frombuffer(frame, np.uint8), flags)
    except cv2.error as error:
        raise _undecoded(path, name) from error
    if values is None:
        raise _undecoded(path, name)
    return values


def _options(header: Header) -> dict[str, Any]:
    """What decoding needs to know, as pydicom calls it."""
    return {
        "rows": header.rows,
        "columns": header.columns,
        "samples_per_pixel": header.samples,
        "photometric_interpretation": header.photometric,
        "planar_configuration": header.planar,
        "bits_allocated": header.allocated,
        "bits_stored": header.rules.stored,
        "pixel_representation": int(header.rules.signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
    }


def _checked_stream(path: Path, header: Header, frame: bytes, name: str) -> _Stream:
    """Looks at what a compressed stream says of itself, before a decoder believes it."""
    try:
        stream = _jpeg(frame) if frame.startswith(_JPEG) else _jpeg_2000(frame)
    except (struct.error, IndexError, ValueError) as error:
        raise _undecoded(path, name) from error
    if (stream.rows, stream.columns, stream.samples) != (header.rows, header.columns, header.samples):
        raise CxrError(
            f"{path}: the header says {header.rows}×{header.columns}×{header.samples} and the compressed pixels are "
            f"{stream.rows}×{stream.columns}×{stream.samples}"
        )
    if frame.startswith(_JPEG) and frame.rfind(b"\xff\xd9") < frame.rfind(b"\xff\xda"):
        raise _truncated(path)
    return stream


def _jpeg(frame: bytes) -> _Stream:
    place = 2
    while frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _SIZES:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
            return _Stream(rows, columns, samples, precision)
        place += 2 + struct.unpack_from(">H", frame, place + 2)[0]
    raise ValueError("no frame header")


def _jpeg_2000(frame: bytes) -> _Stream:
    # The file format JP2 around the stream is against the standard, and is found.
    place = frame.index(_JPEG_2000)
    right, bottom, left, top = struct.unpack_from(">4I", frame, place + 8)
    samples, precision = struct.unpack_from(">HB", frame, place + 40)
    return _Stream(bottom - top, right - left, samples, (precision & 0x7F) + 1)


def _truncated(path: Path) -> CxrError:
    return CxrError(f"{path}: the pixel data are truncated; export the file again")


def _undecoded(path: Path, name: str) -> CxrError:
    return CxrError(f"{path}: the pixel data cannot be decoded as {name}; export the file again")
