"""Sources: a publisher's files in, one `Collection` out.

A new source is a module here and one line in `SOURCES`. The module has `ABOUT` (one line), `NEEDS` (the files below the
root, one line each), `WHERE` (address, or empty) and `load(root, …) -> Collection`, whose keyword arguments are the
options of `python -m cxrmonai prepare NAME` and whose docstring is their help.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cxrmonai.data.sources import (
    chexpert,
    csv,
    dicom,
    folder,
    indiana,
    jsrt,
    mimic,
    montgomery,
    nih,
    padchest,
    rsna,
    shenzhen,
    siim,
    vindr,
)
from cxrmonai.data.sources.base import Collection
from cxrmonai.errors import CxrError


@dataclass(frozen=True)
class SourceEntry:
    """A source as the registry knows it, read off its module.

    Attributes:
        load: `load(root, **options) -> Collection`.
        about: one line: what it is.
        needs: the files below the root, one line each.
        where: address it is published at; empty for one's own data.
        drawn_from: the source that its images were taken from, where they were.
    """

    load: Callable[..., Collection]
    about: str
    needs: tuple[str, ...]
    where: str
    drawn_from: str = ""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword arguments of `load` besides the root."""
        return {name: value for name, value in inspect.signature(self.load).parameters.items() if name != "root"}

    def option_help(self) -> dict[str, str]:
        """What each option is, from the docstring of `load`."""
        lines = (inspect.getdoc(self.load) or "").split("Args:")[-1].split("Returns:")[0].splitlines()
        told: dict[str, str] = {}
        for line in lines:
            match = re.match(r"    (\w+): (.*)", line)
            if match:
                name = match[1]
                told[name] = match[2]
            elif told and line.strip():
                told[name] += " " + line.strip()
        return {name: told.get(name, "") for name in self.options}


def _entry(module: ModuleType) -> SourceEntry:
    return SourceEntry(module.load, module.ABOUT, module.NEEDS, module.WHERE, getattr(module, "DRAWN_FROM", ""))


SOURCES: dict[str, SourceEntry] = {
    name: _entry(module)
    for name, module in {
        "nih": nih,
        "chexpert": chexpert,
        "mimic": mimic,
        "padchest": padchest,
        "vindr": vindr,
        "rsna": rsna,
        "siim": siim,
        "indiana": indiana,
        "jsrt": jsrt,
        "shenzhen": shenzhen,
        "montgomery": montgomery,
        "dicom": dicom,
        "csv": csv,
        "folder": folder,
    }.items()
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
