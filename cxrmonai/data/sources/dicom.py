"""A folder of DICOM files, as a hospital exports them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrmonai.data.reading import READERS, id_from_path
from cxrmonai.data.reading.dicom_header import has_magic
from cxrmonai.data.reading.dicom_scan import REASON, VIEW_MEANING, read_headers
from cxrmonai.data.reading.lookup import DICOM_INDEX, DICOM_SUFFIXES, suffix_of
from cxrmonai.data.sources.base import SKIPPED_COLUMNS, Collection
from cxrmonai.data.sources.tables import kept_columns, named_table, read_csv, require_columns, with_splits
from cxrmonai.data.table import make_table, name_list, parse_age, parse_labels, parse_sex, parse_split
from cxrmonai.errors import CxrError
from cxrmonai.processes import available_cores

ABOUT = "a folder of DICOM files with all below it; labels from a table, ids as pseudonyms"
NEEDS = (
    "DICOM files of any name, anywhere below the root",
    "a table of labels, named with --labels (optional)",
)
WHERE = ""

RADIOGRAPHS = ("CR", "DX", "RG", "DR")
RADIOGRAPH_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
)
LABEL_KEYS = ("SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "file")
FALLBACK_COLUMN = "report_id"
GRADE = "edema_severity"  # of `label`: 0 to 3, no finding
KNOWN_VIEWS = {
    "LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL", "LLAT": "LATERAL", "RLAT": "LATERAL",
    "postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL", "left lateral": "LATERAL",
    "right lateral": "LATERAL", "frontal": "FRONTAL",
}  # fmt: skip
CHEST = ("CHEST", "THORAX", "LUNG")
DAYS_OF_YEAR = 365.25


def load(
    root: Path,
    labels: str | None = None,
    labels_key: str = "StudyInstanceUID",
    labels_column: str | None = None,
    class_columns: str | Sequence[str] | None = None,
    split_column: str | None = None,
    keep_columns: str | Sequence[str] | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Collection:
    """Reads the headers of every DICOM file below the folder.

    The store gets pseudonyms in place of the ids and no file names. Objects that are no radiograph of one frame are
    skipped with a reason.

    Args:
        root: the folder.
        labels: CSV file of labels, as a path from here or below the root.
        labels_key: what joins it to the images: SOPInstanceUID, StudyInstanceUID, AccessionNumber, PatientID, or file
            (the name of the file without its suffix).
        labels_column: its column of these keys; by default the one that is called as the key, or else report_id.
        class_columns: its findings, as `A,B,C`; by default all other columns but a grade edema_severity.
        split_column: its column of train, val, test; drawn by patient without it.
        keep_columns: its further columns to keep as they are; by default edema_severity, where `label` wrote it.
        seed: of the split.
        workers: processes that read headers; as many as there are cores by default.

    Returns:
        The collection, private.

    Raises:
        CxrError: there is no radiograph, or the table of labels does not fit.
    """
    if labels is None and (labels_column or class_columns or split_column or keep_columns):
        raise CxrError(
            "--labels_column, --class_columns, --split_column and --keep_columns are of the table named with --labels"
        )
    if labels_key not in LABEL_KEYS:
        raise CxrError(f"--labels_key {labels_key}: must be one of {', '.join(LABEL_KEYS)}")
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise CxrError(f"--workers {workers}: must be 0 or more")
    notes: list[str] = []
    headers = _headers(root, _dicom_files(root, notes), available_cores() if workers is None else workers)
    images, skipped = _radiographs(root, headers)
    _note_oddities(images, notes)
    findings = split = None
    kept: dict[str, pd.Series] = {}
    if labels is not None:
        file, named = named_table(root, labels), name_list(class_columns)
        rows = _matched(images, file, labels_key, labels_column, [*named, *name_list(split_column)], notes)
        split = parse_split(rows.pop(split_column)) if split_column else None
        graded = GRADE in rows and GRADE not in named
        kept = kept_columns(rows, name_list(keep_columns) or ([GRADE] if graded else []), file)
        findings = parse_labels(rows, named or [name for name in rows if name not in kept])
    table = make_table({**_columns(images), **kept}, findings)
    if split is not None:
        table["split"] = split
    table = with_splits(table, seed, split is not None, notes)
    classes = [] if findings is None else list(findings.columns)
    return Collection("dicom", root, table, classes, notes=notes, skipped=skipped, private=True)


def _dicom_files(root: Path, notes: list[str]) -> list[str]:
    """Paths below the root, sorted."""
    found, others = [], 0
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root)
        for name in names:
            path = below / name
            hidden = any(part.startswith(".") for part in path.parts)
            if not hidden and _is_dicom(root / path):
                found.append(path.as_posix())
            else:
                others += 1
    if not found:
        raise CxrError(f"{root}: no DICOM file below this folder")
    if others:
        notes.append(f"{others} files are not DICOM, or hidden, or a DICOMDIR: ignored")
    return sorted(found)


def _is_dicom(path: Path) -> bool:
    suffix = suffix_of(path.name)
    if suffix in DICOM_SUFFIXES:
        return True
    # A file is read as what its suffix says, so that DICOM under the name of another type would not be.
    other = suffix in READERS and suffix != ".img"
    return not other and path.name.upper() != DICOM_INDEX and has_magic(path)


def _headers(root: Path, paths: list[str], workers: int) -> pd.DataFrame:
    texts = read_headers(root, paths, workers)
    return pd.DataFrame({"image": paths, **texts}, dtype=object)


def _radiographs(root: Path, headers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The radiographs, numbered anew, and the other files with the reason."""
    printable = headers["image"].map(lambda path: path.encode("utf-8", "backslashreplace").decode())
    modality = headers["Modality"].str.upper()
    reason = headers[REASON].where(printable == headers["image"], "the name is not in UTF-8; rename the file")
    other = (reason == "") & (modality != "") & ~modality.isin(RADIOGRAPHS)
    reason[other] = "modality " + modality[other] + ", no radiograph"
    unknown = (reason == "") & (modality == "") & ~headers["SOPClassUID"].isin(RADIOGRAPH_CLASSES)
    reason[unknown] = "no modality, and an object class other than that of radiographs"
    left = headers["SOPInstanceUID"].where((reason == "") & (headers["SOPInstanceUID"] != ""))
    reason[left.duplicated() & left.notna()] = "the same SOPInstanceUID as an earlier file"
    skipped = pd.DataFrame({"image": printable, "reason": reason})[reason != ""].reset_index(drop=True)
    if len(skipped) == len(headers):
        image, why = skipped.iloc[0]
        raise CxrError(f"{root}: none of the {len(headers)} DICOM files is a radiograph; the first, {image}: {why}")
    return headers[reason == ""].reset_index(drop=True), skipped[list(SKIPPED_COLUMNS)]


