"""Masks of a CSV with a column of files: another size, another aspect, a missing file, a blank cell, the real lungs."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrmonai.cli import SOME_SKIPPED, main
from cxrmonai.data.store import Store


def prepare(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["prepare", "csv", *map(str, arguments), "--workers", "1"])
    return left.value.code


def test_masks_of_another_size_fit_and_others_are_named(tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (60, 40), dtype=np.uint8)
    mask = np.zeros((60, 40), np.uint8)
    mask[15:45, 10:30] = 255
    masks = {
        "same": mask,
        "half": mask[::2, ::2],
        "one": np.minimum(mask, 1),
        "square": np.zeros((40, 40), np.uint8),
        "absent": None,
        "blank": None,
    }
    for name, each in masks.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        if each is not None:
            cv2.imwrite(str(tmp_path / f"{name}_mask.png"), each)
    cells = ["" if name == "blank" else f"{name}_mask.png" for name in masks]
    table = pd.DataFrame({"image": [f"{name}.png" for name in masks], "lungs": cells})
    table.to_csv(tmp_path / "table.csv", index=False)
    out = tmp_path / "store.h5"
    arguments = ["--root", tmp_path, "--table", "table.csv", "--mask_column", "lungs", "--out", out, "--size", 30]
    assert prepare(*arguments) == SOME_SKIPPED
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert any("absent.png" in line and "absent_mask.png" in line for line in told)
    assert any("square.png" in line and "another aspect" in line for line in told)
    store = Store(out)
    ids = store.column("image_id").tolist()
    found, known = store.masks(range(len(store)))
    assert store.mask_names == ["lungs"]
    assert known[:, 0].tolist() == [name != "blank" for name in ids]
    for name in ("same", "half", "one"):
        area = found[ids.index(name), 0].sum() / (30 * 20)
        assert area == pytest.approx(0.25, abs=0.04), name
    assert prepare(*arguments[:4], "--mask_column", "lung", "--out", tmp_path / "other.h5") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'table.csv'}: no column 'lung'; it has image, lungs\n"


def test_real_lungs(shared_data, tmp_path):
    names = [f"case{k:03d}.png" for k in range(37)]
    table = pd.DataFrame({"image": [f"images/{n}" for n in names], "lungs": [f"masks/{n}" for n in names]})
    table.to_csv(tmp_path / "lungs.csv", index=False)
    out = tmp_path / "lungs.h5"
    root = shared_data / "lung_masks"
    assert prepare("--root", root, "--table", tmp_path / "lungs.csv", "--mask_column", "lungs", "--out", out) == 0
    store = Store(out)
    found, known = store.masks(range(37))
    assert known.all()
    for k in (0, 17, 36):
        drawn = cv2.imread(str(root / "masks" / names[k]), cv2.IMREAD_GRAYSCALE) > 0
        assert found[k].sum() / (drawn.sum() * (256 / max(drawn.shape)) ** 2) == pytest.approx(1, abs=0.03)
