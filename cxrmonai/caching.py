"""Leaving out work whose inputs have not changed since it was done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrmonai.files import write_json


def stamp(path: str | os.PathLike[str]) -> str:
    """Size and time of a file: what changes when it is written anew; `missing` where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "missing"
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def is_made(record: str | os.PathLike[str], inputs: Mapping[str, Any]) -> bool:
    """Whether `note_made` wrote this record for the same inputs, and what it was written for is still there.

    Args:
        record: a JSON file.
        inputs: of JSON's types.
    """
    try:
        content = json.loads(Path(record).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if content.get("inputs") != json.loads(json.dumps(inputs)):
        return False
    return all(stamp(path) == found for path, found in content["outputs"].items())


def note_made(record: str | os.PathLike[str], inputs: Mapping[str, Any], outputs: list[str | os.PathLike[str]]) -> None:
    """Writes down of what something was made.

    Args:
        record: the JSON file to write.
        inputs: of JSON's types.
        outputs: the files that were made.
    """
    write_json(record, {"inputs": inputs, "outputs": {str(path): stamp(path) for path in outputs}})
