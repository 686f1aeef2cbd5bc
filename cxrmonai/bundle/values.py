"""Rules for the values of the keys that a user sets.

A rule is a text of alternatives divided by `|`: `str`, `bool`, `int`, `float` (both with bounds, as in `int >= 1` or
`float > 0 <= 1`), `file` (an existing file), `weights` (an existing file, or `timm:NAME`), `store` (an existing data
file of ours), `device`, `null`, or any other word, which stands for itself. A config adds rules for its own keys under
the top-level key `_checks_`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.wording import listed, one_line
from cxrmonai.errors import CxrError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

COMMON_RULES = {
    "dataset_dir": "str | null",
    "data_file": "store | null",
    "output_dir": "str",
    "ckpt_dir": "str",
    "device": "device",
    "seed": "int >= 0",
    "encoder": "str",
    "image_size": "int >= 16",
    "batch_size": "int >= 1",
    "accumulation_steps": "int >= 1",
    "max_epochs": "int >= 1",
    "learning_rate": "float > 0",
    "num_workers": "int >= 0",
    "amp": "bool",
    "resume": "bool",
    "pretrained": "weights | null",
    "ckpt_path": "file | null",
    "split": "val | test | all",
}
CHECKS_KEY = "_checks_"

_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    ">=": (operator.ge, "of at least"),
    "<=": (operator.le, "of at most"),
    ">": (operator.gt, "above"),
    "<": (operator.lt, "below"),
}
_NAMES = {
    "str": "text",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "file": "the path of a file",
    "weights": "the path of a file, or timm:NAME",
    "store": "the path of a data file",
    "device": "cpu, cuda or cuda:N",
}
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def value_faults(parser: ConfigParser, overridden: Collection[str]) -> list[str]:
    """Returns the faults of the literal values that the common rules or the config's own `_checks_` speak of."""
    own = parser.get(CHECKS_KEY) or {}
    if not isinstance(own, Mapping) or not all(isinstance(rule, str) for rule in own.values()):
        return [f"{CHECKS_KEY}: must be an object that gives each key a rule in text, such as 'int >= 1'"]
    faults = [value_fault(key, parser[key], rule, key in overridden) for key, rule in _rules(own) if key in parser]
    return [fault for fault in faults if fault]


def value_fault(key: str, value: Any, rule: str, overridden: bool = False) -> str | None:
    """Returns the sentence that tells why `value` breaks `rule`, or None; references and `$` texts always pass."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return None
    label = f"--{key}" if overridden else key
    words = [word.strip() for word in rule.split("|")]
    if not any(_accepts(word, value) for word in words):
        needed = listed(_described(word) for word in words if word != "null")
        return f"{label} must be {needed}, not {value!r}{_hint(key, value, words, overridden)}"
    if value in set(words) - set(_NAMES):
        return None
    for word in words:
        if word in _LOOKS and isinstance(value, str):
            return _LOOKS[word](label, value)
    return None


def _rules(own: Mapping[str, str]) -> list[tuple[str, str]]:
    return list({**COMMON_RULES, **own}.items())


def _accepts(word: str, value: Any) -> bool:
    kind = word.split()[0] if word else ""
    if kind in ("int", "float"):
        number = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        return number and all(_BOUNDS[sign][0](value, limit) for sign, limit in _bounds(word))
    if kind == "null":
        return value is None
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "device":
        return isinstance(value, str) and re.fullmatch(r"cpu|mps|xpu|cuda(:\d+)?", value) is not None
    if kind in ("str", "file", "weights", "store"):
        return isinstance(value, str)
    return value == word


def _bounds(word: str) -> list[tuple[str, float]]:
    return [(sign, float(limit)) for sign, limit in re.findall(r"(>=|<=|>|<)\s*([-+.\deE]+)", word)]


def _described(word: str) -> str:
    limits = [f" {_BOUNDS[sign][1]} {limit:g}" for sign, limit in _bounds(word)]
    return _NAMES.get(word.split()[0], word) + " and".join(limits)


def _hint(key: str, value: Any, words: list[str], overridden: bool) -> str:
    if "bool" in words and isinstance(value, str) and value.lower() in _SWITCHES:
        switch = _SWITCHES[value.lower()]
        return f": write --{key} {switch}" if overridden else f": write {str(switch).lower()} without quotes"
    if overridden and not isinstance(value, str) and any(_NAMES.get(word) and _accepts(word, "") for word in words):
        return f""": quote it twice, as in --{key} "'{value}'\""""
    return ""


def _file_look(label: str, value: str) -> str | None:
    path = Path(value)
    if path.is_dir():
        return f"{label}: {value} is a folder; give the file itself"
    return None if path.is_file() else f"{label}: no such file: {value}"


def _weights_look(label: str, value: str) -> str | None:
    return None if value.startswith("timm:") else _file_look(label, value)


def _store_look(label: str, value: str) -> str | None:
    fault = _file_look(label, value)
    if fault:
        return fault
    try:
        from cxrmonai.data.store import open_store
    except ImportError:
        return None
    try:
        store = open_store(value)
    except CxrError as error:
        return f"{label}: {one_line(error)}"
    if hasattr(store, "close"):
        store.close()
    return None


def _device_look(label: str, value: str) -> str | None:
    import torch

    if not value.startswith("cuda"):
        return None
    count = torch.cuda.device_count()
    if int(value.partition(":")[2] or 0) < count:
        return None
    seen = f"only {count} CUDA device(s), numbered from 0" if count else "no CUDA device"
    return f"{label}: {value} is not here: torch sees {seen}; write --device cpu or another one"


_LOOKS: dict[str, Callable[[str, str], str | None]] = {
    "file": _file_look,
    "weights": _weights_look,
    "store": _store_look,
    "device": _device_look,
}
