"""SIIM-ACR: gaps and lengths down the columns become masks; -1 becomes a mask that is known to be empty."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxrmonai.data.masks import decode_rle
from cxrmonai.data.sources import SOURCES, load_source
from cxrmonai.errors import CxrError

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
IDS = [f"1.2.276.0.7230010.3.1.4.8323329.{k}.1517875160.0" for k in range(4)]
# The first release: blanks before a heading and before -1, several rows for an image, rows twice.
ROWS = f"""\
ImageId, EncodedPixels
{IDS[0]}, -1
{IDS[1]}, 2 3 1021 2
{IDS[1]}, 10240 1
{IDS[2]},-1
{IDS[2]},-1
{IDS[3]}, 1048574 2
"""


def place(root, k, folder="dicom-images-train", patient=None, view="AP", sex="M", age="43"):
    """A file with a header as the challenge writes it, and no pixels."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = IDS[k]
    header.PatientID = f"p{k}" if patient is None else patient
    header.ViewPosition, header.PatientSex, header.PatientAge = view, sex, age
    path = root / folder / f"study{k}" / f"series{k}" / f"{IDS[k]}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)


@pytest.fixture
def siim(tmp_path):
    """`make(text, name)` lays out a folder as published."""

    def make(text=ROWS, name="train-rle.csv"):
        (tmp_path / name).write_text(text)
        for k in range(4):
            place(tmp_path, k)
        return tmp_path

    return make


def masks_of(found, k):
    """The masks of an image, united."""
    rles = found.masks.loc[found.masks["image_id"] == IDS[k], "rle"]
    return np.any([decode_rle(rle) for rle in rles], axis=0) if len(rles) else None


def test_as_published(siim):
    found = load_source("siim", siim())
    table = found.table
    assert found.class_names == ["Pneumothorax"]
    assert table["image"].tolist() == [f"dicom-images-train/study{k}/series{k}/{IDS[k]}.dcm" for k in range(4)]
    assert table["image_id"].tolist() == IDS
    assert table["patient_id"].tolist() == ["p0", "p1", "p2", "p3"]
    assert table["Pneumothorax"].tolist() == [0, 1, 0, 1]
    assert set(table["view"]) == {"AP"}
    assert set(table["sex"]) == {"M"}
    assert set(table["age"]) == {43}
    assert (table[["original_height", "original_width"]] == 1024).all(axis=None)
    assert (found.masks["path"] == "").all()
    assert not masks_of(found, 0).any()
    expected = np.zeros((1024, 1024), bool)
    expected[2:5, 0] = expected[2:4, 1] = True  # 2 out, 3 in, 1021 out, 2 in, down the columns
    expected[0, 10] = True
    np.testing.assert_array_equal(masks_of(found, 1), expected)
    assert np.argwhere(masks_of(found, 3)).tolist() == [[1022, 1023], [1023, 1023]]
    assert any("each DICOM file names a patient of its own" in note for note in found.notes)
    assert SOURCES["siim"].drawn_from == "nih"


def test_second_stage_is_preferred_and_names_the_former_test_images(siim):
    root = siim()
    shutil.rmtree(root / "dicom-images-train" / "study3")
    place(root, 3, "dicom-images-test")
    (root / "stage_2_train.csv").write_text(f"ImageId,EncodedPixels\n{IDS[0]},1 1\n{IDS[3]},-1\n")
    found = load_source("siim", root)
    assert found.table["image_id"].tolist() == [IDS[0], IDS[3]]
    assert found.table["image"][1].startswith("dicom-images-test/")
    assert found.table["Pneumothorax"].tolist() == [1, 0]
    assert "2 images are in no row of stage_2_train.csv: left out" in found.notes


def test_patients_of_several_images_stay_together(siim):
    root = siim()
    place(root, 1, patient="p0")
    found = load_source("siim", root)
    assert found.table["patient_id"].tolist() == ["p0", "p0", "p2", "p3"]
    assert found.table["split"][0] == found.table["split"][1]
    assert not any("patient of its own" in note for note in found.notes)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("1048570 9", "do not fit a mask of 1024×1024"),
        ("5 -1 9 2", "do not fit a mask of 1024×1024"),
        ("5 2 9", "not pairs of a gap and a length"),
        ("5 x", "not whole numbers"),
    ],
)
def test_runs_that_are_none_skip_their_image_only(siim, cell, reason):
    found = load_source("siim", siim(ROWS.replace("10240 1", cell)))
    assert found.table["image_id"].tolist() == [IDS[0], IDS[2], IDS[3]]
    assert IDS[1] not in set(found.masks["image_id"])
    assert found.skipped["image"].tolist() == [f"dicom-images-train/study1/series1/{IDS[1]}.dcm"]
    assert found.skipped["reason"][0].startswith("train-rle.csv: ")
    assert reason in found.skipped["reason"][0]


