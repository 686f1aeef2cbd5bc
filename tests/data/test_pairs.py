"""Pairs of studies: the right partners, honest negatives, order, epochs and refusals."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from cxrmonai.data.dataset import store_loader
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.pairs import ORDER, SAME, StudyPairs
from cxrmonai.data.store import open_store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError


def write(path, rows):
    """A store of 8-pixel images from (patient, study, view, sex, age), all training."""
    table = pd.DataFrame(rows, columns=["patient_id", "study_id", "view", "sex", "age"])
    columns = {name: table[name] for name in table}
    columns |= {"image": [f"{k}.png" for k in range(len(table))], "image_id": [f"i{k}" for k in range(len(table))]}
    columns["split"] = ["train"] * len(table)
    images = np.arange(len(table), dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    geometry = np.tile(letterbox_geometry(8, 8, 8), (len(table), 1))
    write_store(path, images=images, geometry=geometry, table=make_table(columns), class_names=[], source="test")
    return path


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Sixty patients of one to four studies whose views and sexes go with their number of studies."""
    random = np.random.default_rng(0)
    rows = []
    for patient in range(60):
        sex, age = random.choice(["F", "M"]), random.integers(20, 80)
        for study in range(random.integers(1, 5)):
            view = random.choice(["PA", "AP"], p=[0.8, 0.2] if sex == "F" else [0.3, 0.7])
            rows.append([f"p{patient}", f"p{patient}s{study}", view, sex, float(age + study)])
    return write(tmp_path_factory.mktemp("crowd") / "crowd.h5", rows)


def test_pairs_are_what_their_labels_say(crowd):
    made = StudyPairs(crowd, "train")
    table = open_store(crowd).table
    first, second = (table.iloc[made.pairs[:, k]].reset_index(drop=True) for k in (0, 1))
    same = (first["patient_id"] == second["patient_id"]).to_numpy()
    np.testing.assert_array_equal(made.labels[:, SAME] == 1, same)
    assert same.mean() == 0.5
    assert (first["study_id"] != second["study_id"])[same].all()
    known = same & (first["age"] != second["age"]).to_numpy()
    np.testing.assert_array_equal(made.labels[known, ORDER] == 1, (first["age"] < second["age"])[known])
    assert np.isnan(made.labels[~known, ORDER]).all()
    anchors = table["patient_id"].map(table.groupby("patient_id")["study_id"].nunique()) > 1
    assert len(made) == 2 * anchors.sum()


def test_views_and_sexes_do_not_tell_the_answer(crowd):
    """The strangers have the partner's view and sex, so (view, sex) pairs are as often of one patient as of two."""
    made = StudyPairs(crowd, "train")
    table = open_store(crowd).table
    assert made.matched[2:].sum() == 0
    counts = {0: Counter(), 1: Counter()}
    for (a, b), same in zip(made.pairs, made.labels[:, SAME], strict=True):
        one, two = table.iloc[a], table.iloc[b]
        counts[int(same)][(one["view"], one["sex"], two["view"], two["sex"])] += 1
    assert counts[0] == counts[1]


def test_the_first_image_is_the_earlier_half_the_time(crowd):
    made = StudyPairs(crowd, "train")
    order = np.concatenate([_drawn(made, epoch).labels[:, ORDER] for epoch in range(5)])
    known = order[~np.isnan(order)]
    assert chisquare([known.sum(), len(known) - known.sum()]).pvalue > 1e-3


def _drawn(pairs, epoch):
    pairs.set_epoch(epoch)
    return pairs


def test_epochs_and_seeds_draw_other_pairs(crowd):
    one = _drawn(StudyPairs(crowd, "train"), 3).pairs
    assert np.array_equal(one, _drawn(StudyPairs(crowd, "train"), 3).pairs)
    assert not np.array_equal(one, _drawn(StudyPairs(crowd, "train"), 4).pairs)
    assert not np.array_equal(one, _drawn(StudyPairs(crowd, "train", seed=1), 3).pairs)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_holds_first_images_and_then_second_ones(crowd, workers):
    made = StudyPairs(crowd, "train")
    loader = store_loader(made, 6, num_workers=workers, shard=False)
    next(iter(loader))
    made.set_epoch(2)  # workers see it too
    batch = next(iter(loader))
    rows = made.pairs[:6].T.ravel()
    assert torch.equal(batch["index"], torch.from_numpy(rows))
    assert batch["image"].shape == (12, 1, 8, 8)
    assert torch.equal(batch["image"][:, 0, 0, 0], torch.from_numpy(rows.astype(np.uint8)))
    assert torch.equal(batch["label"].nan_to_num(9), torch.from_numpy(made.labels[:6]).nan_to_num(9))


def test_order_can_be_told_by_a_text_column(crowd):
    by_age, by_study = StudyPairs(crowd, "train"), StudyPairs(crowd, "train", order_column="study_id")
    np.testing.assert_array_equal(by_age.labels, by_study.labels)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["a", "a1", "PA", "F", 40], ["b", "b1", "PA", "F", 40]], "second study"),
        ([["a", "a1", "PA", "F", 40], ["a", "a2", "PA", "F", 41]], "one patient"),
        ([["", "", "PA", "F", 40], ["", "", "PA", "F", 41]], "second study"),
        ([["a", "a1", "PA", "F", 40], ["a", "a1", "LATERAL", "F", 40], ["b", "b1", "PA", "F", 1]], "second study"),
    ],
)
def test_sets_without_pairs_are_refused(tmp_path, rows, words):
    with pytest.raises(CxrError, match=words):
        StudyPairs(write(tmp_path / "s.h5", rows), "train")


def test_the_only_patient_with_studies_is_told_from_the_others(tmp_path):
    rows = [["a", "a1", "PA", "F", 40], ["a", "a2", "PA", "F", 41], ["b", "b1", "AP", "M", 60]]
    made = StudyPairs(write(tmp_path / "s.h5", rows), "train")
    assert sorted(made.labels[:, SAME]) == [0, 0, 1, 1]
    assert made.matched[-1] == 2
