"""How well the labels agree with Open-i's human coders: `python -m cxrmonai.data.reports.evaluate ZIP`."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import pandas as pd

from cxrmonai.data.reports.files import ReportFile, ReportFiles, open_report_files
from cxrmonai.data.reports.findings import FINDINGS, NO_FINDING
from cxrmonai.data.reports.labeller import Labeller
from cxrmonai.data.reports.mesh import labels_of_codes
from cxrmonai.data.reports.openi import OpenIReport, parse_openi
from cxrmonai.data.reports.patterns import load_patterns
from cxrmonai.errors import CxrError

HALVES = ("tuning", "held-out", "all")
POLICIES = {"ones": (1, -1), "zeros": (1,)}
MIN_POSITIVES = 10


def half_of(report_id: str) -> str:
    """The half a report belongs to: `tuning` where the SHA-256 of its id is an even number, `held-out` where odd."""
    return HALVES[hashlib.sha256(report_id.encode()).digest()[-1] & 1]


def score_against_mesh(reports: Path, half: str = "all", patterns: Path | None = None) -> pd.DataFrame:
    """Scores the labels of reports against the codes in them.

    A finding is truly there where it is coded, borderline ones included; reports that nobody coded are left out.

    Args:
        reports: folder or ZIP archive of reports as Open-i publishes them.
        half: `tuning`, on which the patterns were tuned, `held-out`, or `all`.
        patterns: file of patterns to use instead of the package's own.

    Returns:
        One row per finding: `finding`, `positives`, and `precision`, `recall` and `f1` with the ending `_ones` (an
        uncertain finding counts as there) and `_zeros` (as not there). A measure whose denominator is 0 is NaN.

    Raises:
        CxrError: the input or the patterns are at fault, or no report of that half is coded.
    """
    if half not in HALVES:
        raise CxrError(f"half '{half}'; known are {', '.join(HALVES)}")
    labeller = Labeller(load_patterns(patterns))
    truths, labels = [], []
    with open_report_files(Path(reports)) as files:
        for file in files.files:
            if half not in ("all", half_of(file.report_id)):
                continue
            report = _read(Path(reports), files, file)
            truth = labels_of_codes(report.codes)
            if truth[NO_FINDING] is not None:
                truths.append(truth)
                labels.append(labeller.label_sections(labeller.sections_of_parts(report.sections)).findings)
    if not truths:
        raise CxrError(f"{reports}: no coded report in it (half: {half})")
    return pd.DataFrame([_row(name, truths, labels) for name in FINDINGS])


def macro_f1(scores: pd.DataFrame, policy: str = "ones", findings: list[str] | None = None) -> float:
    """Mean F1 over findings.

    Args:
        scores: from `score_against_mesh`.
        policy: `ones` or `zeros`.
        findings: which; by default those with at least `MIN_POSITIVES` positives.
    """
    chosen = scores["finding"].isin(findings) if findings is not None else scores["positives"] >= MIN_POSITIVES
    return float(scores.loc[chosen, f"f1_{policy}"].mean())


def _read(path: Path, files: ReportFiles, file: ReportFile) -> OpenIReport:
    try:
        if file.reason:
            raise CxrError(file.reason)
        return parse_openi(files.read(file))
    except CxrError as error:
        raise CxrError(f"{path}: {file.name}: {error}") from error


def _row(name: str, truths: list[dict[str, int | None]], labels: list[dict[str, int | None]]) -> dict[str, object]:
    true = [truth[name] != 0 for truth in truths]
    row: dict[str, object] = {"finding": name, "positives": sum(true)}
    for policy, counted in POLICIES.items():
        said = [label[name] in counted for label in labels]
        both = sum(t and s for t, s in zip(true, said, strict=True))
        row[f"precision_{policy}"] = both / sum(said) if any(said) else float("nan")
        row[f"recall_{policy}"] = both / sum(true) if any(true) else float("nan")
        row[f"f1_{policy}"] = 2 * both / (sum(true) + sum(said)) if any(true) or any(said) else float("nan")
    return row


def main(arguments: list[str] | None = None) -> None:
    """Prints the table of a half, or of all reports."""
    parser = argparse.ArgumentParser(prog="python -m cxrmonai.data.reports.evaluate", description=__doc__)
    parser.add_argument("reports", type=Path, help="folder or ZIP archive of Open-i reports")
    parser.add_argument("--half", choices=HALVES, default="all")
    parser.add_argument("--patterns", type=Path, help="file of patterns to use instead of the package's own")
    chosen = parser.parse_args(arguments)
    try:
        scores = score_against_mesh(chosen.reports, chosen.half, chosen.patterns)
    except CxrError as error:
        sys.exit(f"error: {error}")
    print(scores.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    for policy, meaning in (("ones", "present"), ("zeros", "absent")):
        print(
            f"macro F1 over findings with at least {MIN_POSITIVES} positives, uncertain counted as {meaning}: "
            f"{macro_f1(scores, policy):.3f}"
        )


if __name__ == "__main__":
    main()
