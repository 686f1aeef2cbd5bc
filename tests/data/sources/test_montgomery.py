"""Montgomery: two masks make the lungs, and readings tell which images are of one patient."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cxrmonai.data.sources import load_source
from cxrmonai.errors import CxrError

READINGS = {
    "MCUCXR_0001_0": "Patient's Sex: F \nPatient's Age: 027Y\nnormal",
    "MCUCXR_0080_0": "Patient's Sex: O \nPatient's Age: 005Y\nnormal",
    "MCUCXR_0113_1": "Patient's Sex: M\r\nPatient's Age: 084Y\r\ninfiltrates",
    "MCUCXR_0117_1": "Patient's Sex: M\nPatient's Age: 085Y\nstable (same pt as MCUCXR_0113_1)",
    "MCUCXR_0162_1": "Patient's Sex: M\nPatient's Age: 049Y\ncavity, see MCUCXR_0166_1",
    "MCUCXR_0166_1": "Patient's Sex: M\nPatient's Age: 049Y\nNO REPORT",
    "MCUCXR_0170_1": "NO REPORT (same pt as MCUCXR_0166_1)",
}


@pytest.fixture
def montgomery(tmp_path):
    """`make(inside)` lays out a folder as published."""

    def make(inside=""):
        home = tmp_path / inside
        for folder, ending in (
            ("CXR_png", "png"),
            ("ClinicalReadings", "txt"),
            ("ManualMask/leftMask", "png"),
            ("ManualMask/rightMask", "png"),
        ):
            (home / folder).mkdir(parents=True)
            for name, text in READINGS.items():
                (home / folder / f"{name}.{ending}").write_text(text if ending == "txt" else "")
        Image.new("1", (4020, 4892)).save(home / "CXR_png" / "MCUCXR_0001_0.png")
        Image.new("1", (1024, 1024)).save(home / "CXR_png" / "MCUCXR_0080_0.png")
        return tmp_path

    return make


@pytest.mark.parametrize("inside", ["", "MontgomerySet"])
def test_as_published(montgomery, inside):
    found = load_source("montgomery", montgomery(inside))
    table = found.table
    below = f"{inside}/" if inside else ""
    assert found.class_names == ["Tuberculosis"]
    assert table["image"].tolist() == [f"{below}CXR_png/{name}.png" for name in READINGS]
    assert table["image_id"].tolist() == list(READINGS)
    assert set(table["view"]) == {"PA"}
    assert table["sex"].tolist() == ["F", "", "M", "M", "M", "M", ""]
    np.testing.assert_array_equal(table["age"], [27, 5, 84, 85, 49, 49, np.nan])
    assert table["Tuberculosis"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(table["spacing_y"], [0.0875, *[np.nan] * 6])
    np.testing.assert_array_equal(table["spacing_x"], table["spacing_y"])
    masks = found.masks
    assert set(masks["finding"]) == {"Lungs"}
    assert sorted(masks.loc[masks["image_id"] == "MCUCXR_0001_0", "path"]) == [
        f"{below}ManualMask/leftMask/MCUCXR_0001_0.png", f"{below}ManualMask/rightMask/MCUCXR_0001_0.png"
    ]  # fmt: skip
    assert masks["image_id"].value_counts().to_dict() == dict.fromkeys(READINGS, 2)


def test_images_that_readings_tie_together_are_of_one_patient(montgomery):
    found = load_source("montgomery", montgomery())
    assert found.table["patient_id"].tolist() == ["0001", "0080", "0113", "0113", "0162", "0162", "0162"]
    assert "3 images are of a patient that another image shows already, as their readings say" in found.notes
    assert not any("same pt" in str(value) for value in found.table.to_numpy().ravel())


def test_mask_of_one_lung_is_no_mask_of_the_lungs(montgomery):
    root = montgomery()
    (root / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png").unlink()
    found = load_source("montgomery", root)
    assert "MCUCXR_0001_0" not in set(found.masks["image_id"])
    assert len(found.masks) == 2 * (len(READINGS) - 1)
    assert "1 images have the mask of one lung only: lungs unknown" in found.notes


def test_masks_with_both_lungs_in_one(montgomery):
    root = montgomery()
    for side in ("leftMask", "rightMask"):
        (root / "ManualMask" / side).rename(root / side)
    assert len(load_source("montgomery", root).masks) == 0
    (root / "leftMask").rename(root / "masks")
    masks = load_source("montgomery", root).masks
    assert masks["path"].tolist() == [f"masks/{name}.png" for name in READINGS]


def test_without_images(tmp_path):
    with pytest.raises(CxrError, match=r"no CXR_png or \*/CXR_png; it is published at .*Montgomery-County-CXR-Set"):
        load_source("montgomery", tmp_path)
    (tmp_path / "CXR_png").mkdir()
    with pytest.raises(CxrError, match="CXR_png: no image named MCUCXR_0001_0 or the like"):
        load_source("montgomery", tmp_path)
