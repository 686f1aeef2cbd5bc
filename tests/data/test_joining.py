"""Several sets come into one store, and nobody of one is taken for somebody of another."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmonai.cli import main
from cxrmonai.data.joining import join
from cxrmonai.data.prepare import prepare
from cxrmonai.data.reading import to_store_pixels
from cxrmonai.data.recipe import collect
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError


@pytest.fixture
def two(csv_set):
    """Two sets whose file names, ids and patients are the same, of other pixels and other findings."""
    first, second = csv_set(6, "first"), csv_set(4, "second")
    for k in range(4):
        Image.fromarray(csv_set.draw(500 + k, (30, 30))).save(second / f"{k:03d}.png")
        Image.fromarray(np.full((30, 30), 255, np.uint8)).save(second / "masks" / f"{k:03d}.png")
    rows = pd.read_csv(second / "table.csv", dtype=str).rename(columns={"Mass": "Lung_Mass", "Nodule": "Effusion"})
    rows["fold"] = ["train", "train", "test", "test"]
    rows.to_csv(second / "table.csv", index=False)
    options = {**csv_set.options, "class_columns": "Lung_Mass,Effusion", "split_column": "fold"}
    return load_source("csv", first, **csv_set.options), load_source("csv", second, **options)


def test_patients_images_and_masks_of_two_sets_stay_apart(tmp_path, two, csv_set):
    joined = join([("a", two[0]), ("b", two[1])])
    prepare(joined, tmp_path / "j.h5", 16, 2, progress=False)
    store = Store(tmp_path / "j.h5")
    table = store.table
    assert store.source == "a+b"
    assert table["source"].tolist() == ["a"] * 6 + ["b"] * 4
    assert table["image_id"].tolist() == [f"a_{k:03d}" for k in range(6)] + [f"b_{k:03d}" for k in range(4)]
    assert table["image"].tolist()[5:7] == ["a/005.png", "b/000.png"]
    assert table["patient_id"].tolist() == [f"a:p{k // 2}" for k in range(6)] + [f"b:p{k // 2}" for k in range(4)]
    assert (table["study_id"] == "").all()
    for k in range(6):
        np.testing.assert_array_equal(store.images[k], to_store_pixels(csv_set.draw(k, (24 + k % 5, 20)), 16))
    for k in range(4):
        np.testing.assert_array_equal(store.images[6 + k], to_store_pixels(csv_set.draw(500 + k, (30, 30)), 16))
    assert store.mask_rows().tolist() == [0, 3, 6, 9]
    assert store.mask_names == ["Lungs"]  # 'lung' in both
    masks, _ = store.masks([3, 6])
    assert masks[1].all()
    assert not masks[0].all()


def test_findings_get_common_names_and_are_unknown_where_a_set_has_none(two):
    joined = join([("a", two[0]), ("b", two[1])])
    assert joined.class_names == ["Mass", "Nodule", "Pleural Effusion"]
    np.testing.assert_array_equal(joined.table["Mass"], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    assert joined.table["Nodule"][6:].isna().all()
    assert joined.table["Pleural Effusion"][:6].isna().all()
    np.testing.assert_array_equal(joined.table["Pleural Effusion"][6:], [1, -1, np.nan, 1])
    published = join([("a", two[0]), ("b", two[1])], common=False)
    assert published.class_names == ["Mass", "Nodule", "Lung_Mass", "Effusion"]


def test_splits_are_those_of_the_parts_or_one_over_all(two):
    joined = join([("a", two[0]), ("b", two[1])])
    assert joined.table["split"].tolist() == [*two[0].table["split"], *two[1].table["split"]]
    assert any(note.startswith("a: train, val and test drawn") for note in joined.notes)
    shared = join([("a", two[0]), ("b", two[1])], same_patients=True, seed=3)
    assert shared.table["patient_id"].tolist() == ["p0", "p0", "p1", "p1", "p2", "p2", "p0", "p0", "p1", "p1"]
    assert (shared.table.groupby("patient_id")["split"].nunique() == 1).all()
    assert "one split drawn over all sources" in shared.notes[-1]


def test_same_patients_does_not_join_images_without_a_patient(csv_set):
    root = csv_set(3)
    one = load_source("csv", root, table="table.csv", path_column="file")
    joined = join([("a", one), ("b", one)], same_patients=True)
    assert joined.table["patient_id"].nunique() == 6


def test_names_cannot_make_two_patients_one(two):
    other = replace(two[1], table=two[1].table.assign(patient_id="b:p0"))
    joined = join([("a", other), ("a.b", two[1])])
    assert set(joined.table["patient_id"][:4]).isdisjoint(joined.table["patient_id"][4:])
    for name in ("a_b", "a:b", "a/b", "", "a b"):
        with pytest.raises(CxrError, match="may hold letters, digits, hyphens and dots only"):
            join([(name, two[0]), ("c", two[1])])
    with pytest.raises(CxrError, match="two sources are called 'a'"):
        join([("a", two[0]), ("a", two[1])])


def test_further_columns_boxes_and_skipped_files(two):
    first = replace(
        two[0],
        table=two[0].table.assign(spacing_y=0.1, spacing_x=0.2, reader="R1"),
        boxes=pd.DataFrame(
            {"image_id": ["001"], "finding": ["Infiltrate"], "x": 1, "y": 2, "w": 3, "h": 4, "by": "R1"}
        ),
    )
    second = replace(
        two[1],
        table=two[1].table.assign(fold=range(4)),
        boxes=pd.DataFrame({"image_id": ["002"], "finding": ["Mass"], "x": 1.5, "y": 2, "w": 3, "h": 4}),
        skipped=pd.DataFrame({"image": ["x/y.dcm"], "reason": ["3 frames"]}),
        private=True,
    )
    joined = join([("a", first), ("b", second)])
    assert joined.private
    assert joined.table["reader"].tolist() == ["R1"] * 6 + [""] * 4
    np.testing.assert_array_equal(joined.table["spacing_x"], [0.2] * 6 + [np.nan] * 4)
    np.testing.assert_array_equal(joined.table["fold"], [np.nan] * 6 + [0, 1, 2, 3])
    assert joined.boxes[["image_id", "finding", "x", "by"]].to_numpy().tolist() == [
        ["a_001", "Infiltration", 1.0, "R1"],
        ["b_002", "Mass", 1.5, ""],
    ]
    assert joined.skipped.to_numpy().tolist() == [["b/x/y.dcm", "3 frames"]]


def test_a_recipe(tmp_path, csv_set, png_folder):
    csv_set(5, "ours")
    png_folder(3, "plain")
    recipe = [
        {"source": "csv", "name": "hospital-a", "root": "ours", **csv_set.options},
        {"source": "folder", "root": str(tmp_path / "plain")},
        {"source": "folder", "name": "again", "root": "plain"},
    ]
    (tmp_path / "all.json").write_text(json.dumps(recipe))
    with pytest.raises(SystemExit) as left:
        main(["prepare", str(tmp_path / "all.json"), f"--out={tmp_path / 'a.h5'}", "--size=16", "--workers=0"])
    assert left.value.code == 0
    store = Store(tmp_path / "a.h5")
    assert store.column("source").tolist() == ["hospital-a"] * 5 + ["folder"] * 3 + ["again"] * 3
    assert store.labels.shape == (11, 2)


def test_two_sources_on_the_command_line(tmp_path, csv_set, png_folder, capsys):
    ours, plain = csv_set(5, "ours"), png_folder(3, "plain")
    flags = [f"--{name}={value}" for name, value in csv_set.options.items()]
    roots = f"--root={ours},{plain}"
    arguments = ["prepare", "csv,folder", roots, f"--out={tmp_path / 'a.h5'}", "--size=16", "--workers=0", *flags]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    assert "note: folder: 3 images have no patient id" in capsys.readouterr().out
    assert Store(tmp_path / "a.h5").column("source").tolist() == ["csv"] * 5 + ["folder"] * 3


def test_what_is_wrong_is_said(tmp_path, csv_set, png_folder):
    ours, plain = str(csv_set(5, "ours")), str(png_folder(3, "plain"))

    def fails(word, source, root=None, options=None, **others):
        with pytest.raises(CxrError, match=word):
            collect(source, root, options or {}, **others)

    fails("--root is missing", "csv")
    fails("names 1 folder", "csv,folder", ours)
    fails("named twice; write a recipe", "folder,folder", f"{plain},{plain}")
    fails("none of the sources csv, folder has an option --colour", "csv,folder", f"{ours},{plain}", {"colour": 1})
    fails("unknown source 'x'", "x,folder", f"{ours},{plain}")
    fails("--vocabulary mine: must be published or common", "folder", plain, vocabulary="mine")
    recipe = str(tmp_path / "r.json")
    fails("cannot be read", recipe)
    for text, word in (
        ("[", "not JSON"),
        ("{}", "a recipe is a list"),
        ("[]", "a recipe is a list"),
        ('[{"source": "folder"}]', "entry 1 has no 'root'"),
        ('[{"root": "plain"}]', "entry 1 has no 'source'"),
        ('[{"source": "folder", "root": "plain", "colour": 1}]', "no option --colour"),
        ('[{"source": "folder", "root": "absent"}]', "no such folder"),
    ):
        (tmp_path / "r.json").write_text(text)
        fails(word, recipe)
    (tmp_path / "r.json").write_text('[{"source": "folder", "root": "plain"}]')
    fails("--root: belongs into the recipe", recipe, plain)
    fails("--table: belongs into the recipe", recipe, None, {"table": "t.csv"})
    assert collect(recipe, None, {}).name == "folder"


def test_one_source_keeps_its_names_unless_asked(csv_set):
    root = csv_set(4)
    options = {**csv_set.options, "mask_column": "lung"}
    assert set(collect("csv", root, options).masks["finding"]) == {"lung"}
    assert set(collect("csv", root, options, vocabulary="common").masks["finding"]) == {"Lungs"}


def test_sets_of_one_archive_are_pointed_out(shared_data, tmp_path, monkeypatch):
    from cxrmonai.data import sources

    kin = {**sources.SOURCES, "rsna": replace(sources.SOURCES["folder"], drawn_from="nih", where="x")}
    monkeypatch.setattr("cxrmonai.data.recipe.SOURCES", kin)
    monkeypatch.setattr(sources, "SOURCES", kin)
    nih = shared_data / "nih_sample"
    joined = collect("nih,rsna", f"{nih},{nih / 'images'}", {"images": "images_256"})
    assert any(note.startswith("nih and rsna show patients of one archive (nih)") for note in joined.notes)
    alone = collect("nih,folder", f"{nih},{nih / 'images'}", {"images": "images_256"})
    assert not any("one archive" in note for note in alone.notes)
