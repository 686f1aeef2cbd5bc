"""No id and no file name of a hospital comes into a store that shall not tell them."""

import hashlib
import hmac
import stat
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrmonai.cli import main
from cxrmonai.data.prepare import prepare
from cxrmonai.data.pseudonyms import pseudonymise, read_key
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError

KEY = b"0123456789abcdef"


@pytest.fixture
def collection(csv_set):
    return load_source("csv", csv_set(7), **csv_set.options)


def test_a_key_makes_digests_that_are_the_same_in_every_store(collection):
    found, crosswalk = pseudonymise(collection, KEY)
    assert found.private
    expected = [hmac.new(KEY, f"patient_id\0p{k // 2}".encode(), hashlib.sha256).hexdigest()[:20] for k in range(7)]
    assert found.table["patient_id"].tolist() == expected
    assert found.table["image_id"].is_unique
    part = load_source("csv", collection.root, table="table.csv", path_column="file", patient_column="patient")
    assert pseudonymise(part, KEY)[0].table["patient_id"].tolist() == expected
    other = pseudonymise(collection, KEY + b"x")[0]
    assert set(other.table["patient_id"]).isdisjoint(expected)
    assert crosswalk["original_patient_id"].tolist() == collection.table["patient_id"].tolist()
    assert crosswalk["patient_id"].tolist() == expected
    assert crosswalk["image"].tolist() == collection.table["image"].tolist()


def test_numbers_without_a_key(collection):
    found, _ = pseudonymise(collection)
    assert sorted(found.table["patient_id"].unique()) == [f"patient{k:06d}" for k in range(1, 5)]
    assert sorted(found.table["image_id"]) == [f"image{k:06d}" for k in range(1, 8)]
    # Two images of one patient stay together, and the order of the numbers is not that of the ids.
    assert found.table.groupby(collection.table["patient_id"])["patient_id"].nunique().eq(1).all()
    assert found.table["image_id"].tolist() != sorted(found.table["image_id"])


def test_masks_follow_their_images(collection):
    found, crosswalk = pseudonymise(collection, KEY)
    name_of = dict(zip(crosswalk["image_id"], crosswalk["original_image_id"], strict=True))
    assert [name_of[image] for image in found.masks["image_id"]] == collection.masks["image_id"].tolist()


def test_unknown_ids_stay_unknown(collection):
    assert (pseudonymise(collection, KEY)[0].table["study_id"] == "").all()


@pytest.mark.parametrize("keyed", [True, False])
def test_a_private_store_holds_neither_ids_nor_file_names(tmp_path, csv_set, capsys, store_contents, keyed):
    root = csv_set(9, "ward7-smith")
    (root / "003.png").write_bytes(b"")
    (root / "masks" / "006.png").write_text("a text")
    rows = pd.read_csv(root / "table.csv", dtype=str)
    rows["patient"] = "smith" + rows["patient"]
    rows.to_csv(root / "table.csv", index=False)
    out, walk = tmp_path / "a.h5", tmp_path / "who.csv"
    if keyed:
        (tmp_path / "key").write_bytes(KEY + b"\n")
        flags = [f"--{name}={value}" for name, value in csv_set.options.items()]
        arguments = ["prepare", "csv", str(root), str(out), "--size=16", "--workers=0", *flags]
        with pytest.raises(SystemExit) as left:
            main([*arguments, f"--key_file={tmp_path / 'key'}", f"--crosswalk={walk}"])
        assert left.value.code == 3
        said = capsys.readouterr().err
        assert "skipped 003.png: the file is empty" in said
        assert stat.S_IMODE(walk.stat().st_mode) == 0o600
        assert "smith" in walk.read_text()
    else:
        prepare(replace(load_source("csv", root, **csv_set.options), private=True), out, 16, 0, progress=False)
    contents = b"".join(np.ascontiguousarray(values).tobytes() for values in store_contents(out).values())
    assert b"patient0" in contents or keyed
    for secret in (b"smith", b".png"):
        assert secret not in contents + out.read_bytes()
    store = Store(out)
    assert len(store) == 7
    assert (store.column("image") == store.column("image_id")).all()
    assert store.table["patient_id"].nunique() == 5
    assert set(store.skipped["reason"]) == {
        "the file is empty",
        "the file: not a PNG or JPEG image, whatever its name says",
    }
    assert store.mask_rows().tolist() == [0]


def test_keys_that_will_not_do(tmp_path, csv_set, refused):
    with pytest.raises(CxrError, match="absent: the key file cannot be read"):
        read_key(tmp_path / "absent")
    (tmp_path / "short").write_text("secret\n" + " " * 20)
    with pytest.raises(CxrError, match="at least 16 bytes"):
        read_key(tmp_path / "short")
    root = csv_set(3)
    flags = [f"--{name}={value}" for name, value in csv_set.options.items()]
    line = refused("prepare", "csv", root, tmp_path / "a.h5", *flags, f"--crosswalk={tmp_path / 'w.csv'}")
    assert "give --key_file" in line
    assert not (tmp_path / "w.csv").exists()
