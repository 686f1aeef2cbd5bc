"""PadChest as BIMCV publishes it."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.sources import load_source
from cxrmonai.data.sources.padchest import parse_list
from cxrmonai.errors import CxrError

COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Report", "MethodLabel", "Labels",
)  # fmt: skip
# Image, folder, date, study, patient, birth, sex, projection, method, labels.
ROWS = [
    ("111_00-1.png", "0", "20140915", "s1", "p1", "1930.0", "F", "PA", "Physician", "['normal']"),
    ("112_00-2.png", "0", "20140915", "s1", "p1", "1930.0", "F", "L", "Physician", "['normal', 'unchanged']"),
    ("113_00-3.png", "54", "20150102", "s2", "p2", "1999.0", "M", "AP_horizontal", "RNN_model",
     "['pleural effusion', ' pneumonia', 'pneumonia']"),
    ("114_00-4.png", "54", "20150103", "s3", "p3", "", "O", "AP", "RNN_model", "['NSG tube', '', 'unchanged']"),
    ("115_00-5.png", "1", "", "s4", "p4", "1960", "None", "COSTAL", "Physician", "['exclude']"),
    ("116_00-6.png", "1", "20150103", "s5", "p5", "1960", "M", "EXCLUDE", "Physician", ""),
    ("117_00-7.png", "1", "20150103", "s6", "p6", "1960", "M", "PA", "Physician",
     "['pneumonia', 'suboptimal study']"),
]  # fmt: skip
NAME = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def published(rows=ROWS):
    table = pd.DataFrame(columns=list(COLUMNS), index=range(len(rows)))
    names = ["ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"]
    for name, values in zip([*names, "Projection", "MethodLabel", "Labels"], zip(*rows, strict=True), strict=True):
        table[name] = values
    table[""] = range(len(rows))
    table["Report"] = "sin hallazgo , \n patolog"
    return table.to_csv(index=False)


@pytest.fixture
def padchest(tmp_path):
    """`make(rows, folders, packed)` lays out a root, images in `0/`, `1/`, … or flat."""

    def make(rows=ROWS, folders=True, packed=False, below="", suffix=".png"):
        if packed:
            (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(published(rows).encode()))
        else:
            (tmp_path / NAME).write_text(published(rows))
        for row in ROWS:
            place = tmp_path / below / (row[1] if folders else "") / row[0].replace(".png", suffix)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        return tmp_path

    return make


@pytest.mark.parametrize("packed", [True, False])
def test_as_published(padchest, packed):
    found = load_source("padchest", padchest(packed=packed), min_images=1)
    table = found.table
    assert found.class_names == ["NSG tube", "normal", "pleural effusion", "pneumonia"]
    assert table["image"].tolist() == [f"{row[1]}/{row[0]}" for row in ROWS]
    assert table["image_id"].tolist() == [row[0][:-4] for row in ROWS]
    assert table["patient_id"].tolist() == ["p1", "p1", "p2", "p3", "p4", "p5", "p6"]
    assert table["study_id"].tolist() == ["s1", "s1", "s2", "s3", "s4", "s5", "s6"]
    assert table["view"].tolist() == ["PA", "LATERAL", "AP", "AP", "COSTAL", "EXCLUDE", "PA"]
    assert table["projection"].tolist() == [row[7] for row in ROWS]
    assert table["label_method"].tolist() == [row[8] for row in ROWS]
    assert table["sex"].tolist() == ["F", "F", "M", "", "", "M", "M"]
    np.testing.assert_array_equal(table["age"], [84, 84, 16, np.nan, np.nan, 55, 55])
    expected = {
        "NSG tube": [0, 0, 0, 1, np.nan, np.nan, 0],
        "normal": [1, 1, 0, np.nan, np.nan, np.nan, 0],
        "pleural effusion": [0, 0, 1, np.nan, np.nan, np.nan, 0],
        "pneumonia": [0, 0, 1, np.nan, np.nan, np.nan, 1],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(table[name], values, err_msg=name)
    assert set(table["split"]) == {"train", "val", "test"}
    assert table["split"][0] == table["split"][1]
    assert any(note.startswith("3 images have no labels, or exclude or unchanged") for note in found.notes)
    assert any("drawn by patient" in note for note in found.notes)


def test_findings_by_number_and_by_name(padchest):
    root = padchest()
    assert load_source("padchest", root, min_images=2).class_names == ["normal", "pneumonia"]
    with pytest.raises(CxrError, match="no label is on 50 images or more; lower --min_images"):
        load_source("padchest", root)
    with pytest.raises(CxrError, match="--min_images 0: must be a whole number, 1 or more"):
        load_source("padchest", root, min_images=0)
    for given in ("pneumonia,suboptimal study", ("pneumonia", "suboptimal study")):
        found = load_source("padchest", root, findings=given)
        assert found.class_names == ["pneumonia", "suboptimal study"]
    np.testing.assert_array_equal(found.table["suboptimal study"], [0, 0, 0, np.nan, np.nan, np.nan, 1])
    with pytest.raises(CxrError, match="no image has the label 'Pneumonia'; did you mean pneumonia"):
        load_source("padchest", root, findings="Pneumonia")


def test_findings_are_chosen_from_the_whole_table(padchest):
    root = padchest()
    (root / "0" / ROWS[1][0]).unlink()
    found = load_source("padchest", root, min_images=2)
    assert found.class_names == ["normal", "pneumonia"]
    assert (found.table["normal"] == 1).sum() == 1
    assert f"1 of 7 rows of {NAME} have no file here: left out" in found.notes


def test_flat_folder_of_copies(padchest):
    root = padchest(folders=False, below="small", suffix=".jpg")
    found = load_source("padchest", root, images="small", min_images=1)
    assert found.table["image"].tolist() == [f"small/{row[0][:-4]}.jpg" for row in ROWS]
    with pytest.raises(CxrError, match="large: no such folder; unpack the images as published"):
        load_source("padchest", root, images="large")


def test_a_repeated_row_counts_once(padchest):
    found = load_source("padchest", padchest([*ROWS, ROWS[2]]), min_images=1)
    assert len(found.table) == 7
    assert f"1 rows of {NAME} repeat an image: the first of each is kept" in found.notes


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("", None),
        (" nan ", None),
        ("[]", []),
        ("['normal']", ["normal"]),
        ("['a', \" b  c \", 'a']", ["a", "b c"]),
        ("['', 'nan', nan, 'x']", ["x"]),
        ('["nurse\'s tube"]', ["nurse's tube"]),
    ],
)
def test_lists_of_labels(cell, expected):
    assert parse_list(cell) == expected


@pytest.mark.parametrize(
    "cell", ["normal", "['normal'", "['a' 'b']", "__import__('os')", "['a', [1]]", "[1]", "['a\\'']"]
)
def test_what_is_no_list_of_labels(padchest, cell):
    with pytest.raises(ValueError, match=re.escape(cell)):
        parse_list(cell)
    root = padchest([(*ROWS[0][:-1], cell), *ROWS[1:]])
    with pytest.raises(CxrError, match=r"01\.02\.19\.csv: Labels holds .*, no list of names in quotes"):
        load_source("padchest", root)


def test_without_the_table_or_with_another(padchest):
    root = padchest()
    (root / NAME).write_text(published().replace("MethodLabel", "Method"))
    with pytest.raises(CxrError, match="no column 'MethodLabel'"):
        load_source("padchest", root)
    (root / NAME).unlink()
    with pytest.raises(CxrError, match=r"no PADCHEST_chest_x_ray_images_labels_160K\*\.csv or .* published at https"):
        load_source("padchest", root)
