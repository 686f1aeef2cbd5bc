"""From an input of reports to a table of labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from cxrmonai.data.reports.findings import FINDINGS, SEVERITY
from cxrmonai.data.reports.inputs import Report, open_reports
from cxrmonai.data.reports.labeller import Labeller, ReportLabels
from cxrmonai.data.reports.patterns import load_patterns
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path
from cxrmonai.progress import progress_bar

COLUMNS = ("report_id", *FINDINGS, SEVERITY)
_KINDS = {1: "positive", 0: "negative", -1: "uncertain", None: "blank"}


@dataclass
class LabelSummary:
    """What was labelled.

    Attributes:
        written: number of reports in the table.
        skipped: pairs of file or row and the reason why it is not in it.
        counts: for each finding how many reports are `positive`, `negative`, `uncertain` and `blank`.
        severity: for each grade of edema (0 to 3) how many reports have it.
        notes: sentences the user should read.
    """

    written: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: dict.fromkeys(_KINDS.values(), 0) for name in FINDINGS}
    )
    severity: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(4), 0))
    notes: list[str] = field(default_factory=list)

    def add(self, labels: ReportLabels) -> None:
        """Counts a report."""
        self.written += 1
        for name, value in labels.findings.items():
            self.counts[name][_KINDS[value]] += 1
        if labels.edema_severity is not None:
            self.severity[labels.edema_severity] += 1

    def table(self) -> str:
        """The counts as lines of text."""
        lines = [f"{'finding':28}{'positive':>10}{'negative':>10}{'uncertain':>10}{'blank':>10}"]
        for name, counts in self.counts.items():
            lines.append(f"{name:28}" + "".join(f"{counts[kind]:>10}" for kind in _KINDS.values()))
        grades = ", ".join(f"{grade}: {count}" for grade, count in self.severity.items())
        return "\n".join([*lines, f"edema severity  {grades}"])


def label_reports(
    reports: Path,
    out: Path,
    text_column: str | None = None,
    id_column: str | None = None,
    patterns: Path | None = None,
    progress: bool = True,
) -> LabelSummary:
    """Labels reports and writes one row for each, in the order of the input.

    The table has the columns `report_id`, the 14 findings (1, 0, -1 uncertain, or blank: not mentioned) and
    `edema_severity` (0 to 3, or blank). It appears whole or not at all.

    Args:
        reports: a folder or a ZIP archive of `.xml` (as Open-i publishes them) and `.txt` reports, or a table (`.csv`,
            `.csv.gz`).
        out: CSV file to write.
        text_column: of a table: its column of reports, or several as `A,B`; by default the first of
            `inputs.TEXT_COLUMNS` that it has.
        id_column: of a table: by default the first of `inputs.ID_COLUMNS` that it has.
        patterns: file of patterns to use instead of the package's own.
        progress: whether to show a bar.

    Returns:
        Counts, and what was left out and why.

    Raises:
        CxrError: the input, the table's columns or the patterns are at fault, two reports have the same id, or no
            report can be read.
    """
    labeller = Labeller(load_patterns(patterns))
    summary = LabelSummary()
    reports = Path(reports)
    with (
        open_reports(reports, text_column, id_column) as found,
        atomic_path(out) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as stream,
        progress_bar("label", found.total, "report", progress) as bar,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for report in found.each:
            labels, reason = _labels(labeller, report)
            if labels is None:
                summary.skipped.append((report.name, reason))
            else:
                summary.add(labels)
                cells = (*labels.findings.values(), labels.edema_severity)
                writer.writerow([report.report_id, *("" if value is None else value for value in cells)])
            bar.update()
        summary.notes += found.notes
        if not summary.written:
            name, reason = summary.skipped[0]
            raise CxrError(f"{reports}: none of {found.total} reports can be labelled; the first, {name}: {reason}")
    return summary


def _labels(labeller: Labeller, report: Report) -> tuple[ReportLabels | None, str]:
    if report.reason:
        return None, report.reason
    texts = labeller.sections_of_parts(report.parts) if report.parts else labeller.sections(report.text)
    if not texts:
        return None, "neither findings nor impression in it"
    return labeller.label_sections(texts), ""
