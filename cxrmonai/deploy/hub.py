"""What the Hugging Face hub shows of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

TAGS = ["monai", "medical", "chest-radiograph", "radiology"]


def model_card(folder: Path) -> str:
    """A model card: the metadata that the hub reads, then the bundle's own page.

    Args:
        folder: of an exported bundle.
    """
    metadata = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    header = {"library_name": "monai", "license": "apache-2.0", "tags": TAGS, "inference": False}
    pred = metadata["network_data_format"]["outputs"]["pred"]
    names = list(pred["channel_def"].values())
    outputs = ", ".join(names) if len(names) == pred["num_channels"] else f"{pred['num_channels']} numbers"
    image = metadata["network_data_format"]["inputs"]["image"]
    facts = [
        ("task", metadata["task"]),
        ("version", metadata["version"]),
        ("input", f"{image['num_channels']} × {' × '.join(map(str, image['spatial_shape']))} {image['dtype']}"),
        ("outputs", outputs),
        ("intended use", metadata["intended_use"]),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts)])
    page = (folder / "docs/README.md").read_text(encoding="utf-8")
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{table}\n\n{page}"
