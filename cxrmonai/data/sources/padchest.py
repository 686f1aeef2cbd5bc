"""PadChest as published by BIMCV (Bustos et al., Medical Image Analysis 2020)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
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
from cxrmonai.data.table import make_table, name_list, parse_sex
from cxrmonai.errors import CxrError

ABOUT = "PadChest of BIMCV: 160,000 radiographs of 67,000 patients in several views, about 190 labels"
NEEDS = (
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, or .csv.gz",
    "the images: 0/ to 54/ as the archives unpack, or all in one folder, see --images",
)
WHERE = "https://bimcv.cipf.es/bimcv-projects/padchest/"
# Of the study or its report, not of what is seen; no findings unless asked for.
NO_FINDINGS = ("exclude", "suboptimal study", "unchanged")
# With these the report does not tell all that is seen.
_SILENT = ("exclude", "unchanged")
_NORMAL = "normal"
_VIEWS = {"L": "LATERAL", "AP_horizontal": "AP"}
_QUOTED = r"'[^'\\]*'|\"[^\"\\]*\""
_LIST = re.compile(rf"\[\s*(?:(?:{_QUOTED}|nan)\s*(?:,\s*|(?=\])))*\]")


def load(
    root: Path,
    findings: str | Sequence[str] | None = None,
    min_images: int = 50,
    images: str | None = None,
    seed: int = 0,
) -> Collection:
    """Reads the published table.

    A finding is present where the labels name it and absent where they do not; it is unknown where there are no labels,
    and where they hold `exclude` or `unchanged` without `normal`, as the report then leaves findings unsaid. `normal`
    is a column like any other. The images are 16-bit PNG. There is no published split.

    Args:
        root: folder with the table.
        findings: published labels to take as findings, as A,B,C; by default all that enough images of the whole table
            have, other than exclude, suboptimal study and unchanged.
        min_images: how many images are enough.
        images: folder below the root that holds the images; by default the whole root is searched.
        seed: of the split.

    Returns:
        The collection. Supine images (`AP_horizontal`) are `AP`, other projections than PA, AP and L as published
        (`COSTAL`, `EXCLUDE`). Extra columns, as published: `projection`, and `label_method` (`Physician` or
        `RNN_model`, whichever read the report). Rows whose file is not here are left out and counted in a note.

    Raises:
        CxrError: a file is missing or is not as published, or a finding is not among the labels.
    """
    if not isinstance(min_images, int) or min_images < 1:
        raise CxrError(f"--min_images {min_images}: must be a whole number, 1 or more")
    folder = images_folder(root, images, where=WHERE)
    pattern = "PADCHEST_chest_x_ray_images_labels_160K*.csv"
    file = need(root, [pattern, f"{pattern}.gz"], WHERE)
    rows = read_csv(file)
    wanted = ["ImageID", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "StudyDate_DICOM", "Projection"]
    require_columns(rows, [*wanted, "MethodLabel", "Labels"], file)
    notes: list[str] = []
    names, has, labelled = _marks(rows["Labels"], file)
    chosen = _choose(names, has, name_list(findings), min_images, file)
    labels = _labels(names, has, labelled, chosen)
    stem = rows["ImageID"].str.rpartition(".")[0].where(lambda text: text != "", rows["ImageID"])
    repeated = stem.duplicated()
    if repeated.any():
        notes.append(f"{int(repeated.sum())} rows of {file.name} repeat an image: the first of each is kept")
    files = files_by_name(root, folder, stem=True)
    rows = pd.concat([rows.assign(stem=stem), labels], axis=1)[~repeated].reset_index(drop=True)
    rows = keep_present(rows, rows["stem"].isin(files), file, notes)
    unknown = rows[chosen].isna().any(axis=1)
    if unknown.any():
        notes.append(
            f"{int(unknown.sum())} images have no labels, or exclude or unchanged among them: what is not named is "
            "unknown there, not absent"
        )
    columns = {
        "image": rows["stem"].map(files),
        "image_id": rows["stem"],
        "patient_id": rows["PatientID"],
        "study_id": rows["StudyID"],
        "view": rows["Projection"].str.strip().replace(_VIEWS),
        "age": _age(rows),
        "sex": parse_sex(rows["PatientSex_DICOM"]),
        "projection": rows["Projection"].str.strip(),
        "label_method": rows["MethodLabel"].str.strip(),
    }
    table = with_splits(make_table(columns, rows[chosen]), seed, False, notes)
    return Collection("padchest", root, table, chosen, notes=notes)


def parse_list(cell: str) -> list[str] | None:
    """Names out of a cell such as `['pleural effusion', ' pneumonia']`, each once, without stray spaces.

    Args:
        cell: text; blank and `nan` count as no list.

    Returns:
        The names, none of them blank or `nan`; None where there is no list.

    Raises:
        ValueError: the cell is something else.
    """
    cell = cell.strip()
    if cell in ("", "nan"):
        return None
    if not _LIST.fullmatch(cell):
        raise ValueError(cell)
    names = (" ".join(quoted[1:-1].split()) for quoted in re.findall(_QUOTED, cell))
    return [name for name in dict.fromkeys(names) if name not in ("", "nan")]


def _marks(cells: pd.Series, file: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All labels, sorted; (N, L) whether a row has each; (N,) whether it has any at all."""
    codes, texts = pd.factorize(cells)
    try:
        lists = [parse_list(text) for text in texts]
    except ValueError as error:
        raise CxrError(
            f"{file}: Labels holds {str(error)[:60]!r}, no list of names in quotes; restore the file as published"
        ) from error
    names = sorted({name for found in lists if found for name in found})
    place = {name: k for k, name in enumerate(names)}
    has = np.zeros((len(lists), len(names)), dtype=bool)
    for row, found in zip(has, lists, strict=True):
        row[[place[name] for name in found or ()]] = True
    return names, has[codes], np.array([bool(found) for found in lists])[codes]


def _choose(names: list[str], has: np.ndarray, asked: list[str], least: int, file: Path) -> list[str]:
    for name in asked:
        if name not in names:
            close = difflib.get_close_matches(name, names, 3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise CxrError(f"{file}: no image has the label '{name}'{hint}")
    counts = dict(zip(names, has.sum(axis=0), strict=True))
    chosen = asked or [name for name in names if counts[name] >= least and name not in NO_FINDINGS]
    if not chosen:
        raise CxrError(f"{file}: no label is on {least} images or more; lower --min_images, or name --findings")
    return chosen


def _labels(names: list[str], has: np.ndarray, labelled: np.ndarray, chosen: list[str]) -> pd.DataFrame:
    def some(wanted: Sequence[str]) -> np.ndarray:
        return has[:, [k for k, name in enumerate(names) if name in wanted]].any(axis=1)

    unsaid = ~labelled | (some(_SILENT) & ~some([_NORMAL]))
    values = has[:, [names.index(name) for name in chosen]].astype(np.float32)
    values[unsaid[:, None] & (values == 0)] = np.nan
    return pd.DataFrame(values, columns=chosen)


def _age(rows: pd.DataFrame) -> np.ndarray:
    """Years from that of birth to that of the study; only the years are published."""
    year = pd.to_numeric(rows["StudyDate_DICOM"].str[:4], errors="coerce")
    age = (year - pd.to_numeric(rows["PatientBirth"], errors="coerce")).to_numpy(float)
    return np.where((age >= 0) & (age <= 120), age, np.nan)
