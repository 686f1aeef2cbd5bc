"""What MONAI Label 0.8.5 needs so that it runs beside this package."""

from __future__ import annotations

import sys
import warnings

from cxrmonai.errors import CxrError


def prepare() -> None:
    """Makes MONAI Label importable; called before its first import.

    pydicom-seg 0.4.1, which it imports, takes a UID from a private module that pydicom 3 no longer has.

    Raises:
        CxrError: MONAI Label is not installed in this environment.
    """
    import pydicom.uid

    sys.modules.setdefault("pydicom._storage_sopclass_uids", pydicom.uid)
    warnings.filterwarnings("ignore", message=".*(is_little_endian|is_implicit_VR|write_like_original).*")
    try:
        import monailabel  # noqa: F401
    except ImportError as error:
        raise CxrError(
            "MONAI Label is not installed here; it wants an environment of its own: see README.md of the app folder"
        ) from error
