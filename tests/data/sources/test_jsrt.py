"""JSRT: tables without a heading, nodules as boxes, SCR masks in their folders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cxrmonai.data.sources import load_source
from cxrmonai.errors import CxrError

NODULES = """\
JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer\t
JPCLN002.IMG\t1\t35\t?\tfemale\t1000\t1100\tbenign\tl.upper lobe(S5)\tpulmonary hematoma\t
JPCLN003.IMG\t3\t?\t63\tfemale\t1303\t447\tmalignant\tl.upper lobe(S1+2)\tlung cancer\t
"""
NO_NODULES = """\
JPCNN001.IMG       57   female   non-nodule
JPCNN002.IMG       ?    male     non-nodule
"""
NAMES = ["JPCLN001", "JPCLN002", "JPCLN003", "JPCNN001", "JPCNN002"]


@pytest.fixture
def jsrt(tmp_path):
    """`make(…)` lays out a folder as the archives unpack."""

    def make(nodules=NODULES, no_nodules=NO_NODULES, tables="Clinical_Information", images="All247images", end="\n"):
        (tmp_path / tables).mkdir(exist_ok=True)
        for name, text in (("CLNDAT_EN.txt", nodules), ("CNNDAT_EN.TXT", no_nodules)):
            (tmp_path / tables / name).write_bytes(text.replace("\n", end).encode("latin-1"))
        for name in NAMES:
            folder = tmp_path / images.format("Nodule154" if "CLN" in name else "NonNodule93")
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.IMG").touch()
        return tmp_path

    return make


def draw_masks(root, folder="scratch", between="masks", left="left lung"):
    """Masks of the first two images, one in each fold."""
    for fold, name in ((1, "JPCLN001"), (2, "JPCLN002")):
        for kind in (left, left.replace("left", "right"), "heart", "left clavicle", "right clavicle"):
            path = root / folder / f"fold{fold}" / between / kind / f"{name}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 255).save(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_as_published(jsrt, end):
    found = load_source("jsrt", jsrt(end=end))
    table = found.table
    assert found.class_names == ["Nodule"]
    assert table["image"].tolist() == [f"All247images/{name}.IMG" for name in NAMES]
    assert table["image_id"].tolist() == table["patient_id"].tolist() == NAMES
    assert set(table["view"]) == {"PA"}
    assert table["sex"].tolist() == ["M", "F", "F", "F", "M"]
    np.testing.assert_array_equal(table["age"], [53, np.nan, 63, 57, np.nan])
    assert table["Nodule"].tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(table["malignant"], [1, 0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(table["subtlety"], [5, 1, 3, np.nan, np.nan])
    np.testing.assert_array_equal(table["size_mm"], [15, 35, np.nan, np.nan, np.nan])
    assert table["fold"].tolist() == [1, 2, 1, 1, 2]
    assert (table[["original_height", "original_width"]] == 2048).all(axis=None)
    assert (table[["spacing_y", "spacing_x"]] == 0.175).all(axis=None)
    assert found.boxes[["image_id", "finding"]].to_numpy().tolist() == [["JPCLN001", "Nodule"], ["JPCLN002", "Nodule"]]
    edge = 15 / 0.175
    np.testing.assert_allclose(
        found.boxes[list("xywh")].astype(float),
        [[1634 - edge / 2, 692 - edge / 2, edge, edge], [900, 1000, 200, 200]],
    )
    assert "1 nodules have no published place or size: without a box" in found.notes
    assert len(found.masks) == 0


def test_masks_of_scr(jsrt):
    root = jsrt()
    draw_masks(root)
    masks = load_source("jsrt", root).masks
    first = masks[masks["image_id"] == "JPCLN001"]
    assert dict(zip(first["path"], first["finding"], strict=True)) == {
        "scratch/fold1/masks/left lung/JPCLN001.gif": "Lungs",
        "scratch/fold1/masks/right lung/JPCLN001.gif": "Lungs",
        "scratch/fold1/masks/heart/JPCLN001.gif": "Heart",
        "scratch/fold1/masks/left clavicle/JPCLN001.gif": "Clavicles",
        "scratch/fold1/masks/right clavicle/JPCLN001.gif": "Clavicles",
    }
    assert set(masks["image_id"]) == {"JPCLN001", "JPCLN002"}
    assert (masks["rle"] == "").all()


def test_masks_in_another_folder(jsrt):
    root = jsrt()
    draw_masks(root, "scr", between="", left="left_lung")
    assert len(load_source("jsrt", root).masks) == 0
    masks = load_source("jsrt", root, masks="scr").masks
    assert masks["finding"].value_counts().to_dict() == {"Lungs": 4, "Clavicles": 4, "Heart": 2}
    assert masks["path"].str.startswith("scr/fold").all()
    with pytest.raises(CxrError, match="absent: no such folder; name the folder of SCR's masks"):
        load_source("jsrt", root, masks="absent")
    with pytest.raises(CxrError, match="All247images: no masks of these images"):
        load_source("jsrt", root, masks="All247images")


def test_the_two_archives_and_other_spellings(jsrt):
    found = load_source("jsrt", jsrt(NODULES.replace("IMG", "img"), tables="clinical", images="{0}images"))
    assert found.table["image"].tolist()[2:4] == ["Nodule154images/JPCLN003.IMG", "NonNodule93images/JPCNN001.IMG"]


def test_image_that_is_not_here_is_told(jsrt):
    root = jsrt()
    (root / "All247images" / "JPCLN002.IMG").unlink()
    found = load_source("jsrt", root)
    assert found.table["image_id"].tolist() == [name for name in NAMES if name != "JPCLN002"]
    assert found.boxes["image_id"].tolist() == ["JPCLN001"]
    assert "1 of 5 rows of Clinical_Information have no file here: left out" in found.notes


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"nodules": NODULES + "JPCLN004.IMG\t5\t15\n"}, r"CLNDAT_EN\.txt: line 4 is not name, subtlety, size_mm"),
        ({"nodules": NODULES.replace("JPCLN002", "JPCNN002")}, r"CLNDAT_EN\.txt: line 2 is not name"),
        ({"no_nodules": "File age sex\n" + NO_NODULES}, r"CNNDAT_EN\.TXT: line 1 is not name, age, sex"),
        ({"no_nodules": "\n"}, r"CNNDAT_EN\.TXT: the table has no rows"),
    ],
)
def test_lines_that_are_not_as_published(jsrt, texts, message):
    with pytest.raises(CxrError, match=message):
        load_source("jsrt", jsrt(**texts))


def test_without_a_table_or_the_images(jsrt):
    root = jsrt(images="pictures")
    with pytest.raises(
        CxrError, match=r"no All247images and no Nodule154images; they are published at http://db\.jsrt"
    ):
        load_source("jsrt", root)
    (root / "Clinical_Information" / "CNNDAT_EN.TXT").unlink()
    with pytest.raises(CxrError, match=r"no Clinical_Information/CNNDAT_EN\.TXT; it is published at http://db\.jsrt"):
        load_source("jsrt", root)
