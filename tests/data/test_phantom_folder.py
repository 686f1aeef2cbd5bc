"""The phantom as files."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrmonai.cli import main
from cxrmonai.data.phantom import MASK_NAMES
from cxrmonai.data.phantom_folder import write_phantom_folder
from cxrmonai.data.phantom_store import write_phantom
from cxrmonai.data.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "practice"
    return folder, write_phantom_folder(folder, patients=6, size=48, seed=3, masks=4, progress=False)


def test_files_and_tables_hold_what_the_store_holds(made, tmp_path):
    folder, count = made
    write_phantom(tmp_path / "phantom.h5", patients=6, size=48, seed=3, progress=False)
    store = Store(tmp_path / "phantom.h5")
    table = pd.read_csv(folder / "labels.csv")
    assert len(table) == len(store) == count
    assert table["patient_id"].tolist() == store.column("patient_id").tolist()
    np.testing.assert_array_equal(table[store.class_names], store.labels)
    for file, image in zip(table["image"], store.images, strict=True):
        assert file.startswith("images/synthetic-")
        np.testing.assert_array_equal(cv2.imread(str(folder / file), cv2.IMREAD_UNCHANGED), image)
    masks = pd.read_csv(folder / "masks.csv")
    assert masks["patient_id"].tolist() == table["patient_id"].unique()[:4].tolist()
    rows = [table["image"].tolist().index(file) for file in masks["image"]]
    for expected, files in zip(store.masks(rows)[0], masks[list(MASK_NAMES)].to_numpy(), strict=True):
        drawn = [cv2.imread(str(folder / file), cv2.IMREAD_UNCHANGED) for file in files]
        np.testing.assert_array_equal(np.stack(drawn), expected * 255)


def test_prepare_reads_both_tables(made, tmp_path):
    folder, count = made
    prepare = ["prepare", "csv", "--root", str(folder), "--patient_column", "patient_id", "--workers", "0"]
    labelled, masked = tmp_path / "labelled.h5", tmp_path / "masked.h5"
    for arguments in (
        ["--table", "labels.csv", "--class_columns", "Mass,Pleural Effusion", "--out", str(labelled)],
        ["--table", "masks.csv", "--mask_column", "Lungs", "--out", str(masked)],
    ):
        with pytest.raises(SystemExit) as left:
            main([*prepare, *arguments, "--size", "48"])
        assert left.value.code == 0
    assert len(Store(labelled)) == count
    assert Store(labelled).synthetic
    assert Store(masked).synthetic
    assert Store(masked).masks(range(4))[0].any((1, 2, 3)).all()


def test_faults_are_one_line_and_leave_nothing(made, tmp_path, refused):
    assert "is there already" in refused("phantom", "--folder", made[0])
    new = tmp_path / "new"
    assert "size" in refused("phantom", "--folder", new, "--patients", 1, "--size", 1)
    assert "masks: -1 is negative" in refused("phantom", "--folder", new, "--masks=-1")
    assert "cannot write here" in refused("phantom", "--folder", made[0] / "labels.csv/x", "--patients", 1)
    assert "nothing to make; give --out FILE.h5, --folder DIR or --sheet" in refused("phantom")
    assert list(tmp_path.iterdir()) == []
