"""Finding the pretraining methods that the bundles offer.

A bundle says in its metadata.json what a method of it is: `"pretraining": "bundle"`, train.json as it is (its presets
are variants); or `"pretraining": "presets"`, each overlay in configs/presets. So a new preset appears by being there.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError

UNTRAINED = "untrained"
KEY = "pretraining"
KINDS = ("bundle", "presets")


@dataclass(frozen=True)
class Method:
    """A way to pretrain an encoder.

    Attributes:
        name: of the bundle, or of the preset.
        bundle: folder of the bundle; `None` for `untrained`.
        configs: train.json and the overlay, in order.
    """

    name: str
    bundle: Path | None
    configs: tuple[Path, ...] = ()

    def content(self) -> str:
        """The text of its configs."""
        return "\n".join(path.read_text(encoding="utf-8") for path in self.configs)


def bundles_folder(given: str | None = None) -> Path:
    """The folder of bundles: the one given, or `bundles` here, or beside the package.

    Raises:
        CxrError: there is none.
    """
    choices = [Path(given)] if given else [Path("bundles"), Path(__file__).resolve().parents[2] / "bundles"]
    for folder in choices:
        if any(folder.glob("*/configs/metadata.json")):
            return folder
    raise CxrError(f"{choices[0]}: no bundles in it; give the folder with --bundles")


def find_methods(folder: str | os.PathLike[str]) -> list[Method]:
    """All methods of the bundles in a folder, by bundle and name, after `untrained`.

    A preset that has the name of another bundle's is called BUNDLE/PRESET, as the other is.

    Args:
        folder: of bundles.

    Raises:
        CxrError: a bundle declares something that is not known.
    """
    found = [method for path in sorted(Path(folder).glob("*/configs/metadata.json")) for method in _methods(path)]
    names = [method.name for method in found]
    return [
        Method(UNTRAINED, None),
        *(
            Method(f"{method.bundle.name}/{method.name}", method.bundle, method.configs)
            if names.count(method.name) > 1
            else method
            for method in found
        ),
    ]


def _methods(metadata: Path) -> list[Method]:
    try:
        kind = json.loads(metadata.read_text(encoding="utf-8")).get(KEY)
    except (ValueError, AttributeError) as error:
        raise CxrError(f"{metadata}: not readable as a JSON object; mend it") from error
    if kind is None:
        return []
    if kind not in KINDS:
        raise CxrError(f"{metadata}: {KEY} '{kind}': known are {', '.join(KINDS)}")
    bundle, train = metadata.parents[1], metadata.with_name("train.json")
    if kind == "bundle":
        return [Method(bundle.name, bundle, (train,))]
    presets = sorted((metadata.parent / "presets").glob("*.json"))
    return [Method(preset.stem, bundle, (train, preset)) for preset in presets]


def choose_methods(methods: Sequence[Method], chosen: str | Sequence[str] = "all") -> list[Method]:
    """Some methods by name, `untrained` always first among them.

    Args:
        methods: of `find_methods`.
        chosen: `all`, names as `A,B`, or a list.

    Raises:
        CxrError: an unknown name.
    """
    names = name_list(chosen) or ["all"]
    if names == ["all"]:
        return list(methods)
    known = {method.name: method for method in methods}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise CxrError(f"--methods {name}: no such method; {hint}")
    return [known[name] for name in dict.fromkeys([UNTRAINED, *names])]
