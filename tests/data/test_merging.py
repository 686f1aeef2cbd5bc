"""Parts that several machines made come to the store that one run makes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrmonai.cli import main
from cxrmonai.data.merging import _Images, find_parts, merge, parse_shard, part_path
from cxrmonai.data.prepare import part, prepare
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError


@pytest.fixture
def root(csv_set):
    """Eleven images, of which the first of the second part and one mask cannot be read."""
    root = csv_set(11)
    (root / "003.png").write_bytes(b"")
    (root / "masks" / "009.png").write_text("a text")
    return root


@pytest.fixture
def shard(csv_set, capsys):
    def run(root, out, text=None, **options):
        flags = {"size": 16, "workers": 0, **csv_set.options, **options}
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        with pytest.raises(SystemExit) as left:
            main(["prepare", "csv", str(root), str(out), *arguments, *([f"--shard={text}"] if text else [])])
        capsys.readouterr()
        return left.value.code

    return run


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_parts_together_are_one_run(tmp_path, root, shard, same_stores, count, capsys):
    shard(root, tmp_path / "one.h5")
    codes = [shard(root, tmp_path / "all.h5", f"{k}/{count}") for k in range(count, 0, -1)]
    assert set(codes) <= {0, 3}
    with pytest.raises(SystemExit) as left:
        main(["merge", str(tmp_path / "all.h5")])
    assert left.value.code == 0
    assert f"9 images of {count} parts, 2 skipped" in capsys.readouterr().out
    same_stores(tmp_path / "all.h5", tmp_path / "one.h5")
    one, merged = Store(tmp_path / "one.h5"), Store(tmp_path / "all.h5")
    assert merged.options == one.options
    assert vars(merged).keys() == vars(one).keys()
    # Stronger still: the files are the same to the last byte.
    assert (tmp_path / "all.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_the_root_may_lie_elsewhere_on_each_machine(tmp_path, root, shard, same_stores):
    shutil.copytree(root, tmp_path / "mounted" / "here")
    shard(root, tmp_path / "one.h5")
    shard(root, tmp_path / "all.h5", "1/2")
    shard(tmp_path / "mounted" / "here", tmp_path / "all.h5", "2/2")
    merge(find_parts(tmp_path / "all.h5"), tmp_path / "all.h5", progress=False)
    same_stores(tmp_path / "all.h5", tmp_path / "one.h5")


def test_splits_are_those_of_the_whole_and_parts_share_no_image(root, csv_set):
    whole = load_source("csv", root, **csv_set.options)
    parts = [part(whole, k, 4) for k in range(1, 5)]
    pd.testing.assert_frame_equal(pd.concat([each.table for each in parts], ignore_index=True), whole.table)
    assert sum(len(each.masks) for each in parts) == len(whole.masks)
    assert [len(each.table) for each in parts] == [2, 3, 3, 3]


def test_boxes_skipped_files_and_masks_of_several_parts(tmp_path, root, csv_set, same_stores):
    whole = load_source("csv", root, **csv_set.options)
    ids = whole.table["image_id"]
    boxes = pd.DataFrame(
        {"image_id": ids.iloc[[9, 0, 4, 0, 3]].to_numpy(), "finding": "Mass", "x": [1, 2, 3, 4, 5], "y": 0, "w": 1.5,
         "h": 2, "reader": ["R1", "R2", "Rö", "R1", "R9"]}
    )  # fmt: skip
    skipped = pd.DataFrame({"image": ["a.dcm", "b.dcm"], "reason": ["no image", "3 frames"]})
    whole = replace(whole, boxes=boxes, skipped=skipped)
    prepare(whole, tmp_path / "one.h5", 16, 0, progress=False)
    paths = [tmp_path / f"{k}.h5" for k in (1, 2, 3)]
    for k, path in enumerate(paths, 1):
        prepare(whole, path, 16, 0, progress=False, shard=(k, 3))
    merge([paths[2], paths[0], paths[1]], tmp_path / "all.h5", progress=False)
    same_stores(tmp_path / "all.h5", tmp_path / "one.h5")
    store = Store(tmp_path / "all.h5")
    assert store.boxes["reader"].tolist() == ["R2", "R1", "Rö"]  # the images of the others cannot be read
    assert store.skipped["image"].tolist() == ["a.dcm", "b.dcm", "003.png", "009.png"]
    assert store.mask_rows().tolist() == [0, 5]


def test_parts_that_do_not_belong_together(tmp_path, root, shard, refused):
    for k in (1, 2, 3):
        shard(root, tmp_path / "a.h5", f"{k}/3")
    parts = [part_path(tmp_path / "a.h5", k, 3) for k in (1, 2, 3)]
    out = tmp_path / "out.h5"
    assert "part(s) 2 are missing" in refused("merge", out, parts[0], parts[2])
    assert "part 1 is given twice" in refused("merge", out, *parts, parts[0])
    shard(root, tmp_path / "b.h5", "2/3", depth=16)
    assert "part of another whole" in refused("merge", out, parts[0], part_path(tmp_path / "b.h5", 2, 3), parts[2])
    rows = pd.read_csv(root / "table.csv", dtype=str)
    rows.loc[10, "Mass"] = "-1"  # not even a row of that part
    rows.to_csv(root / "table.csv", index=False)
    shard(root, tmp_path / "c.h5", "2/3")
    assert "the data changed" in refused("merge", out, parts[0], part_path(tmp_path / "c.h5", 2, 3), parts[2])
    shard(root, tmp_path / "whole.h5")
    assert "is no part of a store" in refused("merge", out, tmp_path / "whole.h5")
    assert "no other.part-1-of-4.h5" in refused("merge", tmp_path / "other.h5")
    shard(root, tmp_path / "a.h5", "1/2")
    assert "parts of 2 and of 3 lie here" in refused("merge", tmp_path / "a.h5")
    assert not out.exists()


def test_an_existing_store_is_replaced_only_when_asked(tmp_path, root, shard, refused):
    for k in (1, 2):
        shard(root, tmp_path / "a.h5", f"{k}/2")
    (tmp_path / "a.h5").write_text("mine")
    assert "exists already" in refused("merge", tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
    merge(find_parts(tmp_path / "a.h5"), tmp_path / "a.h5", overwrite=True, progress=False)
    assert len(Store(tmp_path / "a.h5")) == 9


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "0.25"])
def test_shards_that_are_none(text, tmp_path, csv_set, refused):
    line = refused("prepare", "csv", csv_set(3), tmp_path / "a.h5", "--table=table.csv", f"--shard={text}")
    assert f"--shard {text}: must be i/N" in line


def test_more_parts_than_images(tmp_path, csv_set, refused):
    flags = [f"--{name}={value}" for name, value in csv_set.options.items()]
    assert "there are only 3 images" in refused("prepare", "csv", csv_set(3), tmp_path / "a.h5", "--shard=1/4", *flags)


def test_paths_and_numbers():
    assert parse_shard("3/16") == (3, 16)
    assert part_path("d/a.h5", 3, 16).as_posix() == "d/a.part-3-of-16.h5"
    with pytest.raises(CxrError):
        parse_shard("3/2")


def test_images_of_several_stores_are_fetched_as_asked(tmp_path, root, shard):
    for k in (1, 2, 3):
        shard(root, tmp_path / "a.h5", f"{k}/3")
    stores = [Store(path) for path in find_parts(tmp_path / "a.h5")]
    whole = np.concatenate([store.images for store in stores])
    images = _Images(stores, np.cumsum([0, *map(len, stores)]))
    for start in range(len(whole)):
        np.testing.assert_array_equal(images[start], whole[start])
        for stop in range(start + 1, len(whole) + 1):
            np.testing.assert_array_equal(images[start:stop], whole[start:stop])
