"""What the Hugging Face hub shows of a bundle."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from cxrmonai.deploy.card import SECTION

TAGS = ["monai", "medical", "chest-radiograph", "radiology"]


def hub_page(folder: Path) -> str:
    """README.md of an exported bundle: the fields that the hub reads, the model card, then the bundle's own page.

    Args:
        folder: of the export, with its card in docs/model_card.md.
    """
    header = {"library_name": "monai", "license": "apache-2.0", "tags": TAGS, "inference": False}
    card, page = ((folder / "docs" / name).read_text(encoding="utf-8") for name in ("model_card.md", "README.md"))
    page = re.sub(rf"^# {SECTION}\n.*?(?=^# |\Z)", "", page, flags=re.MULTILINE | re.DOTALL)
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{card}\n{page}"
