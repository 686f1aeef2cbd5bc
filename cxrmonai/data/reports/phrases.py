"""The small language of phrases in `patterns.yaml`: words, `word*`, `a|b`, `word?` and `...`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, product

_BETWEEN = r"[\s/-]+"
_WORD = re.compile(r"[^\s*?|]+\*?(\|[^\s*?|]+\*?)*\??")
MAX_TRIGGERS = 500


class PhraseError(ValueError):
    """A phrase is not written as the language wants it; the text says why."""


def finder(phrases: Sequence[str], over_commas: bool = False) -> re.Pattern[str]:
    """A pattern that finds any of the phrases in lower-case text, the longer phrase first.

    Where a phrase has `...`, what follows the last one is a group of the match: the words that a negation must stand
    in front of ("the heart is not enlarged" negates `enlarged`).

    Args:
        phrases: in the language of this module.
        over_commas: `...` stands for up to eight words, commas and colons, but not for "no", "not" or "without";
            otherwise for up to six words without a comma, but not for "with", "without", "but", "normal" or "clear".

    Raises:
        PhraseError: a phrase is none.
    """
    ordered = sorted(phrases, key=len, reverse=True)
    return re.compile(
        r"(?<![a-z0-9])(?:" + "|".join(_regex(phrase, over_commas) for phrase in ordered) + r")(?![a-z0-9])"
    )


def tail(match: re.Match[str]) -> tuple[int, int]:
    """Where in the text the words stand that the context of a match of `finder` is judged at."""
    return match.span(match.lastindex or 0)


def triggers(phrase: str) -> list[str]:
    """All texts that a phrase without `*` and `...` stands for, in lower case.

    Raises:
        PhraseError: it is no such phrase, or stands for too many.
    """
    words = _words(phrase)
    if "..." in words or any("*" in word for word in words):
        raise PhraseError("'*' and '...' cannot stand here")
    choices = [[*word.rstrip("?").split("|"), *([""] if word.endswith("?") else [])] for word in words]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_TRIGGERS:
        raise PhraseError(f"it stands for {count} texts, more than {MAX_TRIGGERS}; write several phrases")
    texts = [" ".join(filter(None, choice)) for choice in product(*choices)]
    return [text for text in dict.fromkeys(texts) if text]


def _words(phrase: str) -> list[str]:
    words = phrase.lower().split()
    if not words:
        raise PhraseError("it is empty")
    for word in words:
        if word != "..." and (not _WORD.fullmatch(word) or "..." in word):
            raise PhraseError(f"'{word}' is no word, word*, a|b or word?")
    return words


def _regex(phrase: str, over_commas: bool) -> str:
    words = _words(re.sub(r"[-/]", " ", phrase))
    if words[0] == "..." or words[-1] == "..." or ("...", "...") in pairwise(words):
        raise PhraseError("'...' stands between words")
    parts = [_segment(part.split()) for part in " ".join(words).split(" ... ")]
    if over_commas:
        gap = r"(?:[\s,:/-]+(?!(?:no|not|without)\b)[^\s,;:()/-]+){0,8}?[\s,:/-]+"
    else:
        gap = r"(?:[\s/-]+(?!(?:with|without|but|normal|clear)\b)[^\s,;:()/-]+){0,6}?[\s/-]+"
    if len(parts) == 1:
        return parts[0]
    return gap.join(parts[:-1]) + gap + f"({parts[-1]})"


def _segment(words: list[str]) -> str:
    if all(word.endswith("?") for word in words):
        raise PhraseError("every word of it, or of a part beside '...', may be missing")
    pieces = []
    # A word that may be missing takes the space beside it with it: behind it, or, once a needed word has come, before.
    needed_before = False
    for word in words:
        optional = word.endswith("?")
        choices = [re.escape(choice).replace(r"\*", r"[a-z0-9]*") for choice in word.rstrip("?").split("|")]
        text = f"(?:{'|'.join(choices)})"
        if not needed_before:
            pieces.append(f"(?:{text}{_BETWEEN})?" if optional else text)
        else:
            pieces.append(f"(?:{_BETWEEN}{text})?" if optional else _BETWEEN + text)
        needed_before = needed_before or not optional
    return "".join(pieces)
