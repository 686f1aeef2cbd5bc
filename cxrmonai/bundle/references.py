"""Macros, references and the order they impose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.source import read_file
from cxrmonai.bundle.values import CHECKS_KEY
from cxrmonai.bundle.wording import suggestion

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


def walk(config: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every id of the config with its content, groups before their parts."""
    if id:
        yield id, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from walk(value, f"{id}::{key}" if id else str(key))


def is_content(id: str) -> bool:
    """Whether an id is part of the workflow, and not metadata or rules."""
    return id.partition("::")[0] not in ("_meta_", CHECKS_KEY)


def resolve_macros(parser: ConfigParser) -> list[str]:
    """Replaces `%` macros and relative ids in place as MONAI does, leaving None where a macro leads nowhere."""
    faults: list[str] = []
    _resolve(parser, parser.get(), "", faults)
    return faults


def reference_faults(config: Mapping[str, Any]) -> list[str]:
    """Returns a fault for each `@id` that the config does not hold, and for references that go in a circle."""
    from monai.bundle import ReferenceResolver

    items = dict(walk(config))
    faults = []
    for id, value in items.items():
        if not isinstance(value, str) or not is_content(id):
            continue
        for reference in ReferenceResolver.match_refs_pattern(value):
            if not reference:
                faults.append(f"{id}: MONAI reads the operator '@' as a reference; call torch.matmul or the like")
            elif reference not in items:
                guess = suggestion(reference, items, mark="@")
                faults.append(f"{id}: '@{reference}' names nothing in the config{guess}")
    return faults + _circle_faults(items)


def _resolve(parser: ConfigParser, config: Any, id: str, faults: list[str]) -> Any:
    if isinstance(config, (dict, list)):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            config[key] = _resolve(parser, value, f"{id}::{key}" if id else str(key), faults)
        return config
    if not isinstance(config, str):
        return config
    try:
        config = parser.resolve_relative_ids(id, config)
    except ValueError:
        faults.append(f"{id}: the relative reference '{config}' climbs above the top of the config")
        return None
    return _macro(parser, id, config, faults) if config.startswith("%") else config


def _macro(parser: ConfigParser, id: str, macro: str, faults: list[str]) -> Any:
    from monai.bundle import ConfigParser

    path, target = parser.split_path_id(macro[1:])
    source = parser
    if path:
        content, found = read_file(Path(path))
        if found:
            faults += [f"{id}: the macro '{macro}' needs {fault}" for fault in found]
            return None
        source = ConfigParser(config=content)
    if target in source:
        return deepcopy(source[target])
    ids = [name for name, _ in walk(source.get())]
    faults.append(f"{id}: the macro '{macro}' names nothing in {path or 'the config'}{suggestion(target, ids)}")
    return None


def _circle_faults(items: Mapping[str, Any]) -> list[str]:
    from monai.bundle import ReferenceResolver

    finished: set[str] = set()

    def circle(id: str, trail: list[str]) -> list[str] | None:
        if id in trail:
            return [*trail[trail.index(id) :], id]
        if id in finished or id not in items:
            return None
        for needed in ReferenceResolver.find_refs_in_config(items[id], id):
            found = circle(needed, [*trail, id])
            if found:
                return found
        finished.add(id)
        return None

    for id in items:
        found = circle(id, []) if is_content(id) else None
        if found:
            return [f"{id}: references go in a circle: {' → '.join(found)}; break it, for example in 'initialize'"]
    return []
