"""CSV files of train, val and test images as a store: made at first use, and anew whenever anything in it changes."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai import distributed
from cxrmonai.data.phantom_store import default_store
from cxrmonai.data.prepare import fingerprint, prepare
from cxrmonai.data.sources import Collection, load_source
from cxrmonai.data.sources.tables import named_table, read_csv, require_columns
from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError


def store_of_csvs(
    dataset_dir: str | os.PathLike[str],
    size: int,
    train_csv: str | None = None,
    val_csv: str | None = None,
    test_csv: str | None = None,
    image_root: str | None = None,
    path_column: str = "Path",
    class_columns: str | Sequence[str] | None = None,
    patient_column: str | None = None,
) -> str:
    """The store of CSV files; without any, the phantom.

    Its name holds a digest of the tables, the options and the size and time of every image file, so that a store which
    is there already is used again only when it would come out the same.

    Args:
        dataset_dir: folder to keep it in.
        size: edge of its images in pixels.
        train_csv, val_csv, test_csv, path_column, class_columns, patient_column: see `data.sources.csv.load`.
        image_root: folder that the paths are relative to; by default the current one, or, where all paths are absolute,
            the deepest folder that holds them all.

    Returns:
        Path of the store.

    Raises:
        CxrError: a table is at fault, no class column is named, or several ranks would have to make the store.
    """
    tables = {"train_csv": train_csv, "val_csv": val_csv, "test_csv": test_csv}
    given = {key: str(name) for key, name in tables.items() if name is not None}
    if not given:
        return default_store(dataset_dir)
    if not name_list(class_columns):
        raise CxrError(f"--{next(iter(given))} needs --class_columns: the columns of findings, as A,B")
    root = Path(str(image_root)) if image_root is not None else _common_root(list(given.values()), path_column)
    options = {"path_column": path_column, "class_columns": class_columns, "patient_column": patient_column}
    collection = load_source("csv", root, **given, **options)
    digest = hashlib.sha256(fingerprint(collection, [size], ()).encode() + _files(collection)).hexdigest()
    path = Path(dataset_dir) / f"{Path(next(iter(given.values()))).stem}_{size}px_{digest[:12]}.h5"
    for note in collection.notes:
        print(f"note: {note}")
    if path.exists():
        print(f"note: {path} holds these tables and images already")
        return str(path)
    if distributed.world_size() > 1:
        raise CxrError(
            "--train_csv with several processes: make the store first, with python -m cxrmonai prepare csv "
            f"--train_csv {given['train_csv']} …, and give it as --data_file"
        )
    made = prepare(collection, path, size)
    print(f"note: {path}: {made.written} images written, {len(made.skipped)} skipped")
    for image, reason in made.skipped.itertuples(index=False):
        print(f"skipped {image}: {reason}", file=sys.stderr)
    return str(path)


def _common_root(tables: Sequence[str], path_column: str) -> Path:
    """The folder that the paths of some tables start from."""
    here = Path()
    folders = set()
    for name in tables:
        file = named_table(here, name)
        table = read_csv(file)
        require_columns(table, [path_column], file)
        folders |= {os.path.dirname(path) for path in table[path_column].str.strip() if path}
    absolute = {folder for folder in folders if os.path.isabs(folder)}
    if len(absolute) < len(folders) or not folders:
        return here
    return Path(os.path.commonpath(sorted(absolute)))


def _files(collection: Collection) -> bytes:
    """Size and time of the image files; 0 where there is none."""
    facts = np.zeros((len(collection.table), 2), np.int64)
    for place, image in enumerate(collection.table["image"]):
        try:
            status = os.stat(os.path.join(collection.root, image))
        except OSError:
            continue
        facts[place] = status.st_size, status.st_mtime_ns
    return pd.util.hash_pandas_object(pd.DataFrame(facts), index=False).to_numpy().tobytes()
