"""Several collections into one, for one store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.data.splits import split_by_patient
from cxrmonai.data.table import BASE_COLUMNS, validate_table
from cxrmonai.data.vocabulary import to_common
from cxrmonai.errors import CxrError

ORIGIN = "source"
_NAME = re.compile(r"[A-Za-z0-9.-]+")


def join(
    parts: Sequence[tuple[str, Collection]], same_patients: bool = False, seed: int = 0, common: bool = True
) -> Collection:
    """Joins collections; each image keeps the name of its origin in the column `source`.

    Image and study ids get that name in front. So do patient ids, since `17` of one set is somebody else than `17` of
    another. A finding that a set does not know is unknown there.

    Args:
        parts: name and collection of each.
        same_patients: whether patient ids mean the same persons in all sets; one split is then drawn over all.
        seed: of that split.
        common: whether findings get their common names, see `vocabulary`.

    Returns:
        The joined collection; its splits are those of the parts unless `same_patients`.

    Raises:
        CxrError: two parts have one name, or a name has characters other than letters, digits, hyphen and dot.
    """
    names = [name for name, _ in parts]
    for name in names:
        if not _NAME.fullmatch(name):
            raise CxrError(f"'{name}': the name of a source may hold letters, digits, hyphens and dots only")
        if names.count(name) > 1:
            raise CxrError(f"two sources are called '{name}'; give each its own name")
    renamed = [(name, to_common(part) if common else part) for name, part in parts]
    class_names = list(dict.fromkeys(finding for _, part in renamed for finding in part.class_names))
    table = _tables([_named(name, part, same_patients) for name, part in renamed], class_names)
    notes = [f"{name}: {note}" for name, part in renamed for note in part.notes]
    if same_patients:
        table["split"] = split_by_patient(table["patient_id"].tolist(), seed=seed)
        notes.append(f"one split drawn over all sources by patient with seed {seed}, in place of their own")
    validate_table(table, class_names)
    return Collection(
        "+".join(names),
        {name: _folder(part) for name, part in renamed},
        table,
        class_names,
        boxes=_sides([(name, part.boxes) for name, part in renamed]),
        masks=_sides([(name, part.masks) for name, part in renamed], path=True),
        notes=notes,
        skipped=pd.concat(
            [part.skipped.assign(image=_below(name, part.skipped["image"])) for name, part in renamed],
            ignore_index=True,
        ),
        private=any(part.private for _, part in renamed),
    )


def _folder(part: Collection) -> Path:
    if isinstance(part.root, dict):
        raise CxrError(f"{part.name}: is joined already; join all sources at once")
    return part.root


def _below(name: str, paths: pd.Series) -> pd.Series:
    return paths.map(lambda path: f"{name}/{path}" if path else "")


def _named(name: str, part: Collection, same_patients: bool) -> pd.DataFrame:
    table = part.table.copy()
    table["image"] = _below(name, table["image"])
    table["image_id"] = f"{name}_" + table["image_id"]
    known = table["study_id"] != ""
    table.loc[known, "study_id"] = f"{name}_" + table.loc[known, "study_id"]
    # A colon is in no name, so that no two patients can come to one id; images without a patient stay their own.
    if not same_patients:
        table["patient_id"] = f"{name}:" + table["patient_id"]
    else:
        own = table["patient_id"].str.startswith("image:")
        table.loc[own, "patient_id"] = "image:" + table.loc[own, "image_id"]
    table[ORIGIN] = name
    return table


def _tables(tables: list[pd.DataFrame], class_names: list[str]) -> pd.DataFrame:
    joined = pd.concat(tables, ignore_index=True)
    extra = [name for name in joined if name not in (*BASE_COLUMNS, ORIGIN, *class_names)]
    for name in extra:
        there = [table[name] for table in tables if name in table]
        if not all(pd.api.types.is_numeric_dtype(values) for values in there):
            joined[name] = joined[name].astype(object).where(joined[name].notna(), "").map(str)
    labels = joined.reindex(columns=class_names).astype("float32")
    return pd.concat([joined[[*BASE_COLUMNS, ORIGIN, *extra]], labels], axis=1)


def _sides(frames: list[tuple[str, pd.DataFrame]], path: bool = False) -> pd.DataFrame:
    named = []
    for name, frame in frames:
        changed = frame.assign(image_id=f"{name}_" + frame["image_id"].astype(object))
        named.append(changed.assign(path=_below(name, changed["path"])) if path else changed)
    filled = [frame for frame in named if len(frame)]
    joined = pd.concat(filled or named[:1], ignore_index=True)
    text = [name for name in joined if not pd.api.types.is_numeric_dtype(joined[name])]
    joined[text] = joined[text].astype(object).where(joined[text].notna(), "")
    return joined
