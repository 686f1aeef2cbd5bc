"""Published tables and plain ones become the same table."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmonai.data.sources import SOURCES, load_source
from cxrmonai.data.sources.nih import FINDINGS
from cxrmonai.data.sources.tables import read_csv
from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError

NAMES = ["00000001_000.png", "00000001_001.png", "00000002_000.png", "00000003_000.png"]
# The original revision: ages as 058Y, a comma at every line's end.
ORIGINAL = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,AP,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,011M,F,PA,2048,2500,0.168,0.171,
00000003_000.png,Infiltration|Pleural_Thickening,0,3,414Y,F,PA,2048,2500,0.168,0.168,
"""
REVISED = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]
00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143
00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,AP,2894,2729,0.143,0.143
00000002_000.png,No Finding,0,2,81,F,PA,2048,2500,0.168,0.171
00000003_000.png,Infiltration|Pleural_Thickening,0,3,414,F,PA,2048,2500,0.168,0.168
"""
BOXES = """\
Image Index,Finding Label,Bbox [x,y,w,h],,,
00000003_000.png,Infiltrate,225.084745762712,547.019216763771,86.7796610169492,79.1864406779661,,,
00000001_000.png,Cardiomegaly,1,2,3,4,,,
00000099_000.png,Mass,1,2,3,4,,,
"""


@pytest.fixture
def nih(tmp_path):
    """`make(entries, files)` lays out a folder as published."""

    def make(entries=REVISED, files=None, layout="images", entry_file="Data_Entry_2017.csv"):
        (tmp_path / entry_file).write_text(entries)
        for k, name in enumerate(NAMES):
            folder = tmp_path / layout.format(1 + k % 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), k).save(folder / name)
        for name, content in (files or {}).items():
            (tmp_path / name).write_text(content)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("entries", "ages"),
    [(ORIGINAL, [58, 58, 11 / 12, np.nan]), (REVISED, [57, 58, 81, np.nan])],
    ids=["original", "revised"],
)
def test_nih_in_both_revisions(nih, entries, ages):
    found = load_source("nih", nih(entries))
    table = found.table
    assert found.class_names == list(FINDINGS)
    assert table["image"].tolist() == [f"images/{name}" for name in NAMES]
    assert table["image_id"].tolist() == [name[:-4] for name in NAMES]
    assert table["patient_id"].tolist() == ["1", "1", "2", "3"]
    assert table["view"].tolist() == ["PA", "AP", "PA", "PA"]
    assert table["sex"].tolist() == ["M", "M", "F", "F"]
    np.testing.assert_allclose(table["age"], ages)
    present = [{name for name in FINDINGS if row[name] == 1} for _, row in table.iterrows()]
    assert present == [{"Cardiomegaly"}, {"Cardiomegaly", "Emphysema"}, set(), {"Infiltration", "Pleural_Thickening"}]
    assert set(np.unique(table[list(FINDINGS)])) == {0, 1}
    assert (table["original_height"] == 1024).all()
    assert (table["original_width"] == 1024).all()
    np.testing.assert_allclose(table["spacing_x"][[0, 2]], [0.143 * 2682 / 1024, 0.168 * 2048 / 1024])
    np.testing.assert_allclose(table["spacing_y"][[0, 2]], [0.143 * 2749 / 1024, 0.171 * 2500 / 1024])


def test_nih_boxes_are_spelt_as_the_labels(nih):
    boxes = load_source("nih", nih(files={"BBox_List_2017.csv": BOXES})).boxes
    assert boxes["image_id"].tolist() == ["00000003_000", "00000001_000"]
    assert boxes["finding"].tolist() == ["Infiltration", "Cardiomegaly"]
    np.testing.assert_allclose(boxes.loc[0, list("xywh")].astype(float), [225.08474, 547.01921, 86.77966, 79.18644])
    assert load_source("nih", nih()).boxes.equals(boxes)


def test_nih_box_that_is_no_number(nih):
    with pytest.raises(CxrError, match=r"BBox_List_2017\.csv: a box holds"):
        load_source("nih", nih(files={"BBox_List_2017.csv": BOXES.replace("1,2,3,4", "1,2,x,4")}))


@pytest.mark.parametrize("lists", ["both", "train_val_list.txt", "test_list.txt"])
def test_nih_official_lists(nih, lists):
    files = {"train_val_list.txt": "\n".join(NAMES[:3]), "test_list.txt": NAMES[3] + "\n"}
    if lists != "both":
        files = {lists: files[lists]}
    found = load_source("nih", nih(files=files))
    split = found.table["split"].tolist()
    assert split[3] == "test"
    assert sorted(set(split[:3])) == ["train", "val"]
    assert split[0] == split[1] != split[2]
    assert any("val drawn by patient from the published training images" in note for note in found.notes)


def test_nih_without_lists_all_three_are_drawn(nih):
    found = load_source("nih", nih())
    split = found.table["split"].tolist()
    assert set(split) == {"train", "val", "test"}
    assert split[0] == split[1]
    assert any("drawn by patient with seed 0" in note for note in found.notes)
    seeds = [load_source("nih", nih(), seed=seed).table["split"].tolist() for seed in range(8)]
    assert any(other != seeds[0] for other in seeds)


def test_nih_image_in_neither_list_is_told(nih):
    found = load_source("nih", nih(files={"train_val_list.txt": "\n".join(NAMES[:2]), "test_list.txt": NAMES[3]}))
    assert found.table["split"][2] == ""
    assert any("1 images are in no published split" in note for note in found.notes)


def test_nih_lists_that_share_a_patient_are_refused(nih):
    with pytest.raises(CxrError, match="more than one split"):
        load_source("nih", nih(files={"train_val_list.txt": NAMES[0], "test_list.txt": "\n".join(NAMES[1:])}))


def test_nih_as_the_archives_unpack(nih):
    found = load_source("nih", nih(layout="images_{:03d}/images"))
    assert found.table["image"].tolist() == [f"images_{1 + k % 2:03d}/images/{name}" for k, name in enumerate(NAMES)]


def test_nih_images_folder_by_name_and_rows_without_a_file(nih):
    root = nih(layout="small")
    (root / "small" / NAMES[2]).unlink()
    with pytest.raises(CxrError, match="name their folder with --images"):
        load_source("nih", root)
    with pytest.raises(CxrError, match="no such folder"):
        load_source("nih", root, images=256)
    found = load_source("nih", root, images="small")
    assert found.table["image_id"].tolist() == [NAMES[k][:-4] for k in (0, 1, 3)]
    assert found.table["Infiltration"].tolist() == [0, 0, 1]
    assert "1 of 4 rows of Data_Entry_2017.csv have no file here: left out" in found.notes


def test_nih_without_its_table_or_with_another(nih):
    root = nih(entry_file="other.csv")
    with pytest.raises(CxrError, match=r"no Data_Entry_2017\*\.csv"):
        load_source("nih", root)
    (root / "Data_Entry_2017_v2020.csv").write_text(REVISED.replace("Patient Age", "Age"))
    with pytest.raises(CxrError, match=r"Data_Entry_2017_v2020\.csv: no column 'Patient Age'"):
        load_source("nih", root)
    (root / "Data_Entry_2017_v2020.csv").write_text(REVISED.replace("0000000", "1111111"))
    with pytest.raises(CxrError, match="none of its 4 images"):
        load_source("nih", root)


@pytest.mark.parametrize("name", [name for name, entry in SOURCES.items() if entry.where])
def test_a_source_without_its_files_says_where_they_are_published(name, tmp_path):
    with pytest.raises(CxrError) as fault:
        load_source(name, tmp_path)
    assert str(tmp_path) in str(fault.value)
    assert SOURCES[name].where in str(fault.value)


def test_images_outside_of_the_root_and_a_damaged_archive(nih, tmp_path_factory):
    root = nih()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(CxrError, match="lies outside of"):
        load_source("nih", root, images=str(elsewhere))
    packed = gzip.compress(REVISED.encode())
    (root / "t.csv.gz").write_bytes(packed)
    assert len(read_csv(root / "t.csv.gz")) == 4
    for damaged in (packed[:40], packed[:10] + b"xxxx" + packed[14:], b"PK" + packed):
        (root / "t.csv.gz").write_bytes(damaged)
        with pytest.raises(CxrError, match=r"t\.csv\.gz: not a readable CSV table"):
            read_csv(root / "t.csv.gz")


def test_real_sample_counts(shared_data):
    root = shared_data / "nih_sample"
    found = load_source("nih", root, images="images_256")
    raw = pd.read_csv(root / "Data_Entry_2017.csv").set_index("Image Index")
    assert len(found.table) == len(raw) == 614
    for name in FINDINGS:
        assert (found.table[name] == 1).sum() == raw["Finding Labels"].str.contains(rf"(?:^|\|){name}(?:\||$)").sum()
    order = found.table["image"].str.removeprefix("images_256/")
    np.testing.assert_array_equal(found.table["patient_id"].astype(int), raw.loc[order, "Patient ID"])
    np.testing.assert_array_equal(found.table["age"], raw.loc[order, "Patient Age"])
    np.testing.assert_array_equal(found.table["sex"], raw.loc[order, "Patient Gender"])
    official = set((root / "test_list.txt").read_text().split())
    np.testing.assert_array_equal(found.table["split"] == "test", order.isin(official))
    assert (found.table["split"] == "test").sum() == 138
    assert found.table.groupby("patient_id")["split"].nunique().max() == 1
    boxes = pd.read_csv(root / "BBox_List_2017.csv")
    boxes = boxes[boxes["Image Index"].isin(raw.index)]
    assert found.boxes["finding"].value_counts().to_dict() == {
        {"Infiltrate": "Infiltration"}.get(name, name): count
        for name, count in boxes["Finding Label"].value_counts().items()
    }
    assert found.boxes["x"].sum() == pytest.approx(boxes["Bbox [x"].sum())


TABLE = """\
path,who,study,pos,years,gender,fold,Mass,Lung Opacity,seg,name
a/1.png,p1,s1,PA,61,Female,Train,1,-1.0,m/1.png,first
a/2.png,p1,s2,AP,059Y,f,train,0,,,second
b/1.png, p2 ,s3,,x,,valid,,1,m/3.png,third
b/2.png,p3,s4,PA,,M,test,True,0,,fourth
"""


@pytest.fixture
def csv_root(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    return tmp_path


def test_csv_with_every_option(csv_root):
    found = load_source(
        "csv",
        csv_root,
        table="t.csv",
        path_column="path",
        class_columns=("Mass", "Lung Opacity"),
        id_column="name",
        patient_column="who",
        study_column="study",
        view_column="pos",
        age_column="years",
        sex_column="gender",
        split_column="fold",
        mask_column="seg",
    )
    table = found.table
    assert table["image"].tolist() == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    assert table["image_id"].tolist() == ["first", "second", "third", "fourth"]
    assert table["patient_id"].tolist() == ["p1", "p1", "p2", "p3"]
    assert table["study_id"].tolist() == ["s1", "s2", "s3", "s4"]
    assert table["view"].tolist() == ["PA", "AP", "", "PA"]
    np.testing.assert_array_equal(table["age"], [61, 59, np.nan, np.nan])
    assert table["sex"].tolist() == ["F", "F", "", "M"]
    assert table["split"].tolist() == ["train", "train", "val", "test"]
    np.testing.assert_array_equal(table["Mass"], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(table["Lung Opacity"], [-1, np.nan, 1, 0])
    assert found.masks.to_dict("list") == {
        "image_id": ["first", "third"], "finding": ["seg", "seg"], "path": ["m/1.png", "m/3.png"], "rle": ["", ""]
    }  # fmt: skip
    assert found.notes == []


def test_csv_keeps_further_columns_as_numbers_or_text(csv_root):
    (csv_root / "t.csv").write_text("path,grade,site,blank\na/1.png,2,x,\na/2.png,,3,\n")
    found = load_source("csv", csv_root, table="t.csv", path_column="path", keep_columns="grade,site,blank")
    np.testing.assert_array_equal(found.table["grade"], [2, np.nan])
    assert found.table["site"].tolist() == ["x", "3"]
    assert found.table["blank"].isna().all()
    with pytest.raises(CxrError, match="no column 'absent'"):
        load_source("csv", csv_root, table="t.csv", path_column="path", keep_columns="absent")


def test_csv_with_the_least(csv_root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "t.csv"
    elsewhere.write_text(TABLE)
    for table in ("t.csv", str(elsewhere)):
        found = load_source("csv", csv_root, table=table, path_column="path")
        assert found.table["image_id"].tolist() == ["a_1", "a_2", "b_1", "b_2"]
        assert found.class_names == []
        assert set(found.table["split"]) == {"train", "val", "test"}
        assert found.table["patient_id"].is_unique
        assert any("4 images have no patient id" in note for note in found.notes)


def test_csv_with_blank_patients_keeps_the_known_ones_together(csv_root):
    (csv_root / "t.csv").write_text(TABLE.replace(" p2 ", ""))
    found = load_source("csv", csv_root, table="t.csv", path_column="path", patient_column="who")
    assert found.table["split"][0] == found.table["split"][1]
    assert found.table["patient_id"].tolist() == ["p1", "p1", "image:b_1", "p3"]
    assert any("1 images have no patient id" in note for note in found.notes)


def test_csv_split_with_blanks_and_train_val(csv_root):
    (csv_root / "t.csv").write_text(TABLE.replace("Train", "train_val").replace("train,", "train_val,"))
    found = load_source("csv", csv_root, table="t.csv", path_column="path", patient_column="who", split_column="fold")
    assert found.table["split"].tolist() == ["train", "train", "val", "test"]
    (csv_root / "t.csv").write_text(TABLE.replace("valid", ""))
    found = load_source("csv", csv_root, table="t.csv", path_column="path", patient_column="who", split_column="fold")
    assert found.table["split"].tolist() == ["train", "train", "", "test"]
    assert any("1 images are in no published split" in note for note in found.notes)


def test_csv_finding_of_a_reserved_name_is_refused(csv_root):
    (csv_root / "t.csv").write_text("image,age\na.png,1\n")
    with pytest.raises(CxrError, match="a finding cannot be called 'age'"):
        load_source("csv", csv_root, table="t.csv", class_columns="age")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ("A", ["A"]),
        (" A, Lung Opacity ,", ["A", "Lung Opacity"]),
        (("A", "B", "A"), ["A", "B"]),
        (7, ["7"]),
        ((1, 2), ["1", "2"]),
    ],
)
def test_name_lists(value, expected):
    assert name_list(value) == expected


def test_tables_with_odd_ends(tmp_path):
    path = tmp_path / "t.csv"
    plain = pd.DataFrame({"a": ["1", "3"], "b": ["2", ""]})
    for text in ("a,b\n1,2\n3,\n", "a,b\n1,2,\n3,,\n", "a,b\r\n1,2\r\n3\r\n", "\ufeffa,b\n1,2\n3,\n"):
        path.write_bytes(text.encode())
        pd.testing.assert_frame_equal(read_csv(path), plain, check_dtype=False)
    path.write_text("a,b\nNA,nan\n")
    assert read_csv(path).to_numpy().tolist() == [["NA", "nan"]]
    path.write_bytes("a,b\n1,ü\n".encode("latin-1"))
    with pytest.raises(CxrError, match=r"t\.csv: not a readable CSV table") as caught:
        read_csv(path)
    assert "\n" not in str(caught.value)


def test_folder_takes_every_image_below(tmp_path):
    for name in ("b.png", "p/a.jpg", "p/note.txt", ".thumb.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = load_source("folder", tmp_path)
    assert found.table["image"].tolist() == ["b.png", "p/a.jpg"]
    assert found.table["image_id"].tolist() == ["b", "p_a"]
    assert found.table["patient_id"].tolist() == ["image:b", "image:p_a"]
    (tmp_path / "b.jpg").write_bytes(b"x")
    assert load_source("folder", tmp_path).table["image_id"].tolist() == ["b.jpg", "b.png", "p_a.jpg"]


def test_folder_without_images(tmp_path):
    with pytest.raises(CxrError, match="no image below this folder"):
        load_source("folder", tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_names_its_options(tmp_path, name):
    with pytest.raises(CxrError, match=f"source '{name}' has no option --wrong; it has .*--seed"):
        load_source(name, tmp_path, wrong=1)
    with pytest.raises(CxrError, match="no such folder"):
        load_source(name, tmp_path / "absent", **({"table": "t.csv"} if name == "csv" else {}))


def test_a_published_split_without_val_gives_up_some_training_patients(tmp_path):
    rows = [f"{k}.png,p{k // 2},{'train' if k < 32 else 'test'}" for k in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["image,patient,part", *rows]))
    found = load_source("csv", tmp_path, table="table.csv", patient_column="patient", split_column="part")
    split = found.table.groupby("split")["patient_id"].agg(set)
    assert found.table["split"].tolist()[32:] == ["test"] * 8
    assert len(split["val"]) == 2
    assert not split["val"] & split["train"]
    assert any("val drawn by patient" in note for note in found.notes)