def _note_oddities(images: pd.DataFrame, notes: list[str]) -> None:
    nobody = int((images["PatientID"] == "").sum())
    if nobody:
        notes.append(f"{nobody} images have no PatientID: each study counts as its own patient")
    raw = int((images["PresentationIntentType"].str.upper() == "FOR PROCESSING").sum())
    if raw:
        notes.append(f"{raw} images are raw (FOR PROCESSING); they look unlike those for presentation")
    part = images["BodyPartExamined"].str.upper()
    elsewhere = int(((part != "") & ~part.str.contains("|".join(CHEST))).sum())
    if elsewhere:
        notes.append(f"{elsewhere} images name another body part than the chest: kept, see the column body_part")


def _columns(images: pd.DataFrame) -> dict[str, pd.Series | np.ndarray]:
    unnamed = images["SOPInstanceUID"] == ""
    issuer, patient, study = images["IssuerOfPatientID"], images["PatientID"], images["StudyInstanceUID"]
    named = patient.where((patient == "") | (issuer == ""), issuer + ":" + patient)
    laterality = images["ImageLaterality"].where(images["ImageLaterality"] != "", images["Laterality"])
    return {
        "image": images["image"],
        "image_id": images["SOPInstanceUID"].where(~unnamed, "file:" + images["image"]),
        "patient_id": named.where((named != "") | (study == ""), "study:" + study),
        "study_id": study,
        "view": _views(images),
        "age": _ages(images),
        "sex": parse_sex(images["PatientSex"]),
        "laterality": laterality.str.upper(),
        "modality": images["Modality"].str.upper(),
        "body_part": images["BodyPartExamined"].str.upper(),
        "manufacturer": images["Manufacturer"],
    }


def _views(images: pd.DataFrame) -> pd.Series:
    position = images["ViewPosition"].str.upper()
    meaning = images[VIEW_MEANING].map(lambda text: KNOWN_VIEWS.get(text, ""))
    return position.map(lambda text: KNOWN_VIEWS.get(text, text)).where(position != "", meaning)


def _ages(images: pd.DataFrame) -> np.ndarray:
    stated = parse_age(images["PatientAge"])
    born, seen = (
        pd.to_datetime(images[name].str[:8], format="%Y%m%d", errors="coerce")
        for name in ("PatientBirthDate", "StudyDate")
    )
    years = ((seen - born).dt.days / DAYS_OF_YEAR).to_numpy(dtype=float)
    return np.where(np.isnan(stated) & (years >= 0) & (years <= 120), years, stated)


def _matched(
    images: pd.DataFrame, file: Path, key: str, column: str | None, others: list[str], notes: list[str]
) -> pd.DataFrame:
    """The row of the table for each image, without its key; blank where there is none."""
    rows = read_csv(file)
    if column is None:
        column = key if key in rows or FALLBACK_COLUMN not in rows else FALLBACK_COLUMN
    require_columns(rows, [column, *others], file)
    rows[column] = rows[column].str.strip()
    repeated = int(rows[column][rows[column] != ""].duplicated().sum())
    if repeated:
        raise CxrError(
            f"{file}: {repeated} keys of column '{column}' stand in more than one row; leave one row of each"
        )
    keys = images[key] if key != "file" else images["image"].map(lambda path: id_from_path(PurePosixPath(path).name))
    if key == "file" and keys.duplicated().any():
        raise CxrError(f"{file}: several DICOM files have one name in different folders; choose another --labels_key")
    known = set(keys) - {""}
    lost = int((~rows[column].isin(known)).sum())
    if lost == len(rows):
        raise CxrError(
            f"{file}: none of the {len(rows)} rows fits an image by {key} in column '{column}'; name what joins them "
            "with --labels_key and --labels_column"
        )
    if lost:
        notes.append(f"{lost} of {len(rows)} rows of {file.name} have no image here: left out")
    found = rows[rows[column] != ""].set_index(column).reindex(keys)
    bare = int((~keys.isin(set(rows[column]) - {""})).sum())
    if bare:
        notes.append(f"{bare} of {len(images)} images have no row in {file.name}: their findings are unknown")
    return found.fillna("").reset_index(drop=True)
