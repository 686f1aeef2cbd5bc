"""Shenzhen: names tell the label, irregular texts tell sex and age, masks are where they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from cxrmonai.data.sources import load_source
from cxrmonai.errors import CxrError

READINGS = {
    "CHNCXR_0001_0": "male 45yrs\nnormal",
    "CHNCXR_0002_0": "femal 32yrs\nnormal",
    "CHNCXR_0003_0": "male 16month\nnormal",
    "CHNCXR_0004_0": "Female , 28 yrs \t\r\nnormal\r\n",
    "CHNCXR_0005_0": "female 64days",
    "CHNCXR_0327_1": "Female15 yrs\nSTB malignant 99yrs, male",
    "CHNCXR_0328_1": "male 42\nmiliary PTB",
    "CHNCXR_0329_1": "malignant 50yrs",
    "CHNCXR_0330_1": "female\n2 nodules",
}


@pytest.fixture
def shenzhen(tmp_path):
    """`make(inside)` lays out a folder as published."""

    def make(inside=""):
        for folder, ending in (("CXR_png", "png"), ("ClinicalReadings", "txt")):
            (tmp_path / inside / folder).mkdir(parents=True)
            for name, text in READINGS.items():
                (tmp_path / inside / folder / f"{name}.{ending}").write_text(text if ending == "txt" else "")
        return tmp_path

    return make


def draw(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.png").touch()


@pytest.mark.parametrize("inside", ["", "ChinaSet_AllFiles"])
def test_as_published(shenzhen, inside):
    found = load_source("shenzhen", shenzhen(inside))
    table = found.table
    assert found.class_names == ["Tuberculosis"]
    assert table["image_id"].tolist() == list(READINGS)
    assert table["image"][0] == f"{inside}/CXR_png/CHNCXR_0001_0.png".lstrip("/")
    assert table["patient_id"].tolist() == [name[7:11] for name in READINGS]
    assert set(table["view"]) == {"FRONTAL"}
    assert table["sex"].tolist() == ["M", "F", "M", "F", "F", "F", "M", "", "F"]
    np.testing.assert_allclose(table["age"], [45, 32, 16 / 12, 28, 64 / 365.25, 15, 42, np.nan, np.nan])
    assert table["Tuberculosis"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert found.notes == ["train, val and test drawn by patient with seed 0"]
    assert not any("PTB" in str(value) for value in table.to_numpy().ravel())
    assert len(found.masks) == 0


def test_lungs_of_the_images_that_have_a_mask(shenzhen):
    root = shenzhen("ChinaSet_AllFiles")
    draw(root / "mask" / "mask", "CHNCXR_0001_0_mask", "CHNCXR_9999_0_mask")
    draw(root / "ChinaSet_AllFiles" / "masks", "CHNCXR_0327_1_mask", "CHNCXR_0328_1_Cavity_1")
    draw(root / "Annotations" / "masks", "CHNCXR_0329_1_mask")
    assert load_source("shenzhen", root).masks.to_dict("list") == {
        "image_id": ["CHNCXR_0001_0", "CHNCXR_0327_1"],
        "finding": ["Lungs", "Lungs"],
        "path": ["mask/mask/CHNCXR_0001_0_mask.png", "ChinaSet_AllFiles/masks/CHNCXR_0327_1_mask.png"],
        "rle": ["", ""],
    }


def test_files_of_another_name_and_absent_texts_are_told(shenzhen):
    root = shenzhen()
    (root / "CXR_png" / "MCUCXR_0001_0.png").touch()
    (root / "ClinicalReadings" / "CHNCXR_0001_0.txt").unlink()
    found = load_source("shenzhen", root)
    assert found.table["image_id"].tolist() == list(READINGS)
    assert (found.table["sex"][0], np.isnan(found.table["age"][0])) == ("", True)
    assert "1 of 10 images in CXR_png are not named CHNCXR_…: left out" in found.notes
    assert "1 of 9 images have no text in ClinicalReadings: sex and age unknown" in found.notes


def test_without_images(tmp_path):
    with pytest.raises(CxrError, match=r"no CXR_png or \*/CXR_png; it is published at https://data\.lhncbc\.nlm\.nih"):
        load_source("shenzhen", tmp_path)
    draw(tmp_path / "CXR_png", "MCUCXR_0001_0")
    with pytest.raises(CxrError, match="CXR_png: no image named CHNCXR_0001_0 or the like"):
        load_source("shenzhen", tmp_path)
