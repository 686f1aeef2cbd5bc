"""DICOM as hospitals send it, by pydicom, pylibjpeg and GDCM.

In order: stored values (bits not in use cut away), modality LUT or rescale, VOI LUT or window, inversion of
MONOCHROME1, padding to the darkest grey. Orientation is left as it is stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrmonai.data.reading.base import RawImage, check_size, quietly, to_grey
from cxrmonai.data.reading.dicom_grey import darken
from cxrmonai.data.reading.dicom_header import PIXEL_KEYWORDS, Header, image_header, open_dataset
from cxrmonai.errors import CxrError

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"


def read_dicom(path: Path) -> RawImage:
    """Reads an image of one frame.

    Grey with a VOI LUT or window (the first, a table before a window) is mapped from the range that this shows to the
    whole range of uint16. Grey without stays what it is after the modality LUT, MONOCHROME1 inverted in the range of
    the stored bits; so an 8-bit image without a window has the pixels that a PNG of it has. Colour becomes its luma.

    The spacing is PixelSpacing; where that is absent, ImagerPixelSpacing divided by
    EstimatedRadiographicMagnificationFactor, or NominalScannedPixelSpacing of a scanned film.

    Raises:
        CxrError: the file is no DICOM image of one frame, too large, truncated, damaged, or in a way of storing pixels
            that is not known.
    """
    from cxrmonai.data.reading.dicom_pixels import in_use, stored_values

    with path.open("rb") as file, quietly("pydicom"):
        dataset, content = open_dataset(path, file, PIXEL_KEYWORDS)
        header = image_header(path, dataset)
        check_size(path, header.rows * header.columns)
        raw = stored_values(path, header, content)
        values = in_use(raw, header)
        if header.samples == 3:
            return RawImage(_luma(values), header.spacing)
        if header.photometric == PALETTE:
            return RawImage(_luma(_coloured(path, header, values)), header.spacing)
    if header.photometric not in MONOCHROME:
        raise CxrError(f"{path}: the photometric interpretation {header.photometric} is not read; convert it to grey")
    grey = header.rules(values)
    if header.padding is not None:
        grey = darken(grey, _padded(raw, values, header))
    return RawImage(grey, header.spacing)


def _luma(values: np.ndarray) -> np.ndarray:
    if values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    return to_grey(values[:, :, ::-1])


def _coloured(path: Path, header: Header, values: np.ndarray) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    try:
        return apply_color_lut(values, header.dataset)
    except Exception as error:  # tables that are missing, short or segmented each raise in another way
        raise CxrError(f"{path}: the colour tables are damaged or segmented; convert the file to grey") from error


def _padded(raw: np.ndarray, values: np.ndarray, header: Header) -> np.ndarray:
    low, high = header.padding or (0, 0)
    least, most = header.rules.range
    # Some writers pad with a value that the stored bits cannot hold.
    where = values if least <= low and high <= most else raw
    return (where >= low) & (where <= high)
