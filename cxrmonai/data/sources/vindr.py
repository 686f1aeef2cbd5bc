"""To be written."""

from __future__ import annotations

from pathlib import Path

from cxrmonai.data.sources.base import Collection

ABOUT = "vindr"
NEEDS = ()
WHERE = ""


def load(root: Path, seed: int = 0) -> Collection:
    """To be written."""
    raise NotImplementedError
