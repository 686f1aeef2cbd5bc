"""From a file to grey pixels, rows first, as seen.

One reader per file type stands in `READERS`, keyed by suffix; a new type is a function that takes a path and returns a
`RawImage`, and one line there.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cxrmonai.data.geometry import letterbox
from cxrmonai.errors import CxrError

MAX_PIXELS = 175_000_000  # below what Pillow refuses to open


@dataclass(frozen=True)
class RawImage:
    """Pixels as they come from a file.

    Attributes:
        pixels: (H, W) grey, bright = dense, in the file's own type and range.
        spacing: (row, column) distance of pixel centres in mm, where the file tells.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None = None


def read_image(path: str | Path) -> RawImage:
    """Reads a radiograph.

    PNG (8 and 16 bit; grey, RGB, palette; alpha is laid on black), JPEG (EXIF orientation applied) and NPY (2-D, or 3-D
    with 1, 3 or 4 channels last) are known.

    Args:
        path: of the file; its suffix names the type.

    Returns:
        The image.

    Raises:
        CxrError: the file is missing, of an unknown type, damaged or too large; the sentence names it.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise CxrError(f"{path}: unknown type '{path.suffix}'; known are {', '.join(READERS)}")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise CxrError(f"{path}: no such file") from error
    except OSError as error:
        raise CxrError(f"{path}: cannot be read ({error.strerror or error})") from error


def to_full_range(pixels: np.ndarray) -> np.ndarray:
    """Brings pixels to the full range of uint16.

    8-bit pixels are multiplied by 257. Deeper ones are stretched from their own minimum and maximum, since 10, 12 and
    14 bit images travel in 16-bit files and would be almost black otherwise.

    Args:
        pixels: (H, W), any numeric type, finite.

    Returns:
        (H, W) uint16; zeros where an image deeper than 8 bit is constant.
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257
    low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.zeros(pixels.shape, np.uint16)
    stretched = (pixels.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(stretched).astype(np.uint16)


def to_store_pixels(pixels: np.ndarray, size: int, depth: int = 8) -> np.ndarray:
    """Fits an image into a square of the store's type, as `geometry.letterbox` and `to_full_range` say.

    Args:
        pixels: (H, W) from a file.
        size: edge of the square in pixels.
        depth: 8 or 16 bits.

    Returns:
        (size, size) uint8 or uint16.
    """
    if depth == 8 and pixels.dtype == np.uint8:
        return letterbox(pixels, size)
    boxed = letterbox(to_full_range(pixels), size)
    return boxed if depth == 16 else np.rint(boxed / 257).astype(np.uint8)


def _read_encoded(path: Path) -> RawImage:
    data = path.read_bytes()
    if not data:
        raise CxrError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as header:
                kind, (width, height) = header.format, header.size
    except Image.DecompressionBombError:
        raise CxrError(_too_large(path)) from None
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise CxrError(f"{path}: not a PNG or JPEG image, whatever its name says") from error
    if width * height > MAX_PIXELS:
        raise CxrError(_too_large(path))
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
    return RawImage(_grey(pixels))


def _without_profile(data: bytes) -> bytes:
    """Cuts a colour profile out of a PNG: it means nothing for grey, and libpng complains of many on stderr."""
    place = 8
    while data[place + 4 : place + 8] not in (b"IDAT", b""):
        following = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"iCCP":
            return data[:place] + data[following:]
        place = following
    return data


def _too_large(path: Path) -> str:
    return f"{path}: the image is over the limit of {MAX_PIXELS // 10**6} million pixels"


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    if pixels.shape[2] == 2:
        colour, alpha = pixels[:, :, 0], pixels[:, :, 1]
    else:
        colour = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_BGR2GRAY)
        alpha = pixels[:, :, 3] if pixels.shape[2] == 4 else None
    if alpha is None:
        return colour
    opaque = np.iinfo(alpha.dtype).max
    return np.rint(colour * (alpha / opaque)).astype(colour.dtype)


def _read_npy(path: Path) -> RawImage:
    try:
        pixels = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CxrError(f"{path}: not a plain NumPy array file, or a damaged one; save it with numpy.save") from error
    if not isinstance(pixels, np.ndarray):
        pixels.close()
        raise CxrError(f"{path}: an archive of arrays (npz); save the one array with numpy.save")
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
        pixels = pixels[:, :, order]
    elif pixels.ndim != 2:
        raise CxrError(f"{path}: an array of shape {pixels.shape} is no radiograph; it must be (H, W) or (H, W, 1|3|4)")
    if pixels.size > MAX_PIXELS:
        raise CxrError(_too_large(path))
    if pixels.size == 0 or pixels.dtype.kind not in "uifb":
        raise CxrError(
            f"{path}: an array of shape {pixels.shape} and type {pixels.dtype} cannot be read as a radiograph"
        )
    pixels = np.array(pixels)
    if pixels.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):
            pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise CxrError(f"{path}: the array holds NaN, infinite values or such as float32 cannot hold")
    if pixels.ndim == 3 and pixels.dtype == np.float32 and pixels.shape[2] == 4:
        raise CxrError(f"{path}: a float array with an alpha channel is ambiguous; save it as (H, W)")
    return RawImage(_grey(pixels))


READERS: dict[str, Callable[[Path], RawImage]] = {
    ".png": _read_encoded,
    ".jpg": _read_encoded,
    ".jpeg": _read_encoded,
    ".npy": _read_npy,
}


def image_files(folder: Path) -> Iterator[Path]:
    """Files below a folder of a type in `READERS`, sorted, hidden ones left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in READERS and path.is_file() and not hidden:
            yield path


def id_from_path(path: str) -> str:
    """The image id of a path below the root: without suffix, folders joined by `_`."""
    name = PurePosixPath(path)
    return str(name.with_suffix("") if name.name else name).replace("/", "_")


def ids_from_paths(paths: Sequence[str]) -> list[str]:
    """The image ids of different paths: `id_from_path`, or more of the path where that names two alike."""
    ids = [id_from_path(path) for path in paths]
    if len(set(ids)) < len(ids):
        ids = [path.replace("/", "_") for path in paths]
    if len(set(ids)) < len(ids):
        ids = [path.replace("/", "%2F") for path in paths]
    return ids
