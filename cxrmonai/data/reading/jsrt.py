"""The raw files of the JSRT database (Shiraishi et al., AJR 2000): `JPCLN001.IMG` and the like."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrmonai.data.reading.base import RawImage
from cxrmonai.errors import CxrError

EDGE = 2048
FILE_SIZE = 2 * EDGE**2
DARKEST = 4095  # 12 bit, and film: the raw numbers grow with optical density, so that air is high
SPACING = 0.175


def read_jsrt(path: Path) -> RawImage:
    """Reads 2048×2048 big-endian 16-bit numbers without a header, 12 bits of them in use.

    The raw numbers are inverted, so that bright is dense. The spacing is 0.175 mm.

    Returns:
        (2048, 2048) uint16 from 0 to 4095.

    Raises:
        CxrError: the file is of another length.
    """
    size = path.stat().st_size
    if size != FILE_SIZE:
        raise CxrError(
            f"{path}: neither an image of JSRT, which has {FILE_SIZE} bytes and not {size}, nor one of NIfTI, which "
            "has an .hdr file beside it"
        )
    raw = np.fromfile(path, ">u2").reshape(EDGE, EDGE)
    return RawImage(DARKEST - np.minimum(raw, DARKEST).astype(np.uint16), (SPACING, SPACING))
