"""Sources: a publisher's files in, one `Collection` out.

A new source is a module here with a `load(root, …) -> Collection`, and one line in `SOURCES`. The keyword arguments of
`load` are the options of `python -m cxrmonai prepare NAME`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrmonai.data.sources import csv, folder, nih
from cxrmonai.data.sources.base import Collection
from cxrmonai.errors import CxrError


@dataclass(frozen=True)
class SourceEntry:
    """A source as the registry knows it.

    Attributes:
        load: `load(root, **options) -> Collection`.
        about: one line: what it is and what it needs.
    """

    load: Callable[..., Collection]
    about: str

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword arguments of `load` besides the root."""
        return {name: value for name, value in inspect.signature(self.load).parameters.items() if name != "root"}


SOURCES: dict[str, SourceEntry] = {
    "nih": SourceEntry(
        nih.load, "ChestX-ray14: images folder, Data_Entry_2017*.csv, BBox_List_2017.csv, official lists"
    ),
    "csv": SourceEntry(csv.load, "any table with a column of image paths: --table, --path_column, --class_columns, …"),
    "folder": SourceEntry(folder.load, "a folder of radiographs without labels"),
}


def load_source(name: str, root: str | Path, **options: Any) -> Collection:
    """Reads what a source knows of its images, without reading an image.

    Args:
        name: key of `SOURCES`.
        root: folder of the data set.
        **options: of that source.

    Returns:
        The collection.

    Raises:
        CxrError: unknown source, missing folder, or an option that the source does not have.
    """
    if name not in SOURCES:
        raise CxrError(f"unknown source '{name}'; known are {', '.join(SOURCES)}")
    entry = SOURCES[name]
    for option in options:
        if option not in entry.options:
            raise CxrError(f"source '{name}' has no option --{option}; it has {_listed(entry)}")
    for option, parameter in entry.options.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise CxrError(f"source '{name}' needs --{option}; its options are {_listed(entry)}")
    seed = options.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise CxrError(f"--seed {seed}: must be a whole number, 0 or more")
    root = Path(root)
    if not root.is_dir():
        raise CxrError(f"{root}: no such folder; --root is the folder of the data set")
    return entry.load(root, **options)


def _listed(entry: SourceEntry) -> str:
    return ", ".join(f"--{option}" for option in entry.options) or "none"


__all__ = ["SOURCES", "Collection", "SourceEntry", "load_source"]
