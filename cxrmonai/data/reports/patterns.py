"""Reads and checks a file of patterns (`patterns.yaml`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cxrmonai.data.reports.findings import EDEMA, FINDINGS, NO_FINDING, OTHER
from cxrmonai.data.reports.phrases import PhraseError, finder, triggers
from cxrmonai.errors import CxrError

SHIPPED = Path(__file__).with_name("patterns.yaml")
CONTEXTS = ("negated", "uncertain", "ignored")
GRADES = ("1", "2", "3")
_LISTS = ("present", "uncertain", "absent", "except")


@dataclass(frozen=True)
class FindingPatterns:
    """What names one finding.

    Attributes:
        present: finds its names.
        uncertain: finds names that hedge by themselves.
        absent: finds phrases that say it is not there.
        excluded: finds phrases in which a name means something else.
        grades: severity → finds names that tell it; they are names of the finding too.
    """

    present: re.Pattern[str] | None = None
    uncertain: re.Pattern[str] | None = None
    absent: re.Pattern[str] | None = None
    excluded: re.Pattern[str] | None = None
    grades: dict[int, re.Pattern[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ContextRule:
    """Words that do something to the mentions behind them (`before`) or in front of them (`after`).

    Attributes:
        context: one of `CONTEXTS`.
        before: texts.
        after: texts.
        ends: texts at which their reach ends.
    """

    context: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Patterns:
    """A file of patterns, checked.

    Attributes:
        read: headings of the sections that are labelled, upper case.
        leave: headings of those that are not.
        findings: by name; all of CheXpert's but "No Finding", and `findings.OTHER`.
        rules: of contexts.
        nothing: texts that only hide shorter triggers in them.
    """

    read: tuple[str, ...]
    leave: tuple[str, ...]
    findings: dict[str, FindingPatterns]
    rules: tuple[ContextRule, ...]
    nothing: tuple[str, ...]


def load_patterns(path: str | Path | None = None) -> Patterns:
    """Reads a file of patterns.

    Args:
        path: of a YAML file laid out as `patterns.yaml` of this package, which is the default.

    Raises:
        CxrError: the file is missing, no YAML, or a key of it is missing, unknown or malformed; names the key.
    """
    path = Path(path) if path is not None else SHIPPED
    content = read_yaml(path)
    reader = _Reader(path)
    reader.keys(content, "", needed=("sections", "findings", "contexts"))
    sections = content["sections"]
    reader.keys(sections, "sections", needed=("read", "leave"))
    names = (*(name for name in FINDINGS if name != NO_FINDING), OTHER)
    reader.keys(content["findings"], "findings", needed=names)
    contexts = content["contexts"]
    reader.keys(contexts, "contexts", needed=("nothing", *CONTEXTS))
    return Patterns(
        read=tuple(text.upper() for text in reader.texts(sections["read"], "sections.read")),
        leave=tuple(text.upper() for text in reader.texts(sections["leave"], "sections.leave")),
        findings={name: reader.finding(content["findings"][name], name) for name in names},
        rules=tuple(rule for name in CONTEXTS for rule in reader.rules(contexts[name], name)),
        nothing=reader.triggers(contexts["nothing"], "contexts.nothing"),
    )


def read_yaml(path: Path) -> Any:
    """Reads YAML in which every scalar is text ("no" is a word, not a truth value).

    Raises:
        CxrError: the file is missing or no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise CxrError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CxrError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise CxrError(
            f"{path}: not readable as YAML{place} ({getattr(error, 'problem', '') or 'malformed'})"
        ) from error


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self, content: Any, key: str, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> None:
        where = f"'{key}'" if key else "the file"
        if not isinstance(content, dict):
            raise CxrError(f"{self.path}: {where} must have keys ({', '.join(needed + allowed)})")
        for name in needed:
            if name not in content:
                raise CxrError(f"{self.path}: {where} lacks the key '{name}'")
        for name in content:
            if name not in needed + allowed:
                raise CxrError(
                    f"{self.path}: {where} has an unknown key '{name}'; known are {', '.join(needed + allowed)}"
                )

    def texts(self, content: Any, key: str) -> list[str]:
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            raise CxrError(f"{self.path}: '{key}' must be a list of phrases, one a line after '- '")
        return content

    def finder(self, content: Any, key: str, over_commas: bool = False) -> re.Pattern[str] | None:
        texts = self.texts(content, key)
        for text in texts:
            self._try(finder, [text], key, text)
        return finder(texts, over_commas) if texts else None

    def finding(self, content: Any, name: str) -> FindingPatterns:
        key = f"findings.{name}"
        lists = _LISTS + (("grades",) if name == EDEMA else ())
        self.keys(content, key, needed=("present",), allowed=lists[1:])
        grades = content.get("grades", {})
        if grades:
            self.keys(grades, f"{key}.grades", needed=(), allowed=GRADES)
        return FindingPatterns(
            present=self.finder(content["present"], f"{key}.present"),
            uncertain=self.finder(content.get("uncertain", []), f"{key}.uncertain"),
            absent=self.finder(content.get("absent", []), f"{key}.absent", over_commas=True),
            excluded=self.finder(content.get("except", []), f"{key}.except"),
            grades={
                int(grade): found
                for grade, texts in grades.items()
                if (found := self.finder(texts, f"{key}.grades.{grade}"))
            },
        )

    def triggers(self, content: Any, key: str) -> tuple[str, ...]:
        found = [each for text in self.texts(content, key) for each in self._try(triggers, text, key, text)]
        return tuple(dict.fromkeys(found))

    def rules(self, content: Any, context: str) -> list[ContextRule]:
        key = f"contexts.{context}"
        if not isinstance(content, list) or not content:
            raise CxrError(f"{self.path}: '{key}' must be a list of groups with before or after, and ends")
        rules = []
        for number, group in enumerate(content, 1):
            place = f"{key} (group {number})"
            self.keys(group, place, needed=("ends",), allowed=("before", "after"))
            parts = {
                name: self.triggers(group.get(name, []), f"{place}.{name}") for name in ("before", "after", "ends")
            }
            rules.append(ContextRule(context, **parts))
        return rules

    def _try(self, function: Any, argument: Any, key: str, text: str) -> Any:
        try:
            return function(argument)
        except PhraseError as error:
            raise CxrError(f"{self.path}: '{key}' holds the phrase '{text}', which cannot be read: {error}") from error
