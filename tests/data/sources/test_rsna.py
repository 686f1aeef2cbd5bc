"""The RSNA challenge: one row for each box becomes one for each image; headers and the mapping tell the rest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxrmonai.data.sources import SOURCES, load_source
from cxrmonai.errors import CxrError

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
IDS = ["a-1", "b-2", "c-3", "d-4"]
LABELS = """\
patientId,x,y,width,height,Target
a-1,,,,,0
b-2,264.0,152.0,213.0,379.0,1
b-2,562.0,152.0,256.0,453.0,1
c-3,,,,,0
d-4,1,2,3,4.5,1
"""
CLASSES = """\
patientId,class
a-1,No Lung Opacity / Not Normal
b-2,Lung Opacity
b-2,Lung Opacity
c-3,Normal
d-4,Lung Opacity
"""
HEADERS = [("PA", "F", "051"), ("ap ", "M", "62"), ("", "O", "148Y"), ("AP", "", "")]
MAPPING = [
    {"subset_img_id": name, "img_id": image, "orig_labels": ["No Finding"]}
    for name, image in zip(IDS, ["00000013_005.png", "00000013_007.png", "00028974_016.png"], strict=False)
]


def write_dicom(path, view="", sex="", age=""):
    """A file with a header as the challenge writes it, and no pixels."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    header.PatientID, header.ViewPosition, header.PatientSex, header.PatientAge = path.stem, view, sex, age
    pydicom.dcmwrite(path, header, enforce_file_format=True)


@pytest.fixture
def rsna(tmp_path):
    """`make(files)` lays out a folder as published; files override its tables, None leaves one out."""

    def make(**files):
        texts = {"stage_2_train_labels.csv": LABELS, "stage_2_detailed_class_info.csv": CLASSES}
        texts |= {f"{name}.{'json' if 'mappings' in name else 'csv'}": text for name, text in files.items()}
        for name, text in texts.items():
            (tmp_path / name).unlink(missing_ok=True)
            if text is not None:
                (tmp_path / name).write_text(text)
        (tmp_path / "stage_2_train_images").mkdir(exist_ok=True)
        for name, header in zip(IDS, HEADERS, strict=True):
            write_dicom(tmp_path / "stage_2_train_images" / f"{name}.dcm", *header)
        return tmp_path

    return make


def test_as_published(rsna):
    found = load_source("rsna", rsna())
    table = found.table
    assert found.class_names == ["Pneumonia", "Lung Opacity", "Normal"]
    assert table["image"].tolist() == [f"stage_2_train_images/{name}.dcm" for name in IDS]
    assert table["image_id"].tolist() == table["study_id"].tolist() == IDS
    assert table["patient_id"].tolist() == [f"image:{name}" for name in IDS]
    assert any("4 images have no patient id" in note for note in found.notes)
    assert table["view"].tolist() == ["PA", "AP", "", "AP"]
    assert table["sex"].tolist() == ["F", "M", "", ""]
    np.testing.assert_array_equal(table["age"], [51, 62, np.nan, np.nan])
    assert table["Pneumonia"].tolist() == [0, 1, 0, 1]
    assert table["Lung Opacity"].tolist() == [0, 1, 0, 1]
    assert table["Normal"].tolist() == [0, 0, 1, 0]
    assert (table[["original_height", "original_width"]] == 1024).all(axis=None)
    assert found.boxes["image_id"].tolist() == ["b-2", "b-2", "d-4"]
    assert set(found.boxes["finding"]) == {"Pneumonia"}
    assert found.boxes[list("xywh")].to_numpy().tolist() == [
        [264, 152, 213, 379], [562, 152, 256, 453], [1, 2, 3, 4.5]
    ]  # fmt: skip
    assert any("pixel spacing in the DICOM headers" in note for note in found.notes)
    assert (found.table[["spacing_y", "spacing_x"]] == 0).all(axis=None)  # wrong, not merely unknown
    assert SOURCES["rsna"].drawn_from == "nih"


def test_mapping_to_chestxray14_tells_the_patients(rsna):
    found = load_source("rsna", rsna(**{"pneumonia-challenge-dataset-mappings_2018": json.dumps(MAPPING)}))
    assert found.table["patient_id"].tolist() == ["13", "13", "28974", "image:d-4"]
    assert found.table["nih_image"].tolist() == ["00000013_005.png", "00000013_007.png", "00028974_016.png", ""]
    assert found.table["split"][0] == found.table["split"][1]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"img_id": "00000013_005.png"}]'])
