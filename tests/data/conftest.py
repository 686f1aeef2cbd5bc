"""A small data set that several tests pack."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

OPTIONS = {"table": "table.csv", "path_column": "file", "patient_column": "patient", "class_columns": "Mass,Nodule",
           "mask_column": "lung"}  # fmt: skip


@pytest.fixture
def csv_set(png_folder):
    """`make(count)` fills a folder with images of several shapes, masks for every third, and `table.csv`."""

    def make(count, name="set"):
        root = png_folder(count, name)
        (root / "masks").mkdir()
        for k in range(count):
            shape = (24 + k % 5, 20)
            Image.fromarray(png_folder.draw(k, shape)).save(root / f"{k:03d}.png")
            Image.fromarray((png_folder.draw(1000 + k, shape) > 127).astype(np.uint8) * 255).save(
                root / "masks" / f"{k:03d}.png"
            )
        rows = pd.DataFrame(
            {
                "file": [f"{k:03d}.png" for k in range(count)],
                "patient": [f"p{k // 2}" for k in range(count)],
                "Mass": [k % 2 for k in range(count)],
                "Nodule": [("1", "-1", "")[k % 3] for k in range(count)],
                "lung": [f"masks/{k:03d}.png" if k % 3 == 0 else "" for k in range(count)],
            }
        )
        rows.to_csv(root / "table.csv", index=False)
        return root

    make.draw = png_folder.draw
    make.options = OPTIONS
    return make
