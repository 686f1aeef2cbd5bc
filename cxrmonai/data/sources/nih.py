"""ChestX-ray14 as published by the NIH Clinical Center (Wang et al., CVPR 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.sources.base import Collection
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

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
ORIGINAL_SIZE = 1024
ABOUT = "ChestX-ray14 of the NIH Clinical Center: 112,120 frontal radiographs, 14 findings, boxes for 8 of them"
NEEDS = (
    "Data_Entry_2017*.csv, either revision",
    "images/, or images_001/images to images_012/images as the archives unpack",
    "train_val_list.txt and test_list.txt, for the official split (optional)",
    "BBox_List_2017.csv, for boxes (optional)",
)
WHERE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
_SPELLING = {"Infiltrate": "Infiltration"}
_BOX = ("Bbox [x", "y", "w", "h]")


def load(root: Path, images: str | None = None, seed: int = 0) -> Collection:
    """Reads the published tables.

    Boxes belong to the published 1024×1024 images, whatever size the files at hand have. Where the official lists are
    there, `test` is theirs and `val` is drawn by patient from their train_val list; otherwise all three are drawn.

    Args:
        root: folder with `Data_Entry_2017*.csv` (either revision), and, as far as they are there, `BBox_List_2017.csv`,
            `train_val_list.txt` and `test_list.txt`.
        images: folder below the root that holds the images; by default `images`, or else `images_001/images` to
            `images_012/images` as the archives unpack.
        seed: of the split.

    Returns:
        The collection; rows whose file is not in the folder are left out and counted in a note.

    Raises:
        CxrError: a file is missing or has other columns than published.
    """
    entries, entry_file = _entries(root)
    files = _files(root, images)
    notes: list[str] = []
    entries = keep_present(entries, entries["Image Index"].isin(files), entry_file, notes)
    table = _table(entries, files)
    table["split"], published = _official_split(root, entries["Image Index"])
    table = with_splits(table, seed, published, notes)
    return Collection("nih", root, table, list(FINDINGS), boxes=_boxes(root, set(table["image_id"])), notes=notes)


def _entries(root: Path) -> tuple[pd.DataFrame, Path]:
    file = need(root, "Data_Entry_2017*.csv", WHERE)
    table = read_csv(file)
    require_columns(table, ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender"], file)
    return table, file


def _files(root: Path, images: str | None) -> dict[str, str]:
    """File name → path below the root."""
    unpacked = [] if images or (root / "images").is_dir() else sorted(root.glob("images_*/images"))
    folders = unpacked or [images_folder(root, images, "images", WHERE)]
    return {name: path for folder in folders for name, path in files_by_name(root, folder).items()}


def _table(entries: pd.DataFrame, files: dict[str, str]) -> pd.DataFrame:
    found = entries["Finding Labels"].str.strip().str.split("|")
    strange = {name for names in found for name in names} - {*FINDINGS, "No Finding"}
    if strange:
        raise CxrError(f"Finding Labels holds '{min(strange)}'; known are No Finding, {', '.join(FINDINGS)}")
    labels = pd.DataFrame({name: found.map(lambda names, name=name: float(name in names)) for name in FINDINGS})
    stem = entries["Image Index"].map(lambda name: Path(name).stem)
    columns = {
        "image": entries["Image Index"].map(files),
        "image_id": stem,
        "patient_id": entries["Patient ID"],
        "study_id": stem,
        "view": entries["View Position"] if "View Position" in entries else [""] * len(entries),
        "age": parse_age(entries["Patient Age"]),
        "sex": parse_sex(entries["Patient Gender"]),
        "original_height": np.full(len(entries), float(ORIGINAL_SIZE)),
        "original_width": np.full(len(entries), float(ORIGINAL_SIZE)),
    }
    scan = ["OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]
    if all(name in entries for name in scan):
        # The published files are squeezed from the scanner's size to 1024 × 1024, and their pixel spacing with them.
        width, height, x, y = (pd.to_numeric(entries[name], errors="coerce").to_numpy(float) for name in scan)
        columns["spacing_y"] = y * height / ORIGINAL_SIZE
        columns["spacing_x"] = x * width / ORIGINAL_SIZE
    return make_table(columns, labels)


def _official_split(root: Path, names: pd.Series) -> tuple[np.ndarray, bool]:
    lists = {"train_val": root / "train_val_list.txt", "test": root / "test_list.txt"}
    there = {value: path for value, path in lists.items() if path.is_file()}
    # Together the two lists are all images: where one is missing, it is what the other leaves.
    rest = "" if len(there) != 1 else next(value for value in lists if value not in there)
    split = np.full(len(names), rest, dtype=object)
    for value, path in there.items():
        listed = set(path.read_text(encoding="utf-8").split())
        split[names.isin(listed).to_numpy()] = value
    return split, bool(there)


def _boxes(root: Path, image_ids: set[str]) -> pd.DataFrame:
    path = root / "BBox_List_2017.csv"
    columns = ["image_id", "finding", "x", "y", "w", "h"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    table = read_csv(path)
    require_columns(table, ["Image Index", "Finding Label", *_BOX], path)
    edges = {new: pd.to_numeric(table[old], errors="coerce") for new, old in zip("xywh", _BOX, strict=True)}
    if any(values.isna().any() for values in edges.values()):
        raise CxrError(f"{path}: a box holds something other than numbers; restore the file as published")
    boxes = pd.DataFrame(
        {
            "image_id": table["Image Index"].map(lambda name: Path(name).stem),
            "finding": table["Finding Label"].replace(_SPELLING),
            **edges,
        }
    )
    return boxes[boxes["image_id"].isin(image_ids)].reset_index(drop=True)
