"""CheXpert in the layouts it is published in, and CheXlocalize's masks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.masks import decode_rle, encode_rle
from cxrmonai.data.sources import load_source
from cxrmonai.data.sources.chexpert import FINDINGS
from cxrmonai.errors import CxrError

HEAD = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(FINDINGS)
# Finding columns: No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, …
TRAIN = f"""\
{HEAD}
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,87,Lateral,,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,88,Frontal,LL,,,,,,,,,,,,,,
CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Unknown,0,Frontal,AP,,,,,,,,,,,,,,
"""
VALID = f"""\
{HEAD}
CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
CheXpert-v1.0-small/valid/patient64542/study1/view1_frontal.jpg,Male,70,Frontal,PA,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0
"""
# CheXlocalize names its tables otherwise, has neither age nor sex, and its own order of findings.
TEST = f"""\
Path,{",".join(reversed(FINDINGS))}
test/patient64741/study1/view1_frontal.jpg,1,0,0,0,0,0,0,0,0,0,1,1,1,0
test/patient64741/study1/view2_lateral.jpg,1,0,0,0,0,0,0,0,0,0,1,1,1,0
"""
SMALL = "CheXpert-v1.0-small"


def paths(table):
    return [line.split(",")[0] for line in table.splitlines()[1:]]


@pytest.fixture
def lay(tmp_path):
    """`make(tables, images)` writes tables by their path and empty images, and returns the root."""

    def make(tables, images):
        for name, text in tables.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


@pytest.fixture
def small(lay):
    return lay({f"{SMALL}/train.csv": TRAIN, f"{SMALL}/valid.csv": VALID}, paths(TRAIN) + paths(VALID))


@pytest.mark.parametrize("below", ["", SMALL], ids=["parent", "itself"])
def test_small_release(small, below):
    found = load_source("chexpert", small / below)
    table = found.table.set_index("image_id")
    assert found.class_names == list(FINDINGS)
    assert len(table) == 7
    first = table.loc["patient00002_study1_view1_frontal"]
    prefix = "" if below else f"{SMALL}/"
    assert first["image"] == f"{prefix}train/patient00002/study1/view1_frontal.jpg"
    assert (first["patient_id"], first["study_id"]) == ("patient00002", "patient00002_study1")
    assert (first["view"], first["age"], first["sex"]) == ("PA", 87, "F")
    np.testing.assert_array_equal(
        first[list(FINDINGS)].astype(float),
        [np.nan, np.nan, -1, 1, np.nan, -1, -1, np.nan, -1, np.nan, -1, np.nan, 1, np.nan],
    )
    assert table["view"].tolist() == ["AP", "PA", "LATERAL", "FRONTAL", "AP", "AP", "PA"]
    assert table["study_id"].nunique() == 6
    unknown = table.loc["patient00003_study1_view1_frontal"]
    assert np.isnan(unknown["age"])
    assert unknown["sex"] == ""
    assert found.masks.empty


def test_valid_is_the_test_set_where_there_is_no_other(small):
    found = load_source("chexpert", small)
    split = found.table.set_index("image_id")["split"]
    assert split["patient64541_study1_view1_frontal"] == split["patient64542_study1_view1_frontal"] == "test"
    assert set(split) == {"train", "val", "test"}
    assert found.table.groupby("patient_id")["split"].nunique().max() == 1
    assert "the published valid set is test (--valid_as)" in found.notes
    chosen = load_source("chexpert", small, valid_as="val")
    assert chosen.table["split"].tolist() == ["train"] * 5 + ["val"] * 2
    assert any("there is no test set" in note for note in chosen.notes)


@pytest.mark.parametrize("name", ["test.csv", "test_labels.csv"])
def test_valid_is_val_beside_a_test_set(small, lay, name):
    lay({f"{SMALL}/{name}": TEST}, [f"{SMALL}/{path}" for path in paths(TEST)])
    found = load_source("chexpert", small)
    assert found.table["split"].tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    test = found.table.iloc[-2:]
    assert test["view"].tolist() == ["FRONTAL", "LATERAL"]
    assert test["sex"].tolist() == ["", ""]
    assert test["age"].isna().all()
    present = [name for name in FINDINGS if test.iloc[0][name] == 1]
    assert present == ["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Support Devices"]
    assert not any("no test set" in note for note in found.notes)
    both = load_source("chexpert", small, valid_as="test")
    assert (both.table["split"] == "test").sum() == 4


def test_archives_as_they_unpack(lay):
    batch = "CheXpert-v1.0 batch {}".format
    train = [path.replace(f"{SMALL}/train", batch("2 (train 1)")) for path in paths(TRAIN)]
    valid = [path.replace(SMALL, batch("1 (validate & csv)")) for path in paths(VALID)]
    full = TRAIN.replace(SMALL, "CheXpert-v1.0")
    tables = {
        f"{batch('1 (validate & csv)')}/train.csv": full,
        f"{batch('1 (validate & csv)')}/valid.csv": VALID.replace(SMALL, "CheXpert-v1.0"),
        "train_cheXbert.csv": full.replace("1.0,,,,,,,,,0.0", "0.0,,,,,,,,,0.0"),
        "train_visualCheXbert.csv": full.replace("1.0,,,,,,,,,0.0", "1.0,0,0,0,0,0,0,0,0,0"),
    }
    root = lay(tables, train + valid)
    assert sorted(load_source("chexpert", root).table["image"]) == sorted(train + valid)
    found = {
        name: load_source("chexpert", root, labels=name).table.iloc[0]
        for name in ("chexpert", "chexbert", "visualchexbert")
    }
    assert {name: row["No Finding"] for name, row in found.items()} == {
        "chexpert": 1, "chexbert": 0, "visualchexbert": 1
    }  # fmt: skip
    assert np.isnan(found["chexbert"]["Edema"])
    assert found["visualchexbert"]["Edema"] == 0


def test_chexlocalize_alone_and_copies_of_another_type(lay):
    images = [f"CheXpert/val/{path.split('/', 2)[2]}".replace(".jpg", ".png") for path in paths(VALID)]
    root = lay({"CheXpert/val_labels.csv": VALID.replace(f"{SMALL}/", "")}, images)
    found = load_source("chexpert", root)
    assert found.table["image"].tolist() == images
    assert found.table["split"].tolist() == ["test", "test"]


def test_copies_elsewhere_do_no_harm_where_the_table_says_which(small, lay):
    lay({}, [f"chexlocalize/val/{path.split('/', 2)[2]}" for path in paths(VALID)])
    assert load_source("chexpert", small).table["image"].tolist() == paths(TRAIN) + paths(VALID)


def test_two_copies_and_no_telling_which(lay):
    root = lay({"train.csv": TRAIN}, [path.replace(SMALL, name) for path in paths(TRAIN) for name in ("a", "b")])
    with pytest.raises(CxrError, match=r"a/train/patient00001\S+ and b/train/patient00001\S+ are one image"):
        load_source("chexpert", root)


def test_two_releases_below_one_root(small, lay):
    lay({"CheXpert-v1.0/train.csv": TRAIN}, [])
    with pytest.raises(CxrError, match=r"CheXpert-v1\.0/train\.csv and .*small/train\.csv; give the folder of one"):
        load_source("chexpert", small)


def test_frontal_only(small):
    found = load_source("chexpert", small, frontal_only=True)
    assert len(found.table) == 6
    assert not (found.table["view"] == "LATERAL").any()
    assert "1 lateral images left out (--frontal_only)" in found.notes


def test_frontal_only_of_laterals(lay):
    lateral = "\n".join(line for line in TRAIN.splitlines() if "Frontal,A" not in line and ",Frontal," not in line)
    root = lay({"train.csv": f"{HEAD}\n{lateral.splitlines()[-1]}\n"}, [paths(TRAIN)[2]])
    with pytest.raises(CxrError, match="every image that is here is lateral"):
        load_source("chexpert", root, frontal_only=True)


def test_images_that_are_not_here(small):
    (small / paths(TRAIN)[0]).unlink()
    for path in paths(VALID):
        (small / path).unlink()
    found = load_source("chexpert", small)
    assert len(found.table) == 4
    assert "1 of 5 rows of train.csv have no file here: left out" in found.notes
    assert "none of the 2 images of valid.csv is here: left out" in found.notes
    for path in paths(TRAIN)[1:]:
        (small / path).unlink()
    with pytest.raises(CxrError, match=r"train\.csv: none of its 5 images is here"):
        load_source("chexpert", small)


def test_faults_of_tables_and_options(small, tmp_path_factory):
    with pytest.raises(CxrError, match="--labels bert: must be one of chexpert, chexbert, visualchexbert"):
        load_source("chexpert", small, labels="bert")
    with pytest.raises(CxrError, match="--valid_as dev: must be val or test"):
        load_source("chexpert", small, valid_as="dev")
    with pytest.raises(CxrError, match=r"no train_cheXbert\.csv in it .* published at https"):
        load_source("chexpert", small, labels="chexbert")
    with pytest.raises(CxrError, match=r"no train\.csv or valid\.csv or .* published at https"):
        load_source("chexpert", tmp_path_factory.mktemp("empty"))
    file = small / SMALL / "train.csv"
    file.write_text(TRAIN.replace("Edema", "Oedema"))
    with pytest.raises(CxrError, match=r"train\.csv: no column 'Edema'"):
        load_source("chexpert", small)
    file.write_text(TRAIN.replace("train/patient00003/study1", "train/somebody"))
    with pytest.raises(CxrError, match=r"train\.csv: Path holds '.*/somebody/view1_frontal\.jpg', not"):
        load_source("chexpert", small)
    file.write_text(TRAIN.replace("AP,1.0", "AP,2.0"))
    with pytest.raises(CxrError, match=r"column 'No Finding' holds '2\.0'"):
        load_source("chexpert", small)


MASK = np.zeros((232, 282), dtype=bool)
MASK[40:90, 100:160] = True
EMPTY = np.zeros_like(MASK)


def segmentations(image_id="patient64541_study1_view1_frontal"):
    drawn = {"Airspace Opacity": MASK, "Edema": EMPTY, "Support Devices": EMPTY}
    return {image_id: {name: json.loads(encode_rle(mask)) for name, mask in drawn.items()}}


@pytest.mark.parametrize("given", ["folder", "file", "absolute"])
def test_masks_of_chexlocalize(small, given):
    folder = small / "CheXlocalize"
    folder.mkdir()
    file = folder / "gt_segmentations_val.json"
    file.write_text(json.dumps(segmentations() | segmentations("patient64999_study1_view1_frontal")))
    name = {"folder": "CheXlocalize", "file": "CheXlocalize/gt_segmentations_val.json", "absolute": str(file)}[given]
    found = load_source("chexpert", small, masks=name)
    assert set(found.masks["image_id"]) == {"patient64541_study1_view1_frontal"}
    masks = found.masks.set_index("finding")["rle"]
    assert masks.index.tolist() == ["Airspace Opacity", "Edema", "Support Devices"]
    np.testing.assert_array_equal(decode_rle(masks["Airspace Opacity"]), MASK)
    assert not decode_rle(masks["Edema"]).any()
    assert (found.masks["path"] == "").all()
    frame = found.table.set_index("image_id")[["original_height", "original_width"]]
    assert frame.loc["patient64541_study1_view1_frontal"].tolist() == [232, 282]
    assert frame.drop("patient64541_study1_view1_frontal").isna().to_numpy().all()
    assert "masks of 1 images that are not here: left out" in found.notes


def test_masks_of_both_sets(small, lay):
    lay({f"{SMALL}/test.csv": TEST}, [f"{SMALL}/{path}" for path in paths(TEST)])
    for name, image_id in (("val", "patient64541_study1_view1_frontal"), ("test", "patient64741_study1_view2_lateral")):
        (small / f"gt_segmentations_{name}.json").write_text(json.dumps(segmentations(image_id)))
    found = load_source("chexpert", small, masks=".")
    assert found.masks.groupby("image_id").size().to_dict() == {
        "patient64541_study1_view1_frontal": 3, "patient64741_study1_view2_lateral": 3
    }  # fmt: skip


def test_masks_that_are_none(small):
    file = small / "gt_segmentations_val.json"
    with pytest.raises(CxrError, match=r"no gt_segmentations_val\.json or .* published at https"):
        load_source("chexpert", small, masks=".")
    rle = json.loads(encode_rle(MASK))
    for strange in (
        "[", "[1]", '{"a": 3}', '{"a": {"Edema": "text"}}', '{"a": {"Edema": {"size": [3, 3]}}}',
        json.dumps({"a": {"Edema": rle | {"size": [0, 3]}}}), json.dumps({"a": {"Edema": rle | {"counts": [3, 4]}}}),
        "[" * 100_000,
    ):  # fmt: skip
        file.write_text(strange)
        with pytest.raises(CxrError, match=r"gt_segmentations_val\.json: not CheXlocalize's masks"):
            load_source("chexpert", small, masks=".")
    file.write_text(json.dumps({"a": {"Edema": rle, "Mass": rle | {"size": [282, 232]}}}))
    with pytest.raises(CxrError, match="the masks of an image differ in size"):
        load_source("chexpert", small, masks=".")


def test_counts_of_the_published_table(shared_data, lay):
    raw = pd.read_csv(shared_data / "label_tables" / "chexpert_train.csv")
    root = lay({f"{SMALL}/train.csv": (shared_data / "label_tables" / "chexpert_train.csv").read_text()}, raw["Path"])
    found = load_source("chexpert", root)
    table = found.table
    assert len(table) == len(raw) == 2000
    for name in raw.columns[5:]:
        for value in (1, 0, -1):
            assert (table[name] == value).sum() == (raw[name] == value).sum(), (name, value)
        assert table[name].isna().sum() == raw[name].isna().sum()
    assert list(raw.columns[5:]) == found.class_names
    assert table["image"].tolist() == raw["Path"].tolist()
    assert table["sex"].value_counts().to_dict() == {"M": 1149, "F": 851}
    assert table["age"].tolist() == raw["Age"].tolist()
    expected = raw["AP/PA"].where(raw["Frontal/Lateral"] == "Frontal", "LATERAL")
    assert table["view"].tolist() == expected.tolist()
    assert table["patient_id"].nunique() == raw["Path"].str.split("/").str[2].nunique()
    assert table["study_id"].nunique() == raw["Path"].str.rsplit("/", n=1).str[0].nunique()
    assert set(table["split"]) == {"train", "val"}
    assert table.groupby("patient_id")["split"].nunique().max() == 1
