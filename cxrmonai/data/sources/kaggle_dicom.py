"""View, sex, age and patient from the DICOM headers of the RSNA and SIIM challenges, whose tables do not tell them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrmonai.data.reading import dicom_scan
from cxrmonai.processes import available_cores

KEYWORDS = {"patient": "PatientID", "view": "ViewPosition", "sex": "PatientSex", "age": "PatientAge"}
SUFFIXES = (".dcm", ".dicom")


def read_headers(root: Path, images: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Reads what the headers tell, by several processes where there are many.

    Args:
        root: folder that the paths are below.
        images: path of each image; those of another type than DICOM have no header.
        notes: gets a sentence on headers that are absent or cannot be read, and on what they tell wrongly.

    Returns:
        (N, 4) texts `patient`, `view` (upper case), `sex` and `age`, empty where unknown.
    """
    dicom = [k for k, image in enumerate(images) if image.lower().endswith(SUFFIXES)]
    headers = dicom_scan.read_headers(root, [images[k] for k in dicom], available_cores())
    table = pd.DataFrame("", index=range(len(images)), columns=list(KEYWORDS), dtype=object)
    for column, keyword in KEYWORDS.items():
        table.iloc[dicom, table.columns.get_loc(column)] = headers[keyword]
    told = pd.DataFrame(headers, dtype=object)
    unread = int(((told[dicom_scan.REASON] != "") & (told[list(dicom_scan.TEXTS)] == "").all(axis=1)).sum())
    if dicom:
        notes.append(
            "the pixel spacing in the DICOM headers is the scanner's, of before the images were squeezed: it is "
            "not taken over"
        )
    if len(dicom) < len(images):
        notes.append(f"{len(images) - len(dicom)} images are no DICOM files: view, sex and age unknown")
    if unread:
        notes.append(f"{unread} DICOM headers cannot be read: view, sex and age unknown")
    return table.assign(view=table["view"].str.upper())
