"""CSV files of train, val and test images as one store."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmonai.data import csv_store
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError

SPLITS = {"train": 8, "val": 3, "test": 4}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Processes that have to start would take longer than the images."""
    monkeypatch.setattr(csv_store, "prepare", partial(csv_store.prepare, workers=0))


@pytest.fixture
def folder(tmp_path):
    """Images of one grey value each, and a table for each split that tells it as the label."""
    number = 0
    for split, count in SPLITS.items():
        rows = []
        for _ in range(count):
            path = tmp_path / "images" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((20, 20), 10 * number + 5, np.uint8)).save(path)
            rows.append(
                {"Path": str(path), "Odd": number % 2, "Low": int(number < 5), "who": f"p{number // 2}_{split}"}
            )
            number += 1
        pd.DataFrame(rows).to_csv(tmp_path / f"{split}.csv", index=False)
    return tmp_path


def make(folder, size=16, **options):
    files = {f"{split}_csv": folder / f"{split}.csv" for split in SPLITS}
    values = {**files, "class_columns": "Odd,Low", "patient_column": "who", **options}
    return csv_store.store_of_csvs(folder / "data", size, **values)


def flip(table):
    table["Odd"] = 1 - table["Odd"]


def change(path, edit):
    table = pd.read_csv(path)
    edit(table)
    table.to_csv(path, index=False)


def test_each_table_is_its_split_and_labels_stay_with_their_images(folder):
    store = open_store(make(folder))
    assert store.class_names == ["Odd", "Low"]
    assert {split: int((store.column("split") == split).sum()) for split in SPLITS} == SPLITS
    numbers = (store.images[:, 8, 8].astype(int) - 5) // 10
    np.testing.assert_array_equal(store.labels[:, 0], numbers % 2)
    np.testing.assert_array_equal(store.labels[:, 1], numbers < 5)
    assert (numbers[store.column("split") == "test"] >= SPLITS["train"] + SPLITS["val"]).all()


def test_an_unreadable_image_shifts_no_label(folder, capsys):
    (folder / "images/2.png").write_text("no picture")
    (folder / "images/9.png").unlink()
    store = open_store(make(folder))
    numbers = (store.images[:, 8, 8].astype(int) - 5) // 10
    assert sorted(numbers) == [k for k in range(15) if k not in (2, 9)]
    np.testing.assert_array_equal(store.labels[:, 0], numbers % 2)
    told = capsys.readouterr()
    assert "13 images written, 2 skipped" in told.out
    assert "skipped 2.png" in told.err


def test_a_store_is_used_again_until_a_table_an_image_or_an_option_changes(folder, capsys):
    first = make(folder)
    assert make(folder) == first
    assert "holds these tables and images already" in capsys.readouterr().out
    assert make(folder, size=32) != first
    Image.fromarray(np.full((30, 30), 7, np.uint8)).save(folder / "images/0.png")
    second = make(folder)
    assert second != first
    change(folder / "train.csv", flip)
    assert make(folder) not in (first, second)


def shorten(table):
    table["Path"] = ["images/" + path.split("/")[-1] for path in table["Path"]]


def test_relative_paths_start_here_or_at_the_root_that_is_named(folder, monkeypatch):
    for split in SPLITS:
        change(folder / f"{split}.csv", shorten)
    named = make(folder, image_root=folder)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(open_store(make(folder)).images, open_store(named).images)


def test_patients_or_images_in_two_tables_are_refused(folder):
    def same_patient(table):
        table.loc[0, "who"] = "p0_train"

    change(folder / "test.csv", same_patient)
    with pytest.raises(CxrError, match=r"1 patient\(s\) have images in more than one split"):
        make(folder)

    def same_image(table):
        table.loc[0, "Path"] = str(folder / "images/0.png")

    change(folder / "test.csv", same_image)
    with pytest.raises(CxrError, match=r"train.csv and .*test.csv both name .*0.png; an image belongs to one split"):
        make(folder)


def test_without_a_val_table_some_training_patients_are_taken(folder):
    store = open_store(make(folder, val_csv=None))
    assert (store.column("split") == "val").sum() > 0
    assert (store.column("split") == "test").sum() == SPLITS["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path_column": "file"}, r"train.csv: no column 'file'; it has Path"),
        ({"class_columns": "Odd,Hernia"}, r"train.csv: no column 'Hernia'"),
        ({"class_columns": None}, r"--train_csv needs --class_columns"),
        ({"train_csv": None}, r"--val_csv is given without --train_csv"),
        ({"patient_column": "nobody"}, r"no column 'nobody'"),
    ],
)
def test_faults_are_told(folder, options, message):
    with pytest.raises(CxrError, match=message):
        make(folder, **options)
    assert not (folder / "data").exists()
