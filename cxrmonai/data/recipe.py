"""Which sources go into a store: from the command line, or from a recipe, a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrmonai.data.joining import join
from cxrmonai.data.sources import SOURCES, Collection, load_source
from cxrmonai.data.vocabulary import to_common
from cxrmonai.errors import CxrError

VOCABULARIES = ("published", "common")


@dataclass(frozen=True)
class Ingredient:
    """One source of a store.

    Attributes:
        name: of the set in the store.
        source: key of `SOURCES`.
        root: folder of the data set.
        options: of the source.
    """

    name: str
    source: str
    root: Path
    options: Mapping[str, Any]


def collect(
    source: str | Sequence[str],
    root: str | Sequence[str] | None,
    options: Mapping[str, Any],
    vocabulary: str | None = None,
    same_patients: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> Collection:
    """Reads what one or several sources know of their images, and joins them.

    Args:
        source: a source's name, several as `A,B`, or a recipe: a JSON file with a list of objects that each have
            `source`, `root` (relative to the recipe), optionally `name`, and options of the source.
        root: folder of each source, as `DIR1,DIR2`; not with a recipe.
        options: of the sources; of several, each gets those that it has.
        vocabulary: `published` leaves the findings' names as they are, `common` brings them to one spelling; by default
            `published` for one source and `common` for several.
        same_patients: whether patient ids mean the same persons in all sources.
        seed: of the splits.
        workers: processes of the sources that read headers; as many as there are cores by default.

    Returns:
        The collection.

    Raises:
        CxrError: an argument, the recipe or a source is at fault; the sentence says which.
    """
    if vocabulary is not None and vocabulary not in VOCABULARIES:
        raise CxrError(f"--vocabulary {vocabulary}: must be {' or '.join(VOCABULARIES)}")
    if isinstance(source, str) and source.endswith(".json"):
        if root is not None or options:
            given = "root" if root is not None else next(iter(options))
            raise CxrError(f"--{given}: belongs into the recipe {source}, in the source that it is meant for")
        ingredients = _of_recipe(Path(source))
    else:
        ingredients = _of_command_line(_listed(source), root, options)
    parts = [(each.name, _load(each, seed=seed, workers=workers)) for each in ingredients]
    if len(parts) == 1:
        collection = parts[0][1]
        return to_common(collection) if vocabulary == "common" else collection
    joined = join(parts, same_patients, seed, common=vocabulary != "published")
    joined.notes.extend(_kinships(ingredients))
    return joined


def _load(each: Ingredient, **common: Any) -> Collection:
    known = SOURCES[each.source].options if each.source in SOURCES else {}
    options = {key: value for key, value in common.items() if key in known} | dict(each.options)
    return load_source(each.source, each.root, **options)


def _of_command_line(
    names: list[str], root: str | Sequence[str] | None, options: Mapping[str, Any]
) -> list[Ingredient]:
    if root is None:
        raise CxrError("--root is missing: the folder of the data set")
    if len(names) == 1:
        return [Ingredient(names[0], names[0], Path(str(root)), options)]
    if len(set(names)) < len(names):
        raise CxrError("a source is named twice; write a recipe, in which each set has its own name (docs/data.md)")
    roots = _listed(root)
    if len(roots) != len(names):
        raise CxrError(f"--root names {len(roots)} folder(s) for {len(names)} sources; give one for each, as DIR1,DIR2")
    known = {name: SOURCES[name].options if name in SOURCES else {} for name in names}
    for option in options:
        if not any(option in has for has in known.values()):
            raise CxrError(f"none of the sources {', '.join(names)} has an option --{option}")
    return [
        Ingredient(name, name, Path(folder), {key: value for key, value in options.items() if key in known[name]})
        for name, folder in zip(names, roots, strict=True)
    ]


def _listed(value: str | Sequence[str]) -> list[str]:
    """Parts of `A,B`, which the command line may have taken apart already."""
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts]


def _of_recipe(path: Path) -> list[Ingredient]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CxrError(f"{path}: the recipe cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CxrError(f"{path}: the recipe is not JSON ({error})") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise CxrError(f'{path}: a recipe is a list of objects such as [{{"source": "nih", "root": "nih"}}]')
    ingredients = []
    for number, entry in enumerate(entries, 1):
        missing = [key for key in ("source", "root") if not isinstance(entry.get(key), str)]
        if missing:
            raise CxrError(f"{path}: entry {number} has no '{missing[0]}'")
        options = {key: value for key, value in entry.items() if key not in ("source", "root", "name")}
        name = str(entry.get("name", entry["source"]))
        ingredients.append(Ingredient(name, entry["source"], path.parent / entry["root"], options))
    return ingredients


def _kinships(ingredients: Sequence[Ingredient]) -> list[str]:
    """Sentences on sources that show the same patients."""
    origin = {each.name: SOURCES[each.source].drawn_from or each.source for each in ingredients}
    kin = {source: [name for name, of in origin.items() if of == source] for source in origin.values()}
    return [
        f"{' and '.join(names)} show patients of one archive ({source}), who may now be in two splits; leave one "
        "out, or let `info` find the copies"
        for source, names in kin.items()
        if len(names) > 1 and SOURCES[source].where
    ]
