"""JSRT digital image database (Shiraishi et al., AJR 2000), with the SCR masks (van Ginneken et al., MedIA 2006)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import files_by_name, keep_present, mask_rows, need, with_splits
from cxrmonai.data.table import make_table, parse_age, parse_sex
from cxrmonai.errors import CxrError

FINDING = "Nodule"
ORIGINAL_SIZE = 2048
SPACING = 0.175  # mm
ABOUT = "JSRT: 247 PA radiographs, 154 with a lung nodule; with SCR masks of lungs, heart and clavicles"
NEEDS = (
    "All247images/, or Nodule154images/ and NonNodule93images/",
    "Clinical_Information/CLNDAT_EN.txt and CNNDAT_EN.TXT",
    "scratch/ of SCR, for masks: fold1/masks/ and fold2/masks/ with folders left lung, right lung, heart, "
    "left clavicle, right clavicle; published at https://zenodo.org/records/7056076 (optional)",
)
WHERE = "http://db.jsrt.or.jp/eng.php"
_FOLDERS = ("all247images", "nodule154images", "nonnodule93images")
_MASKS = {
    "left lung": "Lungs",
    "right lung": "Lungs",
    "heart": "Heart",
    "left clavicle": "Clavicles",
    "right clavicle": "Clavicles",
}
_NODULE = ["name", "subtlety", "size_mm", "age", "sex", "x", "y", "malignant"]
_NO_NODULE = ["name", "age", "sex", "kind"]


def load(root: Path, masks: str | None = None, seed: int = 0) -> Collection:
    """Reads the clinical information.

    The finding is `Nodule`; its box is a square about the published centre with the published size for an edge. Extra
    columns: `malignant` (1, 0), `subtlety` (1 extremely subtle to 5 obvious) and `size_mm`, known of nodules only, and
    `fold`, the folds of SCR (1 odd, 2 even numbers). Masks are `Lungs`, `Heart` and `Clavicles`, left and right united.
    Each image is one patient.

    Args:
        root: folder with the images and `Clinical_Information`.
        masks: folder below the root with the masks of SCR, in folders `left lung`, `right lung`, `heart` and so on,
            however deep; by default `scratch`, where it is there.
        seed: of the split, which is drawn by patient.

    Returns:
        The collection.

    Raises:
        CxrError: a table or a folder is missing, or a line of a table is not as published.
    """
    notes: list[str] = []
    rows, folder = _clinical(root)
    files = _files(root)
    rows = keep_present(rows, rows["name"].isin(files), folder, notes)
    size = pd.to_numeric(rows["size_mm"], errors="coerce")
    columns = {
        "image": rows["name"].map(files),
        "image_id": rows["name"],
        "patient_id": rows["name"],
        "study_id": rows["name"],
        "view": ["PA"] * len(rows),
        "age": parse_age(rows["age"]),
        "sex": parse_sex(rows["sex"]),
        "original_height": np.full(len(rows), float(ORIGINAL_SIZE)),
        "original_width": np.full(len(rows), float(ORIGINAL_SIZE)),
        "spacing_y": np.full(len(rows), SPACING),
        "spacing_x": np.full(len(rows), SPACING),
        "malignant": rows["malignant"].str.lower().map({"malignant": 1.0, "benign": 0.0}),
        "subtlety": pd.to_numeric(rows["subtlety"], errors="coerce"),
        "size_mm": size,
        "fold": 2 - rows["name"].str[-3:].astype(int) % 2,
    }
    labels = pd.DataFrame({FINDING: rows["name"].str.startswith("JPCLN").astype(float)})
    table = with_splits(make_table(columns, labels), seed, False, notes)
    boxes = _boxes(rows, size, notes)
    return Collection("jsrt", root, table, [FINDING], boxes=boxes, masks=_masks(root, masks, rows["name"]), notes=notes)


def _clinical(root: Path) -> tuple[pd.DataFrame, Path]:
    nodule, no_nodule = _table_file(root, "CLNDAT_EN.txt"), _table_file(root, "CNNDAT_EN.TXT")
    rows = pd.concat([_lines(nodule, "L", _NODULE), _lines(no_nodule, "N", _NO_NODULE)], ignore_index=True)
    return rows.astype(object).where(rows.notna(), ""), nodule.parent


def _table_file(root: Path, name: str) -> Path:
    for path in (*root.glob("*.*"), *root.glob("*/*.*")):
        if path.name.lower() == name.lower():
            return path
    return need(root, f"Clinical_Information/{name}", WHERE)


def _lines(path: Path, kind: str, columns: list[str]) -> pd.DataFrame:
    """The lines of a table without header: the first of nodules, parted by tabs, the second padded with blanks."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        if line.strip(" \t\x00\x1a"):
            cells = [cell.strip() for cell in (line.split("\t") if "\t" in line.strip() else line.split())]
            name = re.fullmatch(rf"(JPC{kind}N\d{{3}})(?:\.\w+)?", cells[0], re.IGNORECASE)
            if not name or len(cells) < len(columns):
                raise CxrError(f"{path}: line {number} is not {', '.join(columns)}; restore the file as published")
            rows.append([name[1].upper(), *cells[1 : len(columns)]])
    if not rows:
        raise CxrError(f"{path}: the table has no rows")
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _files(root: Path) -> dict[str, str]:
    """Image name → path below the root."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in _FOLDERS]
    if not folders:
        raise CxrError(f"{root}: no All247images and no Nodule154images; they are published at {WHERE}")
    return {name.upper(): path for folder in folders for name, path in files_by_name(root, folder, stem=True).items()}


def _boxes(rows: pd.DataFrame, size: pd.Series, notes: list[str]) -> pd.DataFrame:
    edge = size / SPACING
    x, y = (pd.to_numeric(rows[name], errors="coerce") for name in "xy")
    boxes = pd.DataFrame(
        {"image_id": rows["name"], "finding": FINDING, "x": x - edge / 2, "y": y - edge / 2, "w": edge, "h": edge}
    )
    nodules = boxes[rows["name"].str.startswith("JPCLN")]
    known = nodules.dropna()
    if len(known) < len(nodules):
        notes.append(f"{len(nodules) - len(known)} nodules have no published place or size: without a box")
    return known.reset_index(drop=True)


def _masks(root: Path, folder: str | None, image_ids: pd.Series) -> pd.DataFrame:
    home = root / str(folder or "scratch")
    if folder and not home.is_dir():
        raise CxrError(f"{home}: no such folder; name the folder of SCR's masks, below the root, with --masks")
    files: dict[str, dict[str, str]] = {kind: {} for kind in _MASKS}
    for path in sorted(home.glob("**/*.*")):
        kind = re.sub(r"[\s_-]+", " ", path.parent.name).lower()
        if kind in files:
            files[kind][path.stem.upper()] = path.relative_to(root).as_posix()
    parts = []
    for kind, finding in _MASKS.items():
        drawn = image_ids[image_ids.isin(files[kind])]
        parts.append(mask_rows(drawn, finding, paths=[files[kind][image_id] for image_id in drawn]))
    filled = [part for part in parts if len(part)]
    if folder and not filled:
        raise CxrError(f"{home}: no masks of these images; there must be folders 'left lung', 'right lung' and so on")
    return pd.concat(filled, ignore_index=True) if filled else mask_rows([], FINDING)
