import numpy as np
import pandas as pd
import pytest
import torch

from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.partners import Partners, frontal_rows, partners_of
from cxrmonai.data.store import write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError
from cxrmonai.transforms import BatchPartnerd

IMAGES = [  # patient, study, view, split; image k is grey k everywhere
    ("a", "a1", "PA", "train"), ("a", "a1", "LATERAL", "train"), ("a", "a2", "AP", "train"),
    ("b", "b1", "PA", "train"), ("b", "b2", "PA", "train"),
    ("c", "c1", "PA", "train"),
    ("", "", "PA", "train"), ("", "", "PA", "train"),
    ("d", "d1", "PA", "val"), ("d", "d1", "LATERAL", "val"),
]  # fmt: skip


def make_store(path, images=IMAGES):
    patient, study, view, split = zip(*images, strict=True)
    count = len(images)
    names = [f"{k}.png" for k in range(count)]
    columns = {
        "image": names,
        "image_id": names,
        "patient_id": patient,
        "study_id": study,
        "view": view,
        "split": split,
    }
    write_store(
        path,
        images=np.repeat(np.arange(count, dtype=np.uint8), 32 * 32).reshape(count, 32, 32),
        geometry=np.tile(letterbox_geometry(32, 32, 32), (count, 1)),
        table=make_table(columns, pd.DataFrame({"Mass": np.zeros(count)})),
        class_names=["Mass"],
        source="test",
    )
    return path


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store.h5")


def by_brute_force(row, study, view, rows):
    patient, own_study, own_view, _ = IMAGES[row]
    tests = {
        "any": lambda a, b: True,
        "same": lambda a, b: a == b != "",
        "other": lambda a, b: "" not in (a, b) and a != b,
    }
    return {
        other for other in rows
        if other != row and patient and IMAGES[other][0] == patient
        and tests[study](IMAGES[other][1], own_study) and tests[view](IMAGES[other][2], own_view)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("study", "view"), [("any", "any"), ("same", "any"), ("other", "any"), ("any", "same"), ("other", "other")]
)
def test_partners_are_those_that_pass_the_filter_and_all_are_drawn(store, study, view):
    rows = range(8)
    found = Partners(store, rows, study, view)
    random = np.random.RandomState(0)
    drawn = np.stack([found.draw(np.arange(8), random) for _ in range(60)])
    for row in rows:
        expected = by_brute_force(row, study, view, rows)
        assert found.paired[row] == bool(expected)
        assert set(drawn[:, row]) == (expected or {row})


def test_those_without_are_counted(store, capsys):
    partners_of(store, range(8), "same", "any")
    assert "note: 6 of 8 images have no partner (pair_study same" in capsys.readouterr().err


def test_batch_gets_its_partners(store):
    transform = BatchPartnerd("image", store, range(8), study="same")
    batch = {"image": torch.tensor([0, 1, 5], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 32, 32),
             "index": torch.tensor([0, 1, 5])}  # fmt: skip
    assert transform(batch)["image"][:, 0, 0, 0].tolist() == [0, 1, 5, 1, 0, 5]


def test_frontal_images_with_a_lateral(store, capsys):
    assert frontal_rows(store, "train").tolist() == [0]
    assert "note: 1 of 8 images (train)" in capsys.readouterr().err
    val = frontal_rows(store, "val")
    assert val.tolist() == [8]
    assert Partners(store, [0, 3], "same", "lateral").draw(np.array([0, 3]), np.random.RandomState(0)).tolist() == [
        1,
        3,
    ]


def test_sets_without_partners_are_refused(tmp_path):
    alone = [("a", "a1", "PA", "train"), ("b", "b1", "PA", "train")]
    path = make_store(tmp_path / "alone.h5", alone)
    with pytest.raises(CxrError, match="no image has a partner of its patient with pair_study any"):
        Partners(path, range(2))
    with pytest.raises(CxrError, match=r"split train has a frontal .* and a lateral"):
        frontal_rows(path, "train")
    path = make_store(tmp_path / "one.h5", [("a", "a1", "PA", "train"), ("a", "a2", "PA", "train")])
    with pytest.raises(CxrError, match="all images are of one patient"):
        Partners(path, range(2))
    path = make_store(tmp_path / "studies.h5", [*alone, ("a", "a1", "AP", "train")])
    with pytest.raises(CxrError, match="pair_study other"):
        Partners(path, range(3), study="other")
    with pytest.raises(CxrError, match="pair_view 'left'"):
        Partners(path, range(3), view="left")
