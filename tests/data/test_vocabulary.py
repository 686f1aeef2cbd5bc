"""One name for each finding, and nothing lost where two columns become one."""

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.nih import FINDINGS
from cxrmonai.data.table import make_table
from cxrmonai.data.vocabulary import canonical, common_names, to_common


@pytest.mark.parametrize(
    ("published", "common"),
    [
        ("Effusion", "Pleural Effusion"),
        ("pleural effusion", "Pleural Effusion"),
        ("Pleural_Effusion", "Pleural Effusion"),
        ("Infiltrate", "Infiltration"),
        ("Airspace Opacity", "Lung Opacity"),
        ("Pleural_Thickening", "Pleural Thickening"),
        ("Pulmonary fibrosis", "Fibrosis"),
        ("Aortic enlargement", "Aortic Enlargement"),
        ("Hydropneumothorax", "Hydropneumothorax"),
        ("my_own finding", "my_own finding"),
    ],
)
def test_names(published, common):
    assert canonical(published) == common


def test_common_names_are_fixed_points():
    assert len(common_names()) == len(set(common_names())) > 25
    assert all(canonical(name) == name for name in common_names())


def test_the_fourteen_of_chestxray14_stay_fourteen():
    assert len({canonical(name) for name in FINDINGS}) == 14


def test_columns_of_one_meaning_are_united():
    nan = np.nan
    labels = pd.DataFrame(
        {
            "Effusion": [1, 0, -1, nan, 0, nan],
            "Mass": [0, 1, 0, 1, 0, 1],
            "Pleural Effusion": [0, -1, 0, nan, nan, 1],
        }
    )
    ids = [f"i{k}" for k in range(6)]
    collection = Collection(
        "x",
        None,
        make_table({"image": ids, "image_id": ids, "extra": range(6)}, labels),
        list(labels),
        boxes=pd.DataFrame({"image_id": ["i0"], "finding": ["Infiltrate"], "x": 1, "y": 2, "w": 3, "h": 4}),
        masks=pd.DataFrame({"image_id": ["i1"], "finding": ["lung"], "path": ["m.png"], "rle": [""]}),
    )
    found = to_common(collection)
    assert found.class_names == ["Pleural Effusion", "Mass"]
    np.testing.assert_array_equal(found.table["Pleural Effusion"], [1, -1, -1, nan, 0, 1])
    np.testing.assert_array_equal(found.table["Mass"], [0, 1, 0, 1, 0, 1])
    assert found.table["extra"].tolist() == list(range(6))
    assert "Effusion" not in found.table
    assert found.boxes["finding"].tolist() == ["Infiltration"]
    assert found.masks["finding"].tolist() == ["Lungs"]
    assert collection.class_names == ["Effusion", "Mass", "Pleural Effusion"]