def test_mapping_that_is_none(rsna, text):
    with pytest.raises(CxrError, match=r"mappings_2018\.json: not a list of images with subset_img_id and img_id"):
        load_source("rsna", rsna(**{"pneumonia-challenge-dataset-mappings_2018": text}))


def test_without_the_detailed_classes(rsna):
    found = load_source("rsna", rsna(stage_2_detailed_class_info=None))
    assert found.class_names == ["Pneumonia"]
    assert any("no stage_2_detailed_class_info.csv here" in note for note in found.notes)


def test_image_without_a_detailed_class_is_unknown(rsna):
    found = load_source("rsna", rsna(stage_2_detailed_class_info=CLASSES.replace("c-3,Normal\n", "")))
    np.testing.assert_array_equal(found.table["Normal"], [0, 0, np.nan, 0])
    np.testing.assert_array_equal(found.table["Lung Opacity"], [0, 1, np.nan, 1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"stage_2_train_labels": None}, r"no stage_2_train_labels\.csv; it is published at https://www\.kaggle"),
        ({"stage_2_train_labels": "patientId,x\na-1,1\n"}, r"stage_2_train_labels\.csv: no column 'y'"),
        ({"stage_2_train_labels": LABELS.replace("a-1,,,,,0", "a-1,,,,,2")}, "column 'Target' holds something other"),
        ({"stage_2_train_labels": LABELS + "b-2,,,,,0\n"}, "1 images have Target 0 and 1 both"),
        ({"stage_2_train_labels": LABELS.replace("1,2,3,4.5", "1,2,,4.5")}, "Target 1 has no box of four numbers"),
        ({"stage_2_detailed_class_info": CLASSES.replace("c-3,Normal", "c-3,Odd")}, "column 'class' holds 'Odd'"),
        ({"stage_2_detailed_class_info": CLASSES + "c-3,Lung Opacity\n"}, "an image has two classes"),
    ],
)
def test_faults_of_the_tables(rsna, files, message):
    with pytest.raises(CxrError, match=message):
        load_source("rsna", rsna(**files))


def test_conversions_in_another_folder_have_no_header(rsna):
    root = rsna()
    shutil.rmtree(root / "stage_2_train_images")
    with pytest.raises(CxrError, match=r"stage_2_train_images: no such folder; unpack the images .* with --images"):
        load_source("rsna", root)
    (root / "png").mkdir()
    for name in IDS[1:]:
        Image.new("L", (4, 4)).save(root / "png" / f"{name}.png")
    found = load_source("rsna", root, images="png")
    assert found.table["image"].tolist() == [f"png/{name}.png" for name in IDS[1:]]
    assert set(found.table["view"]) == set(found.table["sex"]) == {""}
    assert "1 of 4 rows of stage_2_train_labels.csv have no file here: left out" in found.notes
    assert "3 images are no DICOM files: view, sex and age unknown" in found.notes
    assert not any("pixel spacing" in note for note in found.notes)


def test_header_that_cannot_be_read_is_told_and_shifts_nothing(rsna):
    root = rsna()
    (root / "stage_2_train_images" / "a-1.dcm").write_bytes(b"no header")
    found = load_source("rsna", root)
    assert found.table["view"].tolist() == ["", "AP", "", "AP"]
    assert "1 DICOM headers cannot be read: view, sex and age unknown" in found.notes


def test_published_table_counts(shared_data, tmp_path):
    published = shared_data / "label_tables" / "rsna_stage_2_train_labels.csv"
    shutil.copy(published, tmp_path / "stage_2_train_labels.csv")
    raw = pd.read_csv(published)
    (tmp_path / "stage_2_train_images").mkdir()
    for name in raw["patientId"].unique():
        (tmp_path / "stage_2_train_images" / f"{name}.png").touch()
    found = load_source("rsna", tmp_path)
    target = raw.groupby("patientId")["Target"].max()
    assert len(raw) == 2000
    assert len(found.table) == len(target) == 1683
    assert (found.table["Pneumonia"] == 1).sum() == target.sum() == 540
    assert (found.table["Pneumonia"] == 0).sum() == (target == 0).sum()
    assert not found.table["Pneumonia"].isna().any()
    order = found.table["image_id"]
    np.testing.assert_array_equal(found.table["Pneumonia"], target[order])
    drawn = raw.dropna(subset="x")
    assert len(found.boxes) == len(drawn) == 857
    for mine, theirs in (("x", "x"), ("y", "y"), ("w", "width"), ("h", "height")):
        np.testing.assert_array_equal(found.boxes[mine], drawn[theirs])
    np.testing.assert_array_equal(found.boxes["image_id"], drawn["patientId"])
