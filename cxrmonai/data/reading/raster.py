"""PNG and JPEG by OpenCV, GIF by Pillow."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cxrmonai.data.reading.base import RawImage, check_size, to_grey
from cxrmonai.errors import CxrError


def read_png_or_jpeg(path: Path) -> RawImage:
    """Reads PNG (8 and 16 bit; grey, RGB, palette; alpha on black) and JPEG (EXIF orientation applied).

    Raises:
        CxrError: the file is empty, neither of the two, truncated, damaged or too large.
    """
    data = _content(path)
    kind, count = _header(path, data, ("PNG", "JPEG"))
    check_size(path, count)
    if kind == "PNG":
        complete, flag = data.rfind(b"IEND") >= 0, cv2.IMREAD_UNCHANGED
        data = _without_profile(data)
    else:
        complete, flag = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"), cv2.IMREAD_GRAYSCALE
    if not complete:
        raise CxrError(f"{path}: the {kind} file is truncated")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise CxrError(f"{path}: the {kind} file cannot be decoded") from error
    if pixels is None:
        raise CxrError(f"{path}: the {kind} file is damaged")
    return RawImage(to_grey(pixels))


def read_gif(path: Path) -> RawImage:
    """Reads a GIF of one frame, as masks are published in; transparency is laid on black.

    Raises:
        CxrError: the file is empty, no GIF, truncated, too large or has several frames.
    """
    data = _content(path)
    check_size(path, _header(path, data, ("GIF",))[1])
    try:
        with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
            frames = getattr(image, "n_frames", 1)
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, EOFError, ValueError, SyntaxError, struct.error, IndexError) as error:
        raise CxrError(f"{path}: the GIF file is truncated or damaged") from error
    if frames > 1:
        raise CxrError(f"{path}: a GIF of {frames} frames is no radiograph; save the one frame")
    return RawImage(to_grey(pixels[:, :, [2, 1, 0, 3]]))


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if not data:
        raise CxrError(f"{path}: the file is empty")
    return data


def _header(path: Path, data: bytes, kinds: tuple[str, ...]) -> tuple[str, int]:
    """The kind of file and the number of pixels, decoding none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=kinds) as header:
                return header.format or "", header.width * header.height
    except Image.DecompressionBombError:
        check_size(path, 2**63)
        raise
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise CxrError(f"{path}: not a {' or '.join(kinds)} image, whatever its name says") from error


def _without_profile(data: bytes) -> bytes:
    """Cuts a colour profile out of a PNG: it means nothing for grey, and libpng complains of many on stderr."""
    place = 8
    while data[place + 4 : place + 8] not in (b"IDAT", b""):
        following = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"iCCP":
            return data[:place] + data[following:]
        place = following
    return data