def test_blank_is_unknown_and_a_mask_counts_more_than_none(siim):
    text = ROWS.replace(f"{IDS[0]}, -1", f"{IDS[0]},").replace(f"{IDS[3]}, 1048574 2", f"{IDS[3]},-1\n{IDS[3]},0 4")
    found = load_source("siim", siim(text))
    np.testing.assert_array_equal(found.table["Pneumothorax"], [np.nan, 1, 0, 1])
    assert masks_of(found, 0) is None
    assert masks_of(found, 3).sum() == 4
    assert "1 images have a mask and '-1' for none: the mask counts" in found.notes


def test_flat_folder_of_png_files(siim):
    root = siim()
    shutil.rmtree(root / "dicom-images-train")
    for folder in ("png", "png_masks"):
        (root / folder).mkdir()
        for k in range(3):
            Image.new("L", (4, 4)).save(root / folder / f"{IDS[k]}.png")
    with pytest.raises(CxrError, match=rf"2 files are called {IDS[0]}; name the images' folder with --images"):
        load_source("siim", root)
    with pytest.raises(CxrError, match="absent: no such folder"):
        load_source("siim", root, images="absent")
    found = load_source("siim", root, images="png")
    assert found.table["image"].tolist() == [f"png/{IDS[k]}.png" for k in range(3)]
    assert found.table["patient_id"].tolist() == [f"image:{IDS[k]}" for k in range(3)]
    assert set(found.table["view"]) == {""}
    assert "1 of 4 rows of train-rle.csv have no file here: left out" in found.notes


def test_without_its_table_or_with_another(siim):
    root = siim(name="other.csv")
    with pytest.raises(
        CxrError, match=r"no stage_2_train\.csv or train-rle\.csv; it is published at https://www\.kagg"
    ):
        load_source("siim", root)
    (root / "train-rle.csv").write_text("ImageId,Pixels\na,-1\n")
    with pytest.raises(CxrError, match=r"train-rle\.csv: no column 'EncodedPixels'"):
        load_source("siim", root)


def test_published_table_counts_and_masks(shared_data, tmp_path):
    published = shared_data / "label_tables" / "siim-pneumothorax-train-rle.csv"
    shutil.copy(published, tmp_path / "train-rle.csv")
    raw = pd.read_csv(published)
    raw.columns = ["name", "cell"]
    for name in raw["name"].unique():
        (tmp_path / f"{name}.png").touch()
    found = load_source("siim", tmp_path)
    drawn = raw[raw["cell"].str.strip() != "-1"]
    assert len(found.table) == raw["name"].nunique() == 300
    assert (found.table["Pneumothorax"] == 1).sum() == drawn["name"].nunique() == 95
    assert (found.table["Pneumothorax"] == 0).sum() == (raw["cell"].str.strip() == "-1").sum() == 205
    assert not found.table["Pneumothorax"].isna().any()
    assert set(found.masks["image_id"]) == set(raw["name"])
    assert len(found.skipped) == 0
    by_name = found.masks.groupby("image_id")["rle"].agg(list)
    foreground = 0
    for name, cells in drawn.groupby("name")["cell"]:
        frame = np.zeros(1024 * 1024, bool)
        for cell in cells:
            place = 0
            gaps_and_lengths = cell.split()
            for gap, length in zip(gaps_and_lengths[::2], gaps_and_lengths[1::2], strict=True):
                place += int(gap)
                frame[place : place + int(length)] = True
                place += int(length)
        frame = frame.reshape(1024, 1024).T
        np.testing.assert_array_equal(np.any([decode_rle(rle) for rle in by_name[name]], axis=0), frame)
        foreground += int(frame.sum())
    assert foreground == sum(sum(map(int, cell.split()[1::2])) for cell in drawn["cell"])
    assert foreground > 0


def test_header_of_a_published_file(shared_data, tmp_path):
    published = pd.read_csv(shared_data / "label_tables" / "siim-pneumothorax-train-rle.csv", nrows=1)
    name = published["ImageId"][0]
    published.to_csv(tmp_path / "train-rle.csv", index=False)
    shutil.copy(shared_data / "dicom" / "rsna_sample.dcm", tmp_path / f"{name}.dcm")
    row = load_source("siim", tmp_path).table.iloc[0]
    assert (row["view"], row["sex"], row["age"], row["Pneumothorax"]) == ("PA", "M", 62, 0)
