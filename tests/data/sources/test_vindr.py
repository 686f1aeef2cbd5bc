"""VinDr-CXR in PhysioNet's layout, VinBigData in Kaggle's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.sources import load_source
from cxrmonai.data.sources.vindr import FINDINGS, KAGGLE_FINDINGS
from cxrmonai.errors import CxrError

KAGGLE = """\
image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
aa,Cardiomegaly,3,R8,100.0,200.0,400.0,500.0
aa,Cardiomegaly,3,R9,110.0,210.0,410.0,510.0
aa,Aortic enlargement,0,R9,10.0,20.0,40.0,50.0
aa,Aortic enlargement,0,R9,60.0,20.0,70.0,50.0
aa,No finding,14,R10,,,,
bb,No finding,14,R1,,,,
bb,No finding,14,R2,,,,
bb,No finding,14,R3,,,,
cc,ILD,5,R1,5.0,5.0,25.0,45.0
cc,ILD,5,R2,5.0,5.0,25.0,45.0
cc,ILD,5,R3,5.0,5.0,25.0,45.0
"""


def votes(rows, reader=True, columns=FINDINGS):
    lines = [",".join(["image_id", *(["rad_id"] if reader else []), *columns])]
    for image_id, name, found in rows:
        cells = ["1" if column in found else "0" for column in columns]
        lines.append(",".join([image_id, *([name] if reader else []), *cells]))
    return "\n".join(lines) + "\n"


TRAIN_VOTES = votes(
    [
        ("t1", "R1", ["Cardiomegaly", "Pneumonia"]),
        ("t1", "R2", ["Cardiomegaly"]),
        ("t1", "R3", ["No finding"]),
        *[("t2", reader, ["No finding"]) for reader in ("R1", "R2", "R3")],
        *[(f"t{k}", "R1", ["No finding"]) for k in range(3, 10)],
    ]
)
TEST_COLUMNS = [name.replace("diseases", "disease") for name in FINDINGS]
TEST_VOTES = votes([("e1", "", ["Lung tumor", "Other disease"])], reader=False, columns=TEST_COLUMNS)
TRAIN_BOXES = """\
image_id,rad_id,class_name,x_min,y_min,x_max,y_max
t1,R1,Cardiomegaly,1.5,2.5,11.5,22.5
t1,R2,Cardiomegaly,2,3,12,23
t2,R1,No finding,,,,
"""
TEST_BOXES = """\
image_id,class_name,x_min,y_min,x_max,y_max
e1,Rib fracture,7,8,17,28
"""
PHYSIONET = {
    "image_labels_train.csv": TRAIN_VOTES,
    "image_labels_test.csv": TEST_VOTES,
    "annotations_train.csv": TRAIN_BOXES,
    "annotations_test.csv": TEST_BOXES,
}


@pytest.fixture
def lay(tmp_path):
    """`make(tables, images)` writes tables and empty images below the root, and returns it."""

    def make(tables, images):
        for name, text in (tables | dict.fromkeys(images, "")).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


@pytest.fixture
def kaggle(lay):
    return lay({"train.csv": KAGGLE}, [f"train/{name}.png" for name in ("aa", "bb", "cc")])


@pytest.mark.parametrize("suffix", ["dicom", "dcm", "png", "jpg"])
def test_kaggle(lay, suffix):
    root = lay({"train.csv": KAGGLE}, [f"train/{name}.{suffix}" for name in ("aa", "bb", "cc")])
    found = load_source("vindr", root)
    table = found.table.set_index("image_id")
    assert found.class_names == list(KAGGLE_FINDINGS)
    assert table["image"].to_dict() == {name: f"train/{name}.{suffix}" for name in ("aa", "bb", "cc")}
    assert (table["view"] == "PA").all()
    present = {name: set(table.columns[(table.loc[name] == 1)]) for name in table.index}
    assert present == {"aa": {"Cardiomegaly"}, "bb": {"No finding"}, "cc": {"ILD"}}
    assert not table[list(KAGGLE_FINDINGS)].isna().to_numpy().any()
    assert set(table["split"]) == {"train", "val", "test"}
    boxes = found.boxes
    assert boxes.columns.tolist() == ["image_id", "finding", "x", "y", "w", "h", "reader"]
    assert len(boxes) == 7
    assert boxes.iloc[1].tolist() == ["aa", "Cardiomegaly", 110, 210, 300, 300, "R9"]
    assert boxes["reader"].tolist() == ["R8", "R9", "R9", "R9", "R1", "R2", "R3"]
    told = any("boxes are taken to be in pixels of the files" in note for note in found.notes)
    assert told == (suffix in ("png", "jpg"))
    assert any("3 images have no patient id" in note for note in found.notes)


@pytest.mark.parametrize(
    ("consensus", "expected"),
    [
        ("any", {"Cardiomegaly", "Aortic enlargement", "No finding"}),
        ("majority", {"Cardiomegaly"}),
        ("all", set()),
    ],
)
def test_consensus(kaggle, consensus, expected):
    table = load_source("vindr", kaggle, consensus=consensus).table.set_index("image_id")
    assert {name for name in KAGGLE_FINDINGS if table.loc["aa", name] == 1} == expected
    assert table.loc["bb", "No finding"] == table.loc["cc", "ILD"] == 1
    with pytest.raises(CxrError, match="--consensus most: must be one of any, majority, all"):
        load_source("vindr", kaggle, consensus="most")


def test_half_of_two_readers_is_no_majority(lay):
    rows = KAGGLE.splitlines()
    root = lay({"train.csv": "\n".join([rows[0], rows[1], rows[5]])}, ["train/aa.png"])
    assert load_source("vindr", root).table[list(KAGGLE_FINDINGS)].to_numpy().sum() == 0


@pytest.mark.parametrize("folder", ["annotations/", ""])
def test_physionet(lay, folder):
    images = [f"train/t{k}.dicom" for k in range(1, 10)] + ["test/e1.dicom"]
    root = lay({f"{folder}{name}": text for name, text in PHYSIONET.items()}, images)
    found = load_source("vindr", root)
    table = found.table.set_index("image_id")
    assert found.class_names == list(FINDINGS)
    assert table["image"].tolist() == images
    present = {name: {label for label in FINDINGS if table.loc[name, label] == 1} for name in ("t1", "t2", "e1")}
    assert present == {"t1": {"Cardiomegaly"}, "t2": {"No finding"}, "e1": {"Lung tumor", "Other diseases"}}
    assert table.loc["e1", "split"] == "test"
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 1, "test": 1}
    assert any("val drawn by patient from the published training images" in note for note in found.notes)
    assert found.boxes.to_numpy().tolist() == [
        ["t1", "Cardiomegaly", 1.5, 2.5, 10.0, 20.0, "R1"],
        ["t1", "Cardiomegaly", 2.0, 3.0, 10.0, 20.0, "R2"],
        ["e1", "Rib fracture", 7.0, 8.0, 10.0, 20.0, ""],
    ]
    assert "original_height" not in table


def test_physionet_test_set_alone_without_boxes(lay):
    root = lay({"annotations/image_labels_test.csv": TEST_VOTES}, ["test/e1.dicom"])
    found = load_source("vindr", root)
    assert found.table["split"].tolist() == ["test"]
    assert found.boxes.empty
    assert found.boxes.columns.tolist() == ["image_id", "finding", "x", "y", "w", "h", "reader"]


def test_images_that_are_not_here_and_images_in_no_table(lay):
    root = lay({f"annotations/{name}": text for name, text in PHYSIONET.items()}, ["train/t1.dicom", "train/zz.dicom"])
    found = load_source("vindr", root)
    assert found.table["image_id"].tolist() == ["t1"]
    assert set(found.boxes["image_id"]) == {"t1"}
    assert "8 of 9 rows of image_labels_train.csv have no file here: left out" in found.notes
    assert "none of the 1 images of image_labels_test.csv is here: left out" in found.notes
    assert "1 images are in no table: left out" in found.notes
    (root / "train" / "t1.dicom").unlink()
    with pytest.raises(CxrError, match=r"image_labels_train\.csv: none of its 9 images is here"):
        load_source("vindr", root)


META = "image_id,dim0,dim1\naa,2000,1000\nbb,1000,1000\ncc,500,1000\n"


def test_original_sizes_of_resized_copies(kaggle, lay):
    lay({"train_meta.csv": META}, [])
    found = load_source("vindr", kaggle)
    assert found.table["original_height"].tolist() == [2000, 1000, 500]
    assert found.table["original_width"].tolist() == [1000, 1000, 1000]
    assert found.boxes.iloc[0, 2:6].tolist() == [100, 200, 300, 300]
    assert not any("pixels of the files" in note for note in found.notes)
    assert any("squeezed to squares need --square" in note for note in found.notes)


def test_copies_squeezed_to_squares(kaggle, lay):
    with pytest.raises(CxrError, match=r"--square needs the original sizes; no train_meta\.csv"):
        load_source("vindr", kaggle, square=True)
    lay({"train_meta.csv": META}, [])
    found = load_source("vindr", kaggle, square=True)
    assert found.table["original_height"].tolist() == found.table["original_width"].tolist() == [2000, 1000, 1000]
    boxes = found.boxes.set_index("image_id")
    assert boxes.loc["aa", ["x", "y", "w", "h"]].iloc[0].tolist() == [200, 200, 600, 300]
    assert boxes.loc["cc", ["x", "y", "w", "h"]].iloc[0].tolist() == [5, 10, 20, 80]


def test_sizes_that_are_not_known_or_none(kaggle, lay):
    lay({"train_meta.csv": META.replace("bb", "zz")}, [])
    found = load_source("vindr", kaggle)
    np.testing.assert_array_equal(found.table["original_height"], [2000, np.nan, 500])
    assert "1 images are not in train_meta.csv: boxes are in pixels of the files there" in found.notes
    lay({"train_meta.csv": META.replace("2000", "tall")}, [])
    with pytest.raises(CxrError, match=r"train_meta\.csv: dim0 or dim1 holds something other"):
        load_source("vindr", kaggle)


def test_images_folder_by_name(kaggle, lay):
    lay({}, [f"small/{name}.jpg" for name in ("aa", "bb", "cc")])
    found = load_source("vindr", kaggle, images="small")
    assert found.table["image"].tolist() == ["small/aa.jpg", "small/bb.jpg", "small/cc.jpg"]
    with pytest.raises(CxrError, match="large: no such folder; unpack the images as published"):
        load_source("vindr", kaggle, images="large")
    lay({}, ["train/aa.jpg"])
    with pytest.raises(CxrError, match=r"train/aa\.jpg and train/aa\.png are one image; name one folder"):
        load_source("vindr", kaggle)


def test_faults_of_tables(kaggle, lay):
    for text, message in (
        (KAGGLE.replace("ILD", "Interstitial"), "class_name holds 'Interstitial'; known are Aortic enlargement"),
        (KAGGLE.replace("410.0", "wide"), r"train\.csv: a box holds something other than numbers"),
        (KAGGLE.replace("x_min", "left"), r"train\.csv: no column 'x_min'"),
    ):
        lay({"train.csv": text}, [])
        with pytest.raises(CxrError, match=message):
            load_source("vindr", kaggle)
    lay({"train.csv": KAGGLE.replace("10.0,20.0,40.0,50.0", "40.0,20.0,40.0,50.0")}, [])
    found = load_source("vindr", kaggle)
    assert len(found.boxes) == 6
    assert "1 boxes without an area: left out" in found.notes
    (kaggle / "train.csv").unlink()
    with pytest.raises(CxrError, match=r"image_labels_train\.csv or .* or train\.csv; it is published at https"):
        load_source("vindr", kaggle)
    lay({"annotations/image_labels_train.csv": TRAIN_VOTES.replace("\nt1,R1,0", "\nt1,R1,2")}, [])
    with pytest.raises(CxrError, match="column 'Aortic enlargement' holds something other than 0 and 1"):
        load_source("vindr", kaggle)


def test_counts_of_the_published_table(shared_data, lay):
    file = shared_data / "label_tables" / "vinbigdata-train.csv"
    raw = pd.read_csv(file)
    names = raw["image_id"].unique()
    root = lay({"train.csv": file.read_text()}, [f"train/{name}.png" for name in names])
    found = load_source("vindr", root)
    table = found.table.set_index("image_id")
    assert table.index.tolist() == names.tolist()
    readers = raw.groupby("image_id")["rad_id"].nunique()
    marked = raw.groupby(["class_name", "image_id"])["rad_id"].nunique()
    for consensus in ("any", "majority", "all"):
        agreed = load_source("vindr", root, consensus=consensus).table
        for name in raw["class_name"].unique():
            share = marked[name] / readers[marked[name].index]
            expected = {"any": share > 0, "majority": share > 1 / 2, "all": share == 1}[consensus].sum()
            assert (agreed[name] == 1).sum() == expected, (consensus, name)
            assert (agreed[name] == 0).sum() == len(names) - expected
    boxed = raw[raw["class_name"] != "No finding"]
    assert found.boxes["finding"].value_counts().to_dict() == boxed["class_name"].value_counts().to_dict()
    assert len(found.boxes) == boxed["x_min"].notna().sum() == 1061
    assert found.boxes["reader"].value_counts().to_dict() == boxed["rad_id"].value_counts().to_dict()
    assert found.boxes["w"].sum() == pytest.approx((boxed["x_max"] - boxed["x_min"]).sum())
    assert found.boxes["h"].sum() == pytest.approx((boxed["y_max"] - boxed["y_min"]).sum())
