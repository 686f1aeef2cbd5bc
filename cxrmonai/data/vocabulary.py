"""One name for each finding, whatever a publisher calls it.

`vocabulary.json` lists the common names, CheXpert's where it has one, each with its synonyms. Case, and blanks, hyphens
and underscores between words, make no difference. A name that is not listed stays as it is. Only words for the same
thing are listed: a narrower finding (a hydropneumothorax) is no synonym of a wider one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from cxrmonai.data.sources.base import Collection

PRIORITY = (0.0, -1.0, 1.0)  # what counts of two columns that become one: present, else uncertain, else absent


def canonical(name: str) -> str:
    """The common name of a finding, or the name itself where it is not listed."""
    return _names().get(_key(name), name)


def common_names() -> list[str]:
    """The names that the vocabulary lists."""
    return sorted(set(_names().values()))


def to_common(collection: Collection) -> Collection:
    """Renames the findings of a collection, its boxes and its masks to the common names.

    Columns that come to one name become one: present where one of them says so, else uncertain, else absent.
    """
    class_names, labels = common_labels(collection.table, collection.class_names)
    table = pd.concat([collection.table.drop(columns=collection.class_names), labels], axis=1)
    sides = {
        name: frame.assign(finding=frame["finding"].map(canonical))
        for name, frame in (("boxes", collection.boxes), ("masks", collection.masks))
    }
    return replace(collection, table=table, class_names=class_names, **sides)


def common_labels(table: pd.DataFrame, class_names: Sequence[str]) -> tuple[list[str], pd.DataFrame]:
    """The label columns of a table under their common names; see `to_common`.

    Args:
        table: with a column for each of the names.
        class_names: findings as published.

    Returns:
        The common names in order of first appearance, and (N, C) float32 labels.
    """
    groups: dict[str, list[str]] = {}
    for name in class_names:
        groups.setdefault(canonical(name), []).append(name)
    labels = {common: _united(table[names].to_numpy(np.float32)) for common, names in groups.items()}
    return list(groups), pd.DataFrame(labels, index=table.index)


def _united(values: np.ndarray) -> np.ndarray:
    united = np.full(len(values), np.nan, np.float32)
    for value in PRIORITY:
        united[(values == value).any(axis=1)] = value
    return united


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@cache
def _names() -> dict[str, str]:
    listed = json.loads(resources.files("cxrmonai.data").joinpath("vocabulary.json").read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for common, synonyms in listed.items():
        for name in (common, *synonyms):
            if names.setdefault(_key(name), common) != common:
                raise ValueError(f"vocabulary.json: '{name}' stands for two findings")
    return names
