"""Shenzhen Hospital chest radiographs (Jaeger et al., QIMS 2014), with lung masks of Stirenko et al. 2018."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.nlm_tuberculosis import FINDING, MASK, find_images, read_readings, text_of
from cxrmonai.data.sources.tables import files_by_name, mask_rows, with_splits
from cxrmonai.data.table import make_table, parse_age

ABOUT = "Shenzhen: 662 frontal radiographs, 336 with tuberculosis; lung masks for 566 of them"
NEEDS = (
    "CXR_png/, or a folder that holds it (ChinaSet_AllFiles/CXR_png/)",
    "ClinicalReadings/ beside it, for sex and age (optional)",
    "mask/ or masks/ beside it or in the root, files …_mask.png, for the lungs; "
    "published at https://www.kaggle.com/datasets/yoctoman/shcxr-lung-mask (optional)",
)
WHERE = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Shenzhen-Hospital-CXR-Set/index.html"
# "male 45yrs", "female , 28 yrs", "Female15 yrs", "femal 32yrs", "male 16month", "female 64days", "male 42".
_SEX_AND_AGE = r"\b((?:fe)?mal)e?(?![a-z])[ \t.,;:]*(\d+)?[ \t]*(y|mon|week|day)?"


def load(root: Path, seed: int = 0) -> Collection:
    """Reads file names, and sex and age from the readings.

    The finding is `Tuberculosis`, the mask `Lungs`; an image without a mask file has unknown lungs. The view is
    `FRONTAL`: PA and AP are not told apart. An age without a unit counts as years. Each number is one patient.

    Args:
        root: folder with `CXR_png`, and, as far as they are there, `ClinicalReadings` and `mask`.
        seed: of the split, which is drawn by patient.

    Returns:
        The collection.

    Raises:
        CxrError: there is no image of this set.
    """
    notes: list[str] = []
    images, home = find_images(root, "CHNCXR", WHERE, notes)
    told = text_of(read_readings(home, images["image_id"], notes), _SEX_AND_AGE)
    columns = {
        "image": images["image"],
        "image_id": images["image_id"],
        "patient_id": images["number"],
        "study_id": images["image_id"],
        "view": ["FRONTAL"] * len(images),
        "age": parse_age(told[1] + told[2].str[:1]),
        "sex": told[0].str.lower().map({"mal": "M", "femal": "F"}),
    }
    table = with_splits(make_table(columns, images[[FINDING]]), seed, False, notes)
    masks = _masks(root, home, images["image_id"])
    return Collection("shenzhen", root, table, [FINDING], masks=masks, notes=notes)


def _masks(root: Path, home: Path, image_ids: pd.Series) -> pd.DataFrame:
    files: dict[str, str] = {}
    for folder in (*root.glob("mask*"), *home.glob("mask*")):
        files |= files_by_name(root, folder, stem=True)
    drawn = image_ids[(image_ids + "_mask").isin(files)]
    return mask_rows(drawn, MASK, paths=[files[f"{image_id}_mask"] for image_id in drawn])
