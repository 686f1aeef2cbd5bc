"""Montgomery County chest radiographs with lung masks (Jaeger et al., QIMS 2014; Candemir et al., TMI 2014)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.nlm_tuberculosis import FINDING, MASK, find_images, read_readings, text_of
from cxrmonai.data.sources.tables import files_by_name, mask_rows, with_splits
from cxrmonai.data.table import make_table, parse_age, parse_sex

ABOUT = "Montgomery County: 138 PA radiographs, 58 with tuberculosis; lung masks"
NEEDS = (
    "CXR_png/, or a folder that holds it (MontgomerySet/CXR_png/)",
    "ClinicalReadings/ beside it, for sex, age, and which images are of one patient (optional)",
    "ManualMask/leftMask/ and ManualMask/rightMask/ beside it, or masks/ with both lungs in one, for the lungs "
    "(optional)",
)
WHERE = (
    "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Montgomery-County-CXR-Set/MontgomerySet/"
    "index.html"
)
SPACING = 0.0875  # mm per pixel of the published files
SIZES = {(4020, 4892), (4892, 4020)}
_SIDES = ("leftMask", "rightMask")


def load(root: Path, seed: int = 0) -> Collection:
    """Reads file names, and sex and age from the readings.

    The finding is `Tuberculosis`, the mask `Lungs`, both lungs united. Images are of one patient where a reading names
    another image of the set ("same pt as …"). The pixel spacing is known of files that have their published size.

    Args:
        root: folder with `CXR_png`, and, as far as they are there, `ClinicalReadings` and `ManualMask`.
        seed: of the split, which is drawn by patient.

    Returns:
        The collection.

    Raises:
        CxrError: there is no image of this set.
    """
    notes: list[str] = []
    images, home = find_images(root, "MCUCXR", WHERE, notes)
    texts = read_readings(home, images["image_id"], notes)
    spacing = [SPACING if _has_published_size(root / image) else np.nan for image in images["image"]]
    columns = {
        "image": images["image"],
        "image_id": images["image_id"],
        "patient_id": _patients(images["number"], texts, notes),
        "study_id": images["image_id"],
        "view": ["PA"] * len(images),
        "age": parse_age(text_of(texts, r"\bAge\s*:\s*(\d+[YMWD]?)")[0]),
        "sex": parse_sex(text_of(texts, r"\bSex\s*:\s*([A-Z]+)")[0]),
        "spacing_y": spacing,
        "spacing_x": spacing,
    }
    table = with_splits(make_table(columns, images[[FINDING]]), seed, False, notes)
    masks = _masks(root, home, images["image_id"], notes)
    return Collection("montgomery", root, table, [FINDING], masks=masks, notes=notes)


def _patients(numbers: pd.Series, texts: pd.Series, notes: list[str]) -> list[str]:
    """The least number among the images that readings tie together."""
    first = {number: number for number in numbers}

    def least(number: str) -> str:
        while first.setdefault(number, number) != number:
            number = first[number]
        return number

    for number, others in zip(numbers, texts.str.findall(r"MCUCXR_(\d+)"), strict=True):
        for other in others:
            one, another = sorted((least(number), least(other)))
            first[another] = one
    patients = [least(number) for number in numbers]
    again = len(patients) - len(set(patients))
    if again:
        notes.append(f"{again} images are of a patient that another image shows already, as their readings say")
    return patients


def _has_published_size(path: Path) -> bool:
    try:
        with Image.open(path) as header:
            return header.size in SIZES
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _masks(root: Path, home: Path, image_ids: pd.Series, notes: list[str]) -> pd.DataFrame:
    left, right = (files_by_name(root, home / "ManualMask" / side, stem=True) for side in _SIDES)
    united: dict[str, str] = {}
    for folder in (root / "masks", home / "masks"):
        united |= files_by_name(root, folder, stem=True)
    sides = image_ids[image_ids.isin(left) & image_ids.isin(right)]
    single = image_ids[(image_ids.isin(left) ^ image_ids.isin(right)) & ~image_ids.isin(united)]
    if len(single):
        notes.append(f"{len(single)} images have the mask of one lung only: lungs unknown")
    both = image_ids[image_ids.isin(united) & ~image_ids.isin(sides)]
    files = [(image_ids, side) for image_ids, side in ((sides, left), (sides, right), (both, united)) if len(image_ids)]
    parts = [mask_rows(ids, MASK, paths=[side[image_id] for image_id in ids]) for ids, side in files]
    return pd.concat(parts, ignore_index=True) if parts else mask_rows([], MASK)
