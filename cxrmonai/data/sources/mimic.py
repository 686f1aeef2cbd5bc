"""MIMIC-CXR-JPG as published on PhysioNet (Johnson et al., 2019), releases 2.0.0 and 2.1.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.chexpert import FINDINGS
from cxrmonai.data.sources.tables import (
    files_by_name,
    images_folder,
    keep_present,
    need,
    read_csv,
    require_columns,
    with_splits,
)
from cxrmonai.data.table import make_table, parse_labels, parse_sex, parse_split
from cxrmonai.errors import CxrError

ABOUT = "MIMIC-CXR-JPG of PhysioNet: 377,110 radiographs of 227,827 studies, 14 findings read off the reports"
NEEDS = (
    "mimic-cxr-2.0.0-metadata.csv.gz (or unpacked, as all of them)",
    "mimic-cxr-2.0.0-chexpert.csv.gz, or mimic-cxr-2.0.0-negbio.csv.gz with --labels negbio",
    "mimic-cxr-2.0.0-split.csv.gz, for the published split (optional)",
    "mimic-cxr-2.1.0-test-set-labeled.csv, for a radiologist's labels of test studies (optional)",
    "patients.csv.gz or hosp/patients.csv.gz of MIMIC-IV, for age and sex (optional)",
    "files/p10/p10000032/s50414267/….jpg, or copies of the same names, see --images",
)
WHERE = "https://physionet.org/content/mimic-cxr-jpg/"
_VIEWS = {"LL": "LATERAL", "RL": "LATERAL", "XTABLE LATERAL": "LATERAL"}
_VIEW_CODES = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL", "left lateral": "LATERAL"}
_RADIOLOGIST = {"Airspace Opacity": "Lung Opacity", "No Findings": "No Finding"}


def load(
    root: Path,
    labels: str = "chexpert",
    radiologist_test: bool = False,
    images: str = "files",
    seed: int = 0,
) -> Collection:
    """Reads the published tables.

    Labels belong to a study and go to each of its images; those of studies that the label table lacks are unknown. The
    published split is used, or all three splits are drawn where its file is absent. Left and cross-table laterals (LL,
    XTABLE LATERAL) are `LATERAL`; where ViewPosition is blank, the code of the view stands in. MIMIC-CXR has neither
    age nor sex; with MIMIC-IV's table of patients the age is anchor_age plus the years from anchor_year to the shifted
    date of the study. MIMIC-IV gives everyone over 89 the anchor age 91.

    Args:
        root: folder with the tables.
        labels: chexpert or negbio, the software that read the findings off the reports.
        radiologist_test: replace the labels of the test studies that a radiologist labelled
            (`mimic-cxr-2.1.0-test-set-labeled.csv`) by those.
        images: folder below the root that holds the images; copies of another size or type keep the file's stem.
        seed: of the split, where none is published.

    Returns:
        The collection; image ids are the dicom ids. Rows whose file is not here are left out and counted in a note.

    Raises:
        CxrError: a file is missing or is not as published, or an option has a value that is not known.
    """
    if labels not in ("chexpert", "negbio"):
        raise CxrError(f"--labels {labels}: must be chexpert or negbio")
    folder = images_folder(root, images, where=WHERE)
    file = _need(root, "metadata")
    rows = read_csv(file)
    require_columns(rows, ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"], file)
    files = files_by_name(root, folder, stem=True)
    notes: list[str] = []
    rows = keep_present(rows, rows["dicom_id"].isin(files), file, notes)
    age, sex = _patients(root, rows, notes)
    columns = {
        "image": rows["dicom_id"].map(files),
        "image_id": rows["dicom_id"],
        "patient_id": rows["subject_id"],
        "study_id": rows["study_id"],
        "view": _view(rows),
        "age": age,
        "sex": sex,
    }
    table = make_table(columns, _labels(root, labels, bool(radiologist_test), rows["study_id"], notes))
    split = _split(root, rows["dicom_id"])
    if split is not None:
        table["split"] = split
    table = with_splits(table, seed, split is not None, notes)
    return Collection("mimic", root, table, list(FINDINGS), notes=notes)


def _patterns(kind: str) -> list[str]:
    return [f"mimic-cxr-2.*-{kind}.csv.gz", f"mimic-cxr-2.*-{kind}.csv"]


def _need(root: Path, kind: str) -> Path:
    return need(root, _patterns(kind), WHERE)


def _view(rows: pd.DataFrame) -> pd.Series:
    view = rows["ViewPosition"].str.strip().str.upper().replace(_VIEWS)
    if "ViewCodeSequence_CodeMeaning" in rows:
        coded = rows["ViewCodeSequence_CodeMeaning"].str.strip().str.lower().map(_VIEW_CODES).fillna("")
        view = view.where(view != "", coded)
    return view


def _by_study(file: Path, columns: dict[str, str]) -> pd.DataFrame:
    """The 14 findings of a label table by study."""
    table = read_csv(file)
    table = table.rename(columns={old: new for old, new in columns.items() if new not in table})
    require_columns(table, ["study_id", *FINDINGS], file)
    if table["study_id"].duplicated().any():
        raise CxrError(f"{file}: a study has several rows; restore the file as published")
    return parse_labels(table, FINDINGS).set_index(table["study_id"])


def _labels(root: Path, labels: str, radiologist: bool, studies: pd.Series, notes: list[str]) -> pd.DataFrame:
    file = _need(root, labels)
    table = _by_study(file, {})
    unlabelled = ~studies.isin(table.index)
    if unlabelled.any():
        notes.append(
            f"{int(unlabelled.sum())} images of {studies[unlabelled].nunique()} studies are not in {file.name}: their "
            "labels are unknown"
        )
    if radiologist:
        read = _by_study(_need(root, "test-set-labeled"), _RADIOLOGIST)
        table = pd.concat([table[~table.index.isin(read.index)], read])
        notes.append(f"{int(studies.isin(read.index).sum())} images have a radiologist's labels")
    return table.reindex(studies).reset_index(drop=True)


def _split(root: Path, dicom_ids: pd.Series) -> np.ndarray | None:
    if not any(found for pattern in _patterns("split") for found in root.glob(pattern)):
        return None
    file = _need(root, "split")
    table = read_csv(file)
    require_columns(table, ["dicom_id", "split"], file)
    if table["dicom_id"].duplicated().any():
        raise CxrError(f"{file}: an image has several rows; restore the file as published")
    return parse_split(dicom_ids.map(table.set_index("dicom_id")["split"]))


def _patients(root: Path, rows: pd.DataFrame, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Age in years and sex of each row."""
    found = [path for pattern in ("patients.csv*", "hosp/patients.csv*") for path in sorted(root.glob(pattern))]
    if not found:
        return np.full(len(rows), np.nan), np.full(len(rows), "", dtype=object)
    table = read_csv(found[0])
    require_columns(table, ["subject_id", "gender", "anchor_age", "anchor_year"], found[0])
    table = table.drop_duplicates("subject_id").set_index("subject_id")
    unknown = ~rows["subject_id"].isin(table.index)
    if unknown.any():
        notes.append(f"{int(unknown.sum())} images are of patients not in {found[0].name}: age and sex unknown")
    anchor = table[["anchor_age", "anchor_year"]].apply(pd.to_numeric, errors="coerce").reindex(rows["subject_id"])
    year = pd.to_numeric(rows["StudyDate"].str[:4], errors="coerce").to_numpy(float)
    age = anchor["anchor_age"].to_numpy(float) + year - anchor["anchor_year"].to_numpy(float)
    age[~((age >= 0) & (age <= 120))] = np.nan
    return age, parse_sex(rows["subject_id"].map(table["gender"]))
