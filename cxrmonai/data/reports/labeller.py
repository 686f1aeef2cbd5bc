"""From the sections of one report to its labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cxrmonai.data.reports.context import ContextPipeline
from cxrmonai.data.reports.findings import EDEMA, FINDINGS, NO_FINDING, SUPPORT_DEVICES
from cxrmonai.data.reports.patterns import FindingPatterns, Patterns, load_patterns
from cxrmonai.data.reports.phrases import tail
from cxrmonai.data.reports.sections import sentences, split_sections

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1
_CACHED_SENTENCES = 50_000
_STRENGTH = {PRESENT: 2, UNCERTAIN: 1, ABSENT: 0}


@dataclass(frozen=True)
class Mention:
    """A finding in a sentence.

    Attributes:
        finding: one of CheXpert's, or `findings.OTHER`.
        status: 1 present, 0 absent, -1 uncertain.
        words: that name it, in lower case.
        grade: of edema, 1 to 3, where the words tell.
    """

    finding: str
    status: int
    words: str
    grade: int | None = None


@dataclass(frozen=True)
class ReportLabels:
    """What a report says.

    Attributes:
        findings: for each of CheXpert's 1, 0, -1 or None (not mentioned).
        edema_severity: 0 none, 1 vascular congestion, 2 interstitial, 3 alveolar edema (Horng et al., Radiology: AI
            2021), or None.
    """

    findings: dict[str, int | None]
    edema_severity: int | None


class Labeller:
    """Labels reports; sentences that come again are not analysed again.

    Args:
        patterns: what to look for; those of the package by default.
    """

    def __init__(self, patterns: Patterns | None = None) -> None:
        self.patterns = patterns or load_patterns()
        self._context = ContextPipeline(self.patterns)
        self.mentions = lru_cache(_CACHED_SENTENCES)(self._mentions)

    def label(self, text: str) -> ReportLabels:
        """Labels a report from its text; see `sections.split_sections` for what of it is read."""
        return self.label_sections(self.sections(text))

    def sections(self, text: str) -> list[str]:
        """What of a report's text is read."""
        return split_sections(text, self.patterns.read, self.patterns.leave)

    def sections_of_parts(self, parts: Iterable[tuple[str, str]]) -> list[str]:
        """What is read of a report whose parts are told apart.

        Args:
            parts: pairs of heading in capitals and text. A part whose heading the patterns do not know is split by the
                headings in its text.
        """
        texts: list[str] = []
        for heading, text in parts:
            if heading in self.patterns.read:
                texts.append(text)
            elif heading not in self.patterns.leave:
                texts += self.sections(text)
        return texts

    def label_sections(self, sections: Iterable[str]) -> ReportLabels:
        """Labels a report from the texts of the sections that are to be read."""
        return aggregate([found for text in sections for each in sentences(text) for found in self.mentions(each)])

    def _mentions(self, sentence: str) -> tuple[Mention, ...]:
        """The mentions of a sentence, those of contexts that say nothing of this film left out."""
        text = sentence.lower()
        if len(text) != len(sentence):
            # A few letters beyond ASCII change their length with their case.
            sentence = text
        absent: list[Mention] = []
        named: list[tuple[str, int, int, bool, int | None]] = []
        for name, patterns in self.patterns.findings.items():
            if patterns.absent:
                absent += [Mention(name, ABSENT, match[0]) for match in patterns.absent.finditer(text)]
            named += [(name, *place) for place in _named(text, patterns)]
        if not named:
            return tuple(absent)
        contexts = self._context.contexts(sentence, [(start, end) for _, start, end, _, _ in named])
        mentions = list(absent)
        for (name, start, end, hedged, grade), found in zip(named, contexts, strict=True):
            if "ignored" in found:
                continue
            status = ABSENT if "negated" in found else UNCERTAIN if hedged or "uncertain" in found else PRESENT
            mentions.append(Mention(name, status, text[start:end], grade))
        return tuple(mentions)


def _named(text: str, patterns: FindingPatterns) -> list[tuple[int, int, bool, int | None]]:
    """Where a finding is named: from, to, whether the words hedge, grade."""
    excluded = [match.span() for match in patterns.excluded.finditer(text)] if patterns.excluded else []
    found = []
    finders = [(patterns.present, False, None), (patterns.uncertain, True, None)]
    finders += [(pattern, False, grade) for grade, pattern in patterns.grades.items()]
    for pattern, hedged, grade in finders:
        for match in pattern.finditer(text) if pattern else ():
            if not any(start <= match.start() and match.end() <= end for start, end in excluded):
                found.append((*tail(match), hedged, grade))
    return found


def aggregate(mentions: Sequence[Mention]) -> ReportLabels:
    """Labels of a report from its mentions, as CheXpert's labeller has it (Irvin et al., AAAI 2019).

    Of the mentions of a finding, a present one counts before an uncertain one, and that before an absent one, wherever
    in the report they stand. "No Finding" is 1 when nothing but support devices is present or uncertain, other
    abnormalities included, and blank otherwise. The severity of edema is 0 where edema is absent, and otherwise the
    highest grade of the mentions with edema's own status, if one of them tells it.
    """
    strongest: dict[str, int] = {}
    for mention in mentions:
        known = strongest.get(mention.finding, ABSENT)
        strongest[mention.finding] = max(known, mention.status, key=_STRENGTH.__getitem__)
    labels: dict[str, int | None] = {name: strongest.get(name) for name in FINDINGS}
    abnormal = any(status != ABSENT for name, status in strongest.items() if name != SUPPORT_DEVICES)
    labels[NO_FINDING] = None if abnormal else PRESENT
    edema = labels[EDEMA]
    grades = [found.grade for found in mentions if found.grade is not None and found.status == edema]
    severity = 0 if edema == ABSENT else max(grades, default=None)
    return ReportLabels(labels, severity)
