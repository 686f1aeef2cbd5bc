"""The command line of this process, where it is one of `python -m monai.bundle`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrmonai.bundle.overrides import RUN_ARGUMENTS, with_args_file

_POSITIONAL = {"run": RUN_ARGUMENTS, "run_workflow": ("workflow_name", "args_file")}


def bundle_command() -> tuple[str, dict[str, Any]] | None:
    """Returns the command (`run`, …) and its arguments with those of its `args_file`; None for any other process."""
    words = _bundle_words()
    if not words:
        return None
    command = words[0].replace("-", "_")
    return command, with_args_file(parse(words[1:], _POSITIONAL.get(command, ())))[0]


def parse(words: Sequence[str], positional: Sequence[str] = ()) -> dict[str, Any]:
    """Reads words as Fire reads them for a function that takes `positional` and any keyword.

    Args:
        words: the words after the command.
        positional: the function's named parameters in order, which take the words that follow no `--key`.
    """
    from fire.parser import DefaultParseValue, SeparateFlagArgs

    texts: dict[str, str] = {}
    loose: list[str] = []
    rest = list(SeparateFlagArgs(list(words))[0])
    rest = rest[: rest.index("-")] if "-" in rest else rest
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        key, equals, text = word.lstrip("-").partition("=")
        key = key.replace("-", "_")
        if not equals and rest and not _is_flag(rest[0]):
            text = rest.pop(0)
        elif not equals:
            key, text = (key[2:], "False") if key.startswith("no") and key not in positional else (key, "True")
        texts[key] = text
    free = [name for name in positional if name not in texts]
    texts.update(zip(free, loose, strict=False))
    return {key: DefaultParseValue(text) for key, text in texts.items()}


def _bundle_words() -> list[str]:
    if Path(sys.argv[0] if sys.argv else "").parts[-3:] == ("monai", "bundle", "__main__.py"):
        return sys.argv[1:]
    original = sys.orig_argv
    for index in range(len(original) - 1):
        if original[index : index + 2] == ["-m", "monai.bundle"]:
            return original[index + 2 :]
    return []


def _is_flag(word: str) -> bool:
    return word.startswith("--") or re.match("-[a-zA-Z]", word) is not None
