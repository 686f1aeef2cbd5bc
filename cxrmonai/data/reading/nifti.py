"""NIfTI and Analyze files of one two-dimensional image, by nibabel."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from cxrmonai.data.reading.array import to_float
from cxrmonai.data.reading.base import RawImage, as_spacing, check_size, quietly
from cxrmonai.errors import CxrError

MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}
MAX_EXTENSIONS = 2**24  # bytes between header and pixels


def header_beside(path: Path) -> Path | None:
    """The `.hdr` file that belongs to an `.img` file, if it is there."""
    found = (path.with_suffix(suffix) for suffix in (".hdr", ".HDR"))
    return next((header for header in found if header.is_file()), None)


def read_nifti(path: Path) -> RawImage:
    """Reads `.nii`, `.nii.gz`, and a pair of `.hdr` and `.img`.

    The first index runs along the columns and the second along the rows, as ITK and MONAI write 2-D images; what is
    returned has rows first. The affine is not applied: an image is taken to lie as it was seen when it was written.
    Scale and intercept of the header are applied. uint8 and uint16 stay as they are; all other types become float32.

    Raises:
        CxrError: the file is no NIfTI, damaged or too large, has more than two dimensions, or its values are no
            radiograph's.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    if path.stat().st_size == 0:
        raise CxrError(f"{path}: the file is empty")
    try:
        with quietly("nibabel.global"):
            _check_offset(path)
            image = nibabel.load(path)
            shape = _plane(path, image.shape)
            pixels = np.asanyarray(image.dataobj).reshape(shape)
            zooms = [float(zoom) for zoom in image.header.get_zooms()[:2]]
            units = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    except FileNotFoundError as error:
        raise CxrError(f"{path}: the other file of the pair of .hdr and .img is missing") from error
    except (
        ImageFileError, OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        raise CxrError(f"{path}: not a NIfTI file, or a truncated or damaged one") from error
    if pixels.dtype.kind not in "uif":
        raise CxrError(f"{path}: pixels of type {pixels.dtype} cannot be read as a radiograph; save them as numbers")
    pixels = np.ascontiguousarray(pixels.T, dtype=pixels.dtype.newbyteorder("="))
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = to_float(path, pixels)
    scale = MILLIMETRES.get(units)
    spacing = None if scale is None or len(zooms) < 2 else as_spacing(zooms[1] * scale, zooms[0] * scale)
    return RawImage(pixels, spacing)


def _plane(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    plane = tuple(int(edge) for edge in shape)
    while len(plane) > 2 and plane[-1] == 1:
        plane = plane[:-1]
    if len(plane) != 2 or min(plane) < 1:
        raise CxrError(f"{path}: an image of shape {plane} is no radiograph; it must have two dimensions")
    check_size(path, plane[0] * plane[1])
    return plane


def _check_offset(path: Path) -> None:
    """Limits what stands between header and pixels, all of which nibabel would read."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        head = file.read(176)
    if len(head) < 176:
        raise ValueError("header")
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head)
        where = {348: f"{order}f", 540: f"{order}q"}.get(size)
        if where and not struct.unpack_from(where, head, 108 if size == 348 else 168)[0] <= MAX_EXTENSIONS:
            raise ValueError("offset")
