"""RSNA Pneumonia Detection Challenge (Shih et al., Radiology: AI 2019): images of ChestX-ray14, read anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.kaggle_dicom import read_headers
from cxrmonai.data.sources.tables import (
    files_by_name,
    images_folder,
    keep_present,
    need,
    read_csv,
    require_columns,
    with_splits,
)
from cxrmonai.data.table import make_table, parse_age, parse_sex
from cxrmonai.errors import CxrError

ORIGINAL_SIZE = 1024
CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
ABOUT = "RSNA Pneumonia Detection Challenge: 26,684 radiographs of ChestX-ray14 with boxes drawn by radiologists"
NEEDS = (
    "stage_2_train_labels.csv",
    "stage_2_train_images/, DICOM files or conversions of them",
    "stage_2_detailed_class_info.csv, for Lung Opacity and Normal (optional)",
    "pneumonia-challenge-dataset-mappings_2018.json, for the patients; published at https://www.rsna.org/"
    "artificial-intelligence/ai-image-challenge/rsna-pneumonia-detection-challenge-2018 (optional)",
)
WHERE = "https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge/data"
DRAWN_FROM = "nih"
_BOX = {"x": "x", "y": "y", "width": "w", "height": "h"}


def load(root: Path, images: str | None = None, seed: int = 0) -> Collection:
    """Reads the tables of stage 2, and view, sex and age from the DICOM headers.

    The finding `Pneumonia` is the column `Target`: opacities that suggest pneumonia, drawn as boxes. The detailed class
    becomes two more, `Lung Opacity` and `Normal`; neither is "No Lung Opacity / Not Normal". Boxes belong to the
    published 1024×1024 images. With the mapping to ChestX-ray14, `patient_id` is its patient number and `nih_image` its
    image; without it each image is its own patient. Files that are no DICOM have an unknown view, sex and age. The
    pixel spacing in the headers is that of before the images were squeezed to 1024×1024, and not taken over.

    Args:
        root: folder with `stage_2_train_labels.csv`, and, as far as they are there, the other tables.
        images: folder below the root that holds the images; by default `stage_2_train_images`.
        seed: of the split, which is drawn by patient.

    Returns:
        The collection; rows whose file is not in the folder are left out and counted in a note.

    Raises:
        CxrError: a file is missing or holds what the publisher's does not.
    """
    file = need(root, "stage_2_train_labels.csv", WHERE)
    rows = read_csv(file)
    require_columns(rows, ["patientId", *_BOX, "Target"], file)
    notes: list[str] = []
    files = _files(root, images)
    entries = _targets(rows, file)
    entries = keep_present(entries, entries["patientId"].isin(files), file, notes)
    labels = pd.DataFrame({"Pneumonia": entries["Target"], **_classes(root, entries["patientId"], notes)})
    headers = read_headers(root, entries["patientId"].map(files).tolist(), notes)
    columns = {
        "image": entries["patientId"].map(files),
        "image_id": entries["patientId"],
        "study_id": entries["patientId"],
        "view": headers["view"],
        "age": parse_age(headers["age"]),
        "sex": parse_sex(headers["sex"]),
        "original_height": np.full(len(entries), float(ORIGINAL_SIZE)),
        "original_width": np.full(len(entries), float(ORIGINAL_SIZE)),
        "spacing_y": np.zeros(len(entries)),  # the headers' is wrong
        "spacing_x": np.zeros(len(entries)),
        **_nih(root, entries["patientId"]),
    }
    table = with_splits(make_table(columns, labels), seed, False, notes)
    boxes = _boxes(rows, set(entries["patientId"]), file)
    return Collection("rsna", root, table, list(labels), boxes=boxes, notes=notes)


def _files(root: Path, images: str | None) -> dict[str, str]:
    return files_by_name(root, images_folder(root, images, "stage_2_train_images", WHERE), stem=True)


def _targets(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    """One row for each image; published is one for each box."""
    if not rows["Target"].isin(["0", "1"]).all():
        raise CxrError(f"{file}: column 'Target' holds something other than 0 and 1; restore the file as published")
    entries = rows[["patientId", "Target"]].drop_duplicates()
    again = int(entries["patientId"].duplicated().sum())
    if again:
        raise CxrError(f"{file}: {again} images have Target 0 and 1 both; restore the file as published")
    return entries.assign(Target=entries["Target"].astype(float)).reset_index(drop=True)


def _classes(root: Path, image_ids: pd.Series, notes: list[str]) -> dict[str, pd.Series]:
    file = root / "stage_2_detailed_class_info.csv"
    if not file.is_file():
        notes.append(f"no {file.name} here: Lung Opacity and Normal are left out")
        return {}
    rows = read_csv(file)
    require_columns(rows, ["patientId", "class"], file)
    strange = sorted(set(rows["class"]) - set(CLASSES))
    if strange:
        raise CxrError(f"{file}: column 'class' holds {strange[0]!r}; known are {', '.join(CLASSES)}")
    rows = rows[["patientId", "class"]].drop_duplicates()
    if rows["patientId"].duplicated().any():
        raise CxrError(f"{file}: an image has two classes; restore the file as published")
    known = image_ids.map(rows.set_index("patientId")["class"])
    return {name: (known == name).astype(float).where(known.notna()) for name in ("Lung Opacity", "Normal")}


def _nih(root: Path, image_ids: pd.Series) -> dict[str, pd.Series]:
    """Patient number and image name in ChestX-ray14, where the mapping is there."""
    found = sorted(root.glob("pneumonia-challenge-dataset-mappings*.json"))
    if not found:
        return {}
    try:
        listed = json.loads(found[-1].read_text(encoding="utf-8"))
        names = {str(entry["subset_img_id"]): str(entry["img_id"]) for entry in listed}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CxrError(
            f"{found[-1]}: not a list of images with subset_img_id and img_id; restore the file as published"
        ) from error
    image = image_ids.map(names).fillna("")
    # ChestX-ray14's own table writes patient 00000013 of 00000013_005.png as 13.
    return {"patient_id": image.str.extract(r"^0*(\d+)_")[0].fillna(""), "nih_image": image}


def _boxes(rows: pd.DataFrame, image_ids: set[str], file: Path) -> pd.DataFrame:
    drawn = rows[(rows["Target"] == "1") & rows["patientId"].isin(image_ids)]
    edges = {new: pd.to_numeric(drawn[old], errors="coerce") for old, new in _BOX.items()}
    boxes = pd.DataFrame({"image_id": drawn["patientId"], "finding": "Pneumonia", **edges}).reset_index(drop=True)
    if boxes[list("xywh")].isna().to_numpy().any():
        raise CxrError(f"{file}: a row with Target 1 has no box of four numbers; restore the file as published")
    return boxes
