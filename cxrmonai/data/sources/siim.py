"""SIIM-ACR Pneumothorax Segmentation (Filice et al., J Digit Imaging 2020): images of ChestX-ray14 with masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.masks import rle_of_runs
from cxrmonai.data.reading import image_files
from cxrmonai.data.sources.base import SKIPPED_COLUMNS, Collection
from cxrmonai.data.sources.kaggle_dicom import read_headers
from cxrmonai.data.sources.tables import (
    images_folder,
    keep_present,
    mask_rows,
    need,
    read_csv,
    require_columns,
    with_splits,
)
from cxrmonai.data.table import make_table, parse_age, parse_sex
from cxrmonai.errors import CxrError

FINDING = "Pneumothorax"
ORIGINAL_SIZE = 1024
ABOUT = "SIIM-ACR Pneumothorax Segmentation: 12,047 radiographs of ChestX-ray14 with masks of pneumothorax"
NEEDS = (
    "stage_2_train.csv or train-rle.csv",
    "dicom-images-train/, as published or flat (and dicom-images-test/, which stage 2 names too), or PNG files",
)
WHERE = "https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data"
DRAWN_FROM = "nih"
_NONE = "-1"


def load(root: Path, images: str | None = None, seed: int = 0) -> Collection:
    """Reads the masks, and view, sex, age and patient from the DICOM headers.

    `Pneumothorax` is 1 with a mask and 0 with `-1`, and the mask is then known to be empty; several masks of one image
    are united. Masks belong to the published 1024×1024 images. An image with run lengths that do not fit is listed as
    skipped. Files that are no DICOM have an unknown view, sex, age and patient. The pixel spacing in the headers is
    that of before the images were squeezed to 1024×1024, and not taken over.

    Args:
        root: folder with `stage_2_train.csv`, or else `train-rle.csv`.
        images: folder below the root that holds the images, however deep; by default all folders `dicom-images-*`, or
            the root.
        seed: of the split, which is drawn by patient.

    Returns:
        The collection; rows whose file is not there are left out and counted in a note.

    Raises:
        CxrError: a file is missing, or has other columns than published.
    """
    file = need(root, ["stage_2_train.csv", "train-rle.csv"], WHERE)
    rows = read_csv(file)
    rows.columns = rows.columns.str.strip()  # the first release writes " EncodedPixels"
    require_columns(rows, ["ImageId", "EncodedPixels"], file)
    notes: list[str] = []
    files = _files(root, images)
    rows = rows[["ImageId", "EncodedPixels"]].apply(lambda cells: cells.str.strip()).drop_duplicates()
    entries = _entries(rows, notes)
    entries = keep_present(entries, entries["ImageId"].isin(files), file, notes)
    unlisted = len(set(files) - set(rows["ImageId"]))
    if unlisted:
        notes.append(f"{unlisted} images are in no row of {file.name}: left out")
    rles, faults = _masks(rows[rows["ImageId"].isin(entries["ImageId"])])
    skipped = [(files[name], f"{file.name}: {reason}") for name, reason in faults.items()]
    entries = entries[~entries["ImageId"].isin(faults)].reset_index(drop=True)
    rles = rles[~rles["ImageId"].isin(faults)]
    headers = read_headers(root, entries["ImageId"].map(files).tolist(), notes)
    if headers["patient"].is_unique and len(headers) > 1:
        notes.append("each DICOM file names a patient of its own: splits cannot keep a patient's images together")
    columns = {
        "image": entries["ImageId"].map(files),
        "image_id": entries["ImageId"],
        "patient_id": headers["patient"],
        "study_id": entries["ImageId"],
        "view": headers["view"],
        "age": parse_age(headers["age"]),
        "sex": parse_sex(headers["sex"]),
        "original_height": np.full(len(entries), float(ORIGINAL_SIZE)),
        "original_width": np.full(len(entries), float(ORIGINAL_SIZE)),
        "spacing_y": np.zeros(len(entries)),  # the headers' is wrong
        "spacing_x": np.zeros(len(entries)),
    }
    table = with_splits(make_table(columns, entries[[FINDING]]), seed, False, notes)
    return Collection(
        "siim",
        root,
        table,
        [FINDING],
        masks=mask_rows(rles["ImageId"], FINDING, rles=rles["rle"].tolist()),
        notes=notes,
        skipped=pd.DataFrame(skipped, columns=list(SKIPPED_COLUMNS)),
    )


def _files(root: Path, images: str | None) -> dict[str, str]:
    """Image id → path below the root."""
    published = [] if images else sorted(path for path in root.glob("dicom-images-*") if path.is_dir())
    folders = published or [images_folder(root, images, where=WHERE)]
    paths = [path for folder in folders for path in image_files(folder)]
    stem, count = Counter(path.stem for path in paths).most_common(1)[0] if paths else ("", 0)
    if count > 1:
        raise CxrError(f"{root}: {count} files are called {stem}; name the images' folder with --images")
    return {path.stem: path.relative_to(root).as_posix() for path in paths}


def _entries(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """One row for each image, with its label."""
    cells = rows["EncodedPixels"]
    marks = pd.DataFrame({"drawn": (cells != "") & (cells != _NONE), "none": cells == _NONE})
    told = marks.groupby(rows["ImageId"], sort=False).any().reset_index()
    both = int((told["drawn"] & told["none"]).sum())
    if both:
        notes.append(f"{both} images have a mask and '{_NONE}' for none: the mask counts")
    return told[["ImageId"]].assign(**{FINDING: np.where(told["drawn"], 1.0, np.where(told["none"], 0.0, np.nan))})


def _masks(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Run lengths as COCO's JSON, one row for each mask; and what is wrong with those of an image, by its id."""
    empty = rle_of_runs([], ORIGINAL_SIZE, ORIGINAL_SIZE)
    made, faults = [], {}
    told = rows[rows["EncodedPixels"] != ""]
    for name, cell in zip(told["ImageId"], told["EncodedPixels"], strict=True):
        try:
            made.append((name, empty if cell == _NONE else _rle(cell)))
        except CxrError as error:
            faults[name] = str(error)
    return pd.DataFrame(made, columns=["ImageId", "rle"], dtype=object), faults


def _rle(cell: str) -> str:
    # Published are pairs of a gap and a length down the columns, which is what COCO's runs are.
    try:
        runs = [int(number) for number in cell.split()]
    except ValueError as error:
        raise CxrError("the run lengths are not whole numbers") from error
    if len(runs) % 2:
        raise CxrError("the run lengths are not pairs of a gap and a length")
    return rle_of_runs(runs, ORIGINAL_SIZE, ORIGINAL_SIZE)
