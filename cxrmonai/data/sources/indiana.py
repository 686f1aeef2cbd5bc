"""The Indiana University chest X-ray collection of Open-i (Demner-Fushman et al., JAMIA 2016)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.reading import image_files
from cxrmonai.data.reports.files import open_report_files
from cxrmonai.data.reports.findings import FINDINGS
from cxrmonai.data.reports.mesh import labels_of_codes
from cxrmonai.data.reports.openi import OpenIReport, parse_openi
from cxrmonai.data.sources.base import SKIPPED_COLUMNS, Collection
from cxrmonai.data.sources.tables import keep_present, read_csv, require_columns, with_splits
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError

ABOUT = "Indiana University chest X-rays of Open-i: 7,470 frontal and lateral images with reports, 14 findings"
NEEDS = (
    "ecgen-radiology/*.xml as NLMCXR_reports.tgz unpacks, or a *reports*.zip of them, which is read in place",
    "the images as NLMCXR_png.tgz unpacks (CXR1_1_IM-0001-3001.png), or as Kaggle has them (1_IM-0001-4001.dcm.png)",
    "indiana_projections.csv of Kaggle, for frontal and lateral (optional)",
)
WHERE = "https://openi.nlm.nih.gov/faq"
_LABELS = ("mesh", "reports")
_VIEWS = {"frontal": "FRONTAL", "lateral": "LATERAL"}


def load(root: Path, labels: str = "mesh", seed: int = 0) -> Collection:
    """Reads the reports; their text is not kept.

    A report is a study, and, since the publisher tells no patients apart, a patient of its own.

    Args:
        root: folder with the reports and, anywhere below it, the images.
        labels: `mesh` for the codes of human coders (1 and 0, -1 where they coded borderline), or `reports` for what
            the report says by the package's own labeller (1, 0, -1, blank where it does not mention the finding).
        seed: of the split.

    Returns:
        The collection; findings by their CheXpert names. Reports that cannot be read are listed as skipped.

    Raises:
        CxrError: the reports or all of the images are missing, or a file is not as published.
    """
    if labels not in _LABELS:
        raise CxrError(f"--labels {labels}: must be {' or '.join(_LABELS)}")
    place = _reports(root)
    found, skipped = _read(root, place)
    notes: list[str] = []
    if len(skipped):
        notes.append(f"{len(skipped)} reports cannot be read: left out")
    table = _table(root, place, found, labels, notes)
    notes.append("the publisher tells no patients apart: each report counts as its own patient")
    table = with_splits(table, seed, published=False, notes=notes)
    return Collection("indiana", root, table, list(FINDINGS), notes=notes, skipped=skipped)


def _reports(root: Path) -> Path:
    folders = sorted(path for path in root.rglob("ecgen-radiology") if path.is_dir())
    places = folders or sorted(path for path in root.rglob("*.zip") if "reports" in path.name.lower())
    if not places:
        raise CxrError(f"{root}: no ecgen-radiology folder and no *reports*.zip; they are published at {WHERE}")
    return places[0]


def _read(root: Path, place: Path) -> tuple[dict[str, OpenIReport], pd.DataFrame]:
    found: dict[str, OpenIReport] = {}
    skipped = []
    with open_report_files(place) as files:
        for file in files.files:
            try:
                if file.reason:
                    raise CxrError(file.reason)
                found[file.report_id] = parse_openi(files.read(file))
            except CxrError as error:
                skipped.append((f"{place.relative_to(root).as_posix()}/{file.name}", str(error)))
    if not found:
        name, reason = skipped[0]
        raise CxrError(f"{place}: none of {len(skipped)} reports can be read; the first, {name}: {reason}")
    return found, pd.DataFrame(skipped, columns=list(SKIPPED_COLUMNS))


def _table(root: Path, place: Path, found: dict[str, OpenIReport], labels: str, notes: list[str]) -> pd.DataFrame:
    files, views = _images(root, notes), _views(root)
    rows = pd.DataFrame(
        [(name, report_id) for report_id, report in found.items() for name in report.images],
        columns=["image_id", "report_id"],
    )
    without = sum(not report.images for report in found.values())
    if without:
        notes.append(f"{without} of {len(found)} reports name no image: left out")
    rows = rows.drop_duplicates(ignore_index=True)
    twice = rows["image_id"][rows["image_id"].map(_key).duplicated()]
    if len(twice):
        raise CxrError(f"{place}: two reports name the image {twice.iloc[0]}; restore the files as published")
    rows = keep_present(rows, rows["image_id"].map(_key).isin(files), place, notes)
    unnamed = len(files) - len(rows)
    if unnamed:
        notes.append(f"{unnamed} images are named in no report: left out")
    study = "CXR" + rows["report_id"].str.removeprefix("CXR")
    keys = rows["image_id"].map(_key)
    columns = {
        "image": keys.map(files),
        "image_id": rows["image_id"],
        "patient_id": study,
        "study_id": study,
        "view": keys.map(views).fillna(""),
    }
    known = _labels({name: found[name] for name in rows["report_id"].unique()}, labels)
    if labels == "mesh" and (blank := int(known.isna().all(axis=1).sum())):
        notes.append(f"{blank} reports were not coded: their findings are unknown")
    return make_table(columns, known.loc[rows["report_id"]].reset_index(drop=True))


def _labels(found: dict[str, OpenIReport], labels: str) -> pd.DataFrame:
    if labels == "mesh":
        values = [labels_of_codes(report.codes) for report in found.values()]
    else:
        from cxrmonai.data.reports.labeller import Labeller

        labeller = Labeller()
        values = [
            labeller.label_sections(labeller.sections_of_parts(report.sections)).findings for report in found.values()
        ]
    return pd.DataFrame(values, index=list(found), columns=list(FINDINGS)).astype(np.float32)


def _key(name: str) -> str:
    """What Open-i's and Kaggle's names of an image have in common: `CXR1_1_IM-0001-3001`, `1_IM-0001-3001.dcm.png`."""
    return re.sub(r"^(?:CXR)?(\d+)(?:_\d+)?_IM", r"\1_IM", name.removesuffix(".png").removesuffix(".dcm"))


def _images(root: Path, notes: list[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    twice = 0
    for path in image_files(root):
        name = path.relative_to(root).as_posix()
        twice += files.setdefault(_key(path.name), name) != name
    if twice:
        notes.append(f"{twice} images are here twice: the second is left out")
    return files


def _views(root: Path) -> dict[str, str]:
    found = sorted(root.rglob("indiana_projections.csv"))
    if not found:
        return {}
    table = read_csv(found[0])
    require_columns(table, ["filename", "projection"], found[0])
    views = table["projection"].str.strip().str.lower()
    strange = sorted(set(views) - {*_VIEWS, ""})
    if strange:
        raise CxrError(f"{found[0]}: column 'projection' holds {strange[0]!r}; known are Frontal and Lateral")
    return dict(zip(table["filename"].map(_key), views.map(_VIEWS).fillna(""), strict=True))
