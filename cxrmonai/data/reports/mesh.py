"""The codes of Open-i's human coders (MeSH `major`) in terms of the 14 findings.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", JAMIA 2016.
The mapping is `mesh.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cxrmonai.data.reports.findings import FINDINGS, NO_FINDING, SUPPORT_DEVICES
from cxrmonai.data.reports.patterns import read_yaml

MAPPING = Path(__file__).with_name("mesh.yaml")


@dataclass(frozen=True)
class _Line:
    heading: str
    qualifiers: frozenset[str]
    finding: str


def labels_of_codes(codes: Iterable[str]) -> dict[str, int | None]:
    """The labels of a report from its codes.

    Args:
        codes: such as `Pleural Effusion/right/small`; case and spaces do not matter.

    Returns:
        Each of the 14 findings as 1, 0 (not coded) or -1 (coded as borderline); all None for a report that nobody
        coded. "No Finding" is 1 when nothing is coded but support devices and what says nothing of disease.
    """
    parsed = [_parse(code) for code in codes]
    lines, neutral, uncertain, uncoded = _mapping()
    parsed = [code for code in parsed if code[0]]
    if not parsed or any(_covers(line, code) for line in uncoded for code in parsed):
        return dict.fromkeys(FINDINGS)
    labels: dict[str, int | None] = dict.fromkeys(FINDINGS, 0)
    abnormal = False
    for code in parsed:
        matching = [line for line in lines if _covers((line.heading, line.qualifiers), code)]
        most = max((len(line.qualifiers) for line in matching), default=0)
        findings = {line.finding for line in matching if len(line.qualifiers) == most}
        status = -1 if code[1] & uncertain else 1
        for name in findings:
            labels[name] = 1 if 1 in (labels[name], status) else status
        if findings - {SUPPORT_DEVICES} or (not findings and not any(_covers(line, code) for line in neutral)):
            abnormal = True
    labels[NO_FINDING] = int(not abnormal)
    return labels


def _parse(code: str) -> tuple[str, frozenset[str]]:
    parts = [" ".join(part.lower().split()) for part in code.split("/")]
    return parts[0], frozenset(part for part in parts[1:] if part)


def _covers(line: tuple[str, frozenset[str]], code: tuple[str, frozenset[str]]) -> bool:
    return line[0] == code[0] and line[1] <= code[1]


@cache
def _mapping() -> tuple[
    list[_Line], list[tuple[str, frozenset[str]]], frozenset[str], list[tuple[str, frozenset[str]]]
]:
    content = read_yaml(MAPPING)
    lines = [_Line(*_parse(code), finding) for finding, codes in content["findings"].items() for code in codes]
    neutral, uncoded = ([_parse(code) for code in content[key]] for key in ("neutral", "uncoded"))
    return lines, neutral, frozenset(content["uncertain"]), uncoded
