"""Reading and merging config files as MONAI does, with the faults told by file, line and key."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.wording import one_line, suggestion

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

ConfigFile = str | Path | Sequence[str | Path]


def config_files(config_file: ConfigFile) -> list[Path]:
    """Returns the paths meant by `config_file`: a path, several, `"['a.json', 'b.json']"` or `"a.json,b.json"`."""
    if isinstance(config_file, Path):
        return [config_file]
    if not isinstance(config_file, str):
        return [Path(item) for item in config_file]
    if Path(config_file).is_file():
        return [Path(config_file)]
    if config_file.strip()[:1] in ("[", "("):
        try:
            return [Path(item) for item in ast.literal_eval(config_file.strip())]
        except (SyntaxError, ValueError, TypeError):
            return [Path(config_file)]
    return [Path(part.strip()) for part in config_file.split(",")]


def read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the content of one JSON or YAML file and the faults of the file itself."""
    if path.is_dir():
        return {}, [f"{path}: is a folder; give the config file inside it"]
    if not path.is_file():
        return {}, [f"{path}: no such file{_neighbour(path)}"]
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        return {}, [f"{path}: a config file ends in .json, .yaml or .yml"]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return {}, [f"{path}: cannot be read as UTF-8 text ({one_line(error)})"]
    content, faults = _parse_json(path, text) if path.suffix.lower() == ".json" else _parse_yaml(path)
    if not faults and not isinstance(content, dict):
        faults = [f"{path}: holds a {type(content).__name__} where an object {{…}} of keys is needed"]
    return (content if isinstance(content, dict) else {}), faults


def merge(files: Iterable[Path]) -> tuple[ConfigParser, list[str]]:
    """Merges the files in order into one parser, `+key` and `a::b` as in MONAI, and returns it with the faults."""
    from monai.bundle import ConfigParser

    parser, faults = ConfigParser(config={}), []
    for path in files:
        content, found = read_file(path)
        faults += found
        for key, value in content.items():
            faults += _merge_key(parser, path, key, value)
    return parser, faults


def read_metadata(parser: ConfigParser, path: Path) -> list[str]:
    """Puts the metadata file, where there is one, at `_meta_` as MONAI does, and returns its faults."""
    content, faults = read_file(path) if path.is_file() else ({}, [])
    parser.set(content, parser.meta_key)
    return faults


def _merge_key(parser: ConfigParser, path: Path, key: str, value: Any) -> list[str]:
    from monai.bundle.utils import MERGE_KEY, merge_kv

    target = key.removeprefix(MERGE_KEY)
    if key.startswith(MERGE_KEY) and target not in parser:
        return [f"{path}: '{key}' adds to '{target}', which no earlier file holds{suggestion(target, parser.get())}"]
    try:
        merge_kv(parser, key, value)
    except (KeyError, IndexError):
        return [f"{path}: '{key}' sets a key inside a group that no earlier file holds"]
    except (TypeError, ValueError):
        held = type(parser.get(target)).__name__
        return [f"{path}: '{key}' ({type(value).__name__}) does not fit what it changes ({held})"]
    return []


def _parse_json(path: Path, text: str) -> tuple[Any, list[str]]:
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in items:
            if key in content:
                repeated.append(key)
            content[key] = value
        return content

    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        return {}, [f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}"]
    return content, [f"{path}: the key '{key}' occurs twice in one object; remove one of them" for key in repeated]


def _parse_yaml(path: Path) -> tuple[Any, list[str]]:
    from monai.bundle import ConfigParser
    from yaml import YAMLError

    try:
        return ConfigParser.load_config_file(path), []
    except (YAMLError, ValueError) as error:
        return {}, [f"{path}: not YAML: {one_line(error)}"]


def _neighbour(path: Path) -> str:
    names = [item.name for item in path.parent.glob("*") if item.is_file()] if path.parent.is_dir() else []
    return suggestion(path.name, names)
