"""MIMIC-CXR-JPG in the layout of PhysioNet."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cxrmonai.data.sources import load_source
from cxrmonai.data.sources.chexpert import FINDINGS
from cxrmonai.errors import CxrError

METADATA = """\
dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,\
ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning
02aa804e-aa,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014,CHEST (PA AND LAT),postero-anterior,Erect
174413ec-bb,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531,CHEST (PA AND LAT),lateral,Erect
2a2277a9-cc,10000032,53189527,CHEST (PA AND LAT),LL,3056,2544,21800626,165500.312,CHEST (PA AND LAT),lateral,Erect
e084de3b-dd,11000011,56699142,CHEST (PORTABLE AP),,2539,3050,21510101,33000.0,,antero-posterior,
68b5c4b1-ee,11000011,56699142,CHEST (PORTABLE AP),AP,2539,3050,21510101,33000.0,,,
fffabebf-ff,12000022,57000000,,AP LLD,2539,3050,21990101,33000.0,,,
"""
ALPHABETIC = sorted(FINDINGS)
IMAGES = [
    "p10/p10000032/s50414267/02aa804e-aa", "p10/p10000032/s50414267/174413ec-bb", "p10/p10000032/s53189527/2a2277a9-cc",
    "p11/p11000011/s56699142/e084de3b-dd", "p11/p11000011/s56699142/68b5c4b1-ee", "p12/p12000022/s57000000/fffabebf-ff",
]  # fmt: skip
SPLIT = """\
dicom_id,study_id,subject_id,split
174413ec-bb,50414267,10000032,train
02aa804e-aa,50414267,10000032,train
2a2277a9-cc,53189527,10000032,train
e084de3b-dd,56699142,11000011,validate
68b5c4b1-ee,56699142,11000011,validate
fffabebf-ff,57000000,12000022,test
"""


def label_table(rows, columns=ALPHABETIC, subject=True):
    """Rows are {(subject, study): {finding: text}}."""
    lines = [",".join([*(["subject_id"] if subject else []), "study_id", *columns])]
    for (patient, study), found in rows.items():
        cells = [found.get(name, "") for name in columns]
        lines.append(",".join([*([patient] if subject else []), study, *cells]))
    return "\n".join(lines) + "\n"


CHEXPERT = label_table(
    {
        ("11000011", "56699142"): {"Edema": "-1.0", "Pneumonia": "1.0", "Support Devices": "1.0"},
        ("10000032", "50414267"): {"No Finding": "1.0"},
        ("12000022", "57000000"): {"Pleural Effusion": "0.0"},
    }
)
NEGBIO = CHEXPERT.replace("-1.0", "1.0")
PATIENTS = """\
subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
10000032,F,52,2180,2014 - 2016,2180-09-09
11000011,M,60,2148,2014 - 2016,
"""


@pytest.fixture
def mimic(tmp_path):
    """`make(packed, suffix, folder, **tables)` lays out a folder as published; a table that is None is absent."""

    def make(packed=True, suffix=".jpg", folder="files", extra=None, **changed):
        tables = {"metadata": METADATA, "split": SPLIT, "chexpert": CHEXPERT, "negbio": NEGBIO} | changed
        written = {f"mimic-cxr-2.0.0-{kind}.csv": text for kind, text in tables.items() if text is not None}
        for name, text in written.items():
            if packed:
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                (tmp_path / name).write_text(text)
        for name, text in (extra or {}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in IMAGES:
            path = tmp_path / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


@pytest.mark.parametrize("packed", [True, False])
def test_as_published(mimic, packed):
    found = load_source("mimic", mimic(packed))
    table = found.table.set_index("image_id")
    assert found.class_names == list(FINDINGS)
    assert table["image"].tolist() == [f"files/{name}.jpg" for name in IMAGES]
    assert table["patient_id"].tolist() == ["10000032"] * 3 + ["11000011"] * 2 + ["12000022"]
    assert table["study_id"].tolist() == ["50414267"] * 2 + ["53189527"] + ["56699142"] * 2 + ["57000000"]
    assert table["view"].tolist() == ["PA", "LATERAL", "LATERAL", "AP", "AP", "AP LLD"]
    assert table["split"].tolist() == ["train"] * 3 + ["val"] * 2 + ["test"]
    assert table["age"].isna().all()
    assert (table["sex"] == "").all()
    assert table["No Finding"].dropna().to_dict() == {"02aa804e-aa": 1, "174413ec-bb": 1}
    assert table["Edema"].dropna().to_dict() == {"e084de3b-dd": -1, "68b5c4b1-ee": -1}
    assert table["Pleural Effusion"].dropna().to_dict() == {"fffabebf-ff": 0}
    assert table.loc["2a2277a9-cc", list(FINDINGS)].isna().all()
    assert found.notes == [
        "1 images of 1 studies are not in mimic-cxr-2.0.0-chexpert.csv" + (".gz" if packed else "")
        + ": their labels are unknown"
    ]  # fmt: skip


def test_negbio(mimic):
    found = load_source("mimic", mimic(), labels="negbio")
    assert (found.table["Edema"] == 1).sum() == 2
    assert any("negbio" in note for note in found.notes)


def test_splits_are_drawn_where_none_is_published(mimic):
    found = load_source("mimic", mimic(split=None))
    assert found.table.groupby("patient_id")["split"].nunique().tolist() == [1, 1, 1]
    assert set(found.table["split"]) == {"train", "val", "test"}
    assert any("drawn by patient" in note for note in found.notes)


@pytest.mark.parametrize("name", ["patients.csv", "hosp/patients.csv"])
def test_age_and_sex_from_mimic_iv(mimic, name):
    found = load_source("mimic", mimic(extra={name: PATIENTS}))
    np.testing.assert_array_equal(found.table["age"], [52, 52, 52, 63, 63, np.nan])
    assert found.table["sex"].tolist() == ["F", "F", "F", "M", "M", ""]
    assert "1 images are of patients not in patients.csv: age and sex unknown" in found.notes


def test_radiologist_labels_of_the_test_set(mimic):
    columns = ["Airspace Opacity" if name == "Lung Opacity" else name for name in FINDINGS]
    read = label_table({("", "57000000"): {"Airspace Opacity": "1.0", "Edema": "-1.0"}}, columns, subject=False)
    root = mimic(extra={"mimic-cxr-2.1.0-test-set-labeled.csv": read})
    before = load_source("mimic", root).table.iloc[5]
    assert before["Pleural Effusion"] == 0
    found = load_source("mimic", root, radiologist_test=True)
    row = found.table.iloc[5]
    assert {name: row[name] for name in FINDINGS if row[name] == row[name]} == {"Lung Opacity": 1, "Edema": -1}
    assert found.table.iloc[4]["Pneumonia"] == 1
    assert "1 images have a radiologist's labels" in found.notes
    (root / "mimic-cxr-2.1.0-test-set-labeled.csv").unlink()
    with pytest.raises(CxrError, match=r"test-set-labeled\.csv; it is published at https://physionet"):
        load_source("mimic", root, radiologist_test=True)


def test_copies_in_another_folder(mimic):
    root = mimic(folder="small", suffix=".png")
    with pytest.raises(CxrError, match="files: no such folder; unpack the images as published"):
        load_source("mimic", root)
    (root / "small" / f"{IMAGES[1]}.png").unlink()
    found = load_source("mimic", root, images="small")
    assert found.table["image"].tolist() == [f"small/{name}.png" for k, name in enumerate(IMAGES) if k != 1]
    assert "1 of 6 rows of mimic-cxr-2.0.0-metadata.csv.gz have no file here: left out" in found.notes


def test_ages_that_cannot_be(mimic):
    found = load_source("mimic", mimic(extra={"patients.csv": PATIENTS.replace("60,2148", "2,2190")}))
    assert found.table["age"].isna().sum() == 3


def test_faults(mimic):
    root = mimic(packed=False)
    with pytest.raises(CxrError, match="--labels chexbert: must be chexpert or negbio"):
        load_source("mimic", root, labels="chexbert")
    doubled = CHEXPERT + CHEXPERT.splitlines()[1] + "\n"
    for kind, text, message in (
        ("chexpert", doubled, r"chexpert\.csv: a study has several rows"),
        ("chexpert", CHEXPERT.replace("Edema", "Oedema"), r"chexpert\.csv: no column 'Edema'"),
        ("chexpert", CHEXPERT.replace("-1.0", "3"), "column 'Edema' holds '3'"),
        ("split", SPLIT + SPLIT.splitlines()[1], r"split\.csv: an image has several rows"),
        ("split", SPLIT.replace("validate", "holdout"), "the split column holds 'holdout'"),
        ("metadata", METADATA.replace("ViewPosition", "View"), r"metadata\.csv: no column 'ViewPosition'"),
        ("metadata", METADATA.replace("-", "_"), r"metadata\.csv: none of its 6 images is here"),
    ):
        with pytest.raises(CxrError, match=message):
            load_source("mimic", mimic(packed=False, **{kind: text}))
    mimic(packed=False)
    (root / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    with pytest.raises(CxrError, match=r"no mimic-cxr-2\.\*-chexpert\.csv\.gz or .* published at https://physionet"):
        load_source("mimic", root)
