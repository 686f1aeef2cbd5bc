"""The source `indiana`: reports and images of Open-i in the publisher's layout."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmonai.data.reports.findings import FINDINGS
from cxrmonai.data.sources import load_source
from cxrmonai.errors import CxrError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="INDICATION">Pneumonia?</AbstractText>
<AbstractText Label="FINDINGS">{text}</AbstractText>
</Abstract></Article></MedlineCitation>
<MeSH>{codes}</MeSH>{images}</eCitation>"""
REPORTS = {
    "1": ("Heart size normal. No effusion.", ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
    "103": ("Borderline heart size.", ["Cardiomegaly/borderline", "Opacity/lung/base/left"], ["CXR103_IM-0023-1001"]),
    "104": ("Small effusion.", ["No Indexing"], ["CXR104_IM-0031-0001-0002"]),
    "7": ("Small effusion.", ["Pleural Effusion/left/small"], []),
}
PROJECTIONS = """uid,filename,projection
1,1_IM-0001-3001.dcm.png,Lateral
1,1_IM-0001-4001.dcm.png,Frontal
103,103_IM-0023-1001.dcm.png,Frontal
"""


def report(number):
    text, codes, images = REPORTS[number]
    return XML.format(
        n=number,
        text=text,
        codes="".join(f"<major>{code}</major>" for code in codes),
        images="".join(f'<parentImage id="{name}"><figureId>F1</figureId></parentImage>' for name in images),
    )


@pytest.fixture
def openi(tmp_path):
    """`make(packed, kaggle)` lays out reports and images as one of the publishers does."""

    def make(packed=False, kaggle=False):
        if packed:
            with zipfile.ZipFile(tmp_path / "indiana_reports.zip", "w") as file:
                for number in REPORTS:
                    file.writestr(f"ecgen-radiology/{number}.xml", report(number))
        else:
            (tmp_path / "NLMCXR_reports" / "ecgen-radiology").mkdir(parents=True)
            for number in REPORTS:
                (tmp_path / "NLMCXR_reports" / "ecgen-radiology" / f"{number}.xml").write_text(report(number))
        folder = tmp_path / "images"
        folder.mkdir()
        for _, _, images in REPORTS.values():
            for name in images:
                short = name.removeprefix("CXR").replace("1_1_IM", "1_IM")
                Image.new("L", (8, 8)).save(folder / (f"{short}.dcm.png" if kaggle else f"{name}.png"))
        return tmp_path

    return make


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kaggle", [False, True])
def test_codes_become_findings(openi, packed, kaggle):
    found = load_source("indiana", openi(packed, kaggle))
    table = found.table.set_index("image_id")
    assert found.class_names == list(FINDINGS)
    names = ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR103_IM-0023-1001", "CXR104_IM-0031-0001-0002"]
    assert sorted(table.index) == sorted(names)
    stems = ["1_IM-0001-3001.dcm", "1_IM-0001-4001.dcm", "103_IM-0023-1001.dcm", "104_IM-0031-0001-0002.dcm"]
    files = [f"images/{stem}.png" for stem in (stems if kaggle else names)]
    assert table.loc[names, "image"].tolist() == files
    assert table.loc[names, "study_id"].tolist() == ["CXR1", "CXR1", "CXR103", "CXR104"]
    assert (table["patient_id"] == table["study_id"]).all()
    assert (table["view"] == "").all()
    assert table.loc[names, "No Finding"].tolist()[:3] == [1, 1, 0]
    assert table.loc[names, "Cardiomegaly"].tolist()[:3] == [0, 0, -1]
    assert table.loc[names, "Lung Opacity"].tolist()[:3] == [0, 0, 1]
    assert table.loc[names[3], list(FINDINGS)].isna().all()
    for note in (
        "1 of 4 reports name no image: left out",
        "1 reports were not coded: their findings are unknown",
        "the publisher tells no patients apart: each report counts as its own patient",
    ):
        assert note in found.notes


def test_findings_by_the_labeller(openi):
    root = openi()
    table = load_source("indiana", root, labels="reports").table.set_index("image_id")
    assert table.loc["CXR104_IM-0031-0001-0002", "Pleural Effusion"] == 1
    assert table.loc["CXR103_IM-0023-1001", "Cardiomegaly"] == -1
    np.testing.assert_array_equal(
        table.loc["CXR1_1_IM-0001-3001", ["No Finding", "Cardiomegaly", "Pleural Effusion", "Pneumonia"]].astype(float),
        [1, 0, 0, np.nan],
    )
    with pytest.raises(CxrError, match="--labels codes: must be mesh or reports"):
        load_source("indiana", root, labels="codes")


@pytest.mark.parametrize("kaggle", [False, True])
def test_views_of_kaggle(openi, kaggle):
    root = openi(kaggle=kaggle)
    (root / "indiana_projections.csv").write_text(PROJECTIONS)
    views = load_source("indiana", root).table.set_index("image_id")["view"].to_dict()
    assert views == {
        "CXR1_1_IM-0001-3001": "LATERAL",
        "CXR1_1_IM-0001-4001": "FRONTAL",
        "CXR103_IM-0023-1001": "FRONTAL",
        "CXR104_IM-0031-0001-0002": "",
    }
    (root / "indiana_projections.csv").write_text(PROJECTIONS.replace("Lateral", "Oblique"))
    with pytest.raises(CxrError, match=r"indiana_projections\.csv: column 'projection' holds 'oblique'"):
        load_source("indiana", root)
    (root / "indiana_projections.csv").write_text(PROJECTIONS.replace("filename", "file"))
    with pytest.raises(CxrError, match=r"indiana_projections\.csv: no column 'filename'"):
        load_source("indiana", root)


def test_images_of_a_report_stay_in_one_split(openi):
    root = openi()
    for seed in range(5):
        table = load_source("indiana", root, seed=seed).table
        assert table.groupby("study_id")["split"].nunique().max() == 1
        assert set(table["split"]) <= {"train", "val", "test"}


def test_what_is_missing_or_too_much_is_told(openi):
    root = openi()
    (root / "images" / "CXR103_IM-0023-1001.png").rename(root / "images" / "CXR999_IM-0001-1001.png")
    Image.new("L", (8, 8)).save(root / "images" / "1_IM-0001-3001.dcm.png")
    (root / "NLMCXR_reports" / "ecgen-radiology" / "8.xml").write_text("<eCitation>")
    found = load_source("indiana", root)
    assert len(found.table) == 3
    for note in (
        "1 of 4 rows of ecgen-radiology have no file here: left out",
        "1 images are named in no report: left out",
        "1 images are here twice: the second is left out",
        "1 reports cannot be read: left out",
    ):
        assert note in found.notes
    assert found.skipped["image"].tolist() == ["NLMCXR_reports/ecgen-radiology/8.xml"]
    assert found.skipped["reason"].str.startswith("not readable as XML").all()


def test_without_reports_or_images(openi, tmp_path_factory):
    root = openi()
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(CxrError, match="ecgen-radiology: none of its 4 images is here"):
        load_source("indiana", root)
    (root / "NLMCXR_reports" / "ecgen-radiology" / "9.xml").write_text(report("103"))
    with pytest.raises(CxrError, match=r"ecgen-radiology: two reports name the image CXR103_IM-0023-1001"):
        load_source("indiana", root)
    for path in (root / "NLMCXR_reports" / "ecgen-radiology").iterdir():
        path.write_text("<x")
    with pytest.raises(CxrError, match=r"none of 5 reports can be read; the first, .*/1\.xml: not readable as XML"):
        load_source("indiana", root)
    with pytest.raises(
        CxrError, match=r"no ecgen-radiology folder and no \*reports\*\.zip; they are published at https"
    ):
        load_source("indiana", tmp_path_factory.mktemp("empty"))


def test_real_reports_against_an_independent_count(shared_data, tmp_path):
    (tmp_path / "indiana_reports.zip").symlink_to(shared_data / "indiana_reports.zip")
    (tmp_path / "png").mkdir()
    rows = []
    with zipfile.ZipFile(shared_data / "indiana_reports.zip") as file:
        for name in file.namelist():
            text = file.read(name).decode()
            codes = [part.split("</major>")[0] for part in text.split("<major>")[1:]]
            for part in text.split('<parentImage id="')[1:]:
                rows.append((part.split('"')[0], name[:-4], "|".join(codes)))
                (tmp_path / "png" / f"{rows[-1][0]}.png").touch()
    raw = pd.DataFrame(rows, columns=["image", "report", "codes"])
    found = load_source("indiana", tmp_path)
    table = found.table
    assert len(table) == len(raw) == 758
    assert table["study_id"].nunique() == raw["report"].nunique() == 388
    assert "12 of 400 reports name no image: left out" in found.notes
    counted = raw["codes"].str.contains
    assert (table["Atelectasis"] == 1).sum() == counted("Pulmonary Atelectasis").sum()
    assert (table["Fracture"] == 1).sum() == counted("Fractures, Bone").sum()
    assert (table["Pleural Effusion"] == 1).sum() == counted("Pleural Effusion|Hemopneumothorax").sum()
    assert (table["Edema"] == 1).sum() == counted("Pulmonary Edema|Pulmonary Congestion|Heart Failure").sum()
    assert table["Pneumonia"].isna().sum() == counted("No Indexing").sum()
    sure = counted(r"(?:^|\|)Cardiomegaly(?!/borderline)|Cardiac Shadow/enlarged")
    assert (table["Cardiomegaly"] == 1).sum() == sure.sum()
    assert (table["Cardiomegaly"] == -1).sum() == (counted("Cardiomegaly/borderline") & ~sure).sum()
