"""Labels from radiology reports: the 14 CheXpert findings and grades of edema, by patterns and NegEx.

`patterns.yaml` holds what is looked for, `mesh.yaml` what the codes of Open-i's human coders mean; both are text that a
radiologist can edit. `docs/reports.md` has the method and what was measured.
"""

from __future__ import annotations

from cxrmonai.data.reports.findings import FINDINGS
from cxrmonai.data.reports.run import LabelSummary, label_reports

__all__ = ["FINDINGS", "LabelSummary", "label_reports"]
