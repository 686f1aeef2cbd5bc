"""What is wrong with a store: copies, blank and inverted images, patients in two splits."""

from __future__ import annotations

from cxrmonai.data.quality.findings import CopyGroup, Findings
from cxrmonai.data.quality.inspection import inspect

__all__ = ["CopyGroup", "Findings", "inspect"]
