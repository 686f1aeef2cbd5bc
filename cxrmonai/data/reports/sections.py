"""From the text of a report to the sentences that are labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

MAX_SENTENCE = 1000
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|vs|approx|st|fig|cf|e\.g|i\.e)\.$", re.IGNORECASE)
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:\d{1,2}[.)]|[-*•])\s)")
_END = re.compile(r"(?<=[.!?])\s+|(?<=[a-z)][.])(?=[A-Z])")
_MARKER = re.compile(r"^(?:\d{1,2}[.)]|[-*•.])(?:\s+|$)")
_BLANK_LINE = re.compile(r"\n\s*\n")


def split_sections(text: str, read: Sequence[str], leave: Sequence[str]) -> list[str]:
    """The parts of a report that are labelled.

    A heading is one of the given names with a colon, in any case at a line's start, in capitals anywhere. A section
    goes on to the next heading. Without any heading of the first kind the whole text is taken but for the sections of
    the second kind, each of which then ends at a blank line as well: what follows the line "COMPARISON: none" without
    a heading is the report.

    Args:
        text: of the report.
        read: headings of the sections that are labelled, in capitals.
        leave: headings of those that are not.

    Returns:
        Texts, in their order; empty ones left out.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    headings = [
        (match.start(), match.end(), " ".join((match[1] or match[2]).upper().split()))
        for match in _headings(tuple(read), tuple(leave)).finditer(text)
    ]
    ends = [start for start, _, _ in headings[1:]] + [len(text)]
    sections = [(name, text[end:stop]) for (_, end, name), stop in zip(headings, ends, strict=False)]
    if any(name in read for name, _ in sections):
        parts = [body for name, body in sections if name in read]
    else:
        parts = [text[: headings[0][0]] if headings else text]
        parts += [_BLANK_LINE.split(f"{body}\n\n", maxsplit=1)[1] for _, body in sections]
    return [part.strip() for part in parts if part.strip()]


def sentences(text: str) -> Iterator[str]:
    """The sentences of a section, on one line each and without list numbers.

    A sentence ends at a full stop, at a blank line, and where a list item begins; one over `MAX_SENTENCE` characters is
    cut between words.
    """
    for paragraph in _PARAGRAPH.split(text):
        start = ""
        for piece in _END.split(re.sub(r"\s+", " ", paragraph).strip()):
            sentence = _MARKER.sub("", f"{start}{piece}").strip()
            if _ABBREVIATION.search(sentence):
                start = f"{sentence} "
                continue
            start = ""
            yield from _cut(sentence)
        yield from _cut(start.strip())


def _cut(sentence: str) -> Iterator[str]:
    while len(sentence) > MAX_SENTENCE:
        place = sentence.rfind(" ", 0, MAX_SENTENCE)
        place = place if place > 0 else MAX_SENTENCE
        yield sentence[:place]
        sentence = sentence[place:].lstrip()
    if sentence:
        yield sentence


@lru_cache(maxsize=8)
def _headings(read: tuple[str, ...], leave: tuple[str, ...]) -> re.Pattern[str]:
    names = sorted({*read, *leave}, key=len, reverse=True)
    choice = "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in names)
    return re.compile(rf"(?:^[ \t]*((?i:{choice}))|(?<![A-Za-z])({choice}))[ \t]*:", re.MULTILINE)
