"""What the two tuberculosis sets of the National Library of Medicine share (Jaeger et al., QIMS 2014).

Both have no table: the name of a file tells number and label (`PREFIX_0001_0.png`, 1 = tuberculosis), and a short text
of the same name tells sex and age, with a reading that is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrmonai.data.sources.tables import files_by_name, need
from cxrmonai.errors import CxrError

FINDING = "Tuberculosis"
MASK = "Lungs"
IMAGES = "CXR_png"
READINGS = "ClinicalReadings"


def find_images(root: Path, prefix: str, where: str, notes: list[str]) -> tuple[pd.DataFrame, Path]:
    """Finds the images and reads their names.

    Args:
        root: folder of the data set, with `CXR_png` in it or in a folder in it.
        prefix: what names of this set begin with.
        where: address the set is published at.
        notes: gets a sentence where images have other names.

    Returns:
        A row for each image: `image` (path below the root), `image_id`, `number` (text) and `Tuberculosis` (0, 1); and
        the folder that holds `CXR_png`.

    Raises:
        CxrError: there is no such folder, or no image of this set in it.
    """
    folder = need(root, [IMAGES, f"*/{IMAGES}"], where)
    files = files_by_name(root, folder, stem=True)
    names = pd.Series(list(files), dtype=object).str.extract(rf"^({prefix}_(\d+)_([01]))$").dropna()
    if names.empty:
        raise CxrError(f"{folder}: no image named {prefix}_0001_0 or the like; unpack it as published at {where}")
    if len(names) < len(files):
        notes.append(f"{len(files) - len(names)} of {len(files)} images in {IMAGES} are not named {prefix}_…: left out")
    names.columns = ["image_id", "number", FINDING]
    names = names.sort_values("image_id").reset_index(drop=True)
    names[FINDING] = names[FINDING].astype(float)
    return names.assign(image=names["image_id"].map(files)), folder.parent


def read_readings(home: Path, image_ids: Sequence[str], notes: list[str]) -> pd.Series:
    """Reads the texts beside the images.

    Args:
        home: folder with `ClinicalReadings`.
        image_ids: of the images.
        notes: gets a sentence where texts are missing.

    Returns:
        (N,) text of each image, empty where there is none.
    """
    paths = [home / READINGS / f"{image_id}.txt" for image_id in image_ids]
    there = [path.is_file() for path in paths]
    if not all(there):
        notes.append(f"{there.count(False)} of {len(paths)} images have no text in {READINGS}: sex and age unknown")
    texts = [
        path.read_text(encoding="utf-8", errors="replace") if known else ""
        for path, known in zip(paths, there, strict=True)
    ]
    return pd.Series(texts, dtype=object)


def text_of(texts: pd.Series, pattern: str) -> pd.DataFrame:
    """What the groups of a pattern match in each text, case ignored; empty strings where it does not."""
    return texts.str.extract(pattern, flags=re.IGNORECASE).fillna("")
