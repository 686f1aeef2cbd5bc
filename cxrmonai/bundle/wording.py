"""Small pieces of the sentences in which faults are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: str, options: Iterable[str], mark: str = "") -> str:
    """Returns `; did you mean '…'?` with the option closest to `word`, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{mark}{close[0]}'?" if close else ""


def one_line(text: object) -> str:
    """Returns `text` with every run of white space, line ends included, as one space."""
    return " ".join(str(text).split())


def listed(words: Iterable[str]) -> str:
    """Returns the words as `a, b or c`."""
    *head, last = list(words)
    return f"{', '.join(head)} or {last}" if head else last
