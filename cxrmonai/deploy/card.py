"""The model card of trained weights: what the program knows is filled in, what only a person knows is marked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from cxrmonai._version import __version__
from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import stored_settings

TEMPLATE = Path(__file__).with_name("model_card.md")
TO_FILL = "TO FILL"
SECTION = "Model Card"
# Headings of the card in a bundle's docs/README.md; its limits stand under the zoo's own heading, Limitations.
HEADINGS = (
    "Intended Use", "Users", "Out-of-Scope Use", "Training Data", "Metrics", "Bias and Subgroups", "Your Own Model",
)  # fmt: skip
FROM_PAGE = (*HEADINGS[:-1], "Limitations")
MEANS = {"mean_auroc": "mean AUROC", "mean_dice": "mean Dice", "mean_miou": "mean IoU"}
OF_CLASSES = {"auroc": "AUROC", "dice": "Dice"}


def sections(text: str) -> dict[str, str]:
    """Reads a Markdown page.

    Args:
        text: of the page; lines of code blocks are no headings.

    Returns:
        Heading → what stands below it, that of deeper headings included, without these.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    code = False
    for line in text.splitlines():
        code ^= line.startswith("```")
        heading = None if code else re.match(r"(#+) +(.+)", line)
        if heading:
            above = [(level, name) for level, name in above if level < len(heading[1])]
            above.append((len(heading[1]), heading[2].strip()))
            found.setdefault(heading[2].strip(), "")
        else:
            for _, name in above:
                found[name] = (found[name] + "\n" + line).strip()
    return found


def fill_card(folder: Path, metrics: str | os.PathLike[str] | None = None) -> str:
    """Fills the template for the weights of an exported bundle.

    Args:
        folder: with configs/metadata.json of these weights, docs/README.md and models/model.pt.
        metrics: `metrics.json` of an evaluation of the same weights; without it the figures are marked `TO FILL`.

    Returns:
        The card, Markdown.

    Raises:
        CxrError: `metrics` is no such file.
    """
    metadata = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    page = sections((folder / "docs/README.md").read_text(encoding="utf-8"))
    image, pred = (next(iter(metadata["network_data_format"][key].values())) for key in ("inputs", "outputs"))
    names = list(pred["channel_def"].values())
    measured = None if metrics is None else _read_metrics(Path(metrics))
    weights = folder / "models/model.pt"
    settings = stored_settings(weights)
    facts = {
        "name": metadata["name"],
        "task": metadata["task"],
        "version": metadata["version"],
        "tool_version": __version__,
        "encoder": settings["encoder"],
        "input": f"{image['num_channels']} × {' × '.join(map(str, image['spatial_shape']))} {image['dtype']}",
        "outputs": ", ".join(names) if len(names) == pred["num_channels"] else f"{pred['num_channels']} numbers",
        "settings": "; ".join(_told(settings)),
        "operating_points": _operating_points(weights),
        "digest": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "measured": _figures(measured, metrics),
        "subgroups": _subgroups(measured),
    }
    for heading in FROM_PAGE:
        fallback = f"{TO_FILL}: {heading.lower()}."
        facts[re.sub(r"\W", "_", heading.lower())] = page.get(heading) or fallback
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(facts)


def count_to_fill(card: str) -> int:
    """How many places of a card are left to a person."""
    return card.count(TO_FILL + ":")


def _told(settings: Mapping[str, Any]) -> Iterator[str]:
    """The settings in words, without what the rest of the table says and what is off."""
    flat = {**settings, **(settings.get("asked") or {})}
    for key, value in flat.items():
        if key not in ("encoder", "class_names", "asked", "output") and value not in (None, "", False, [], {}):
            yield f"{key} {json.dumps(value) if isinstance(value, (dict, list)) else value}"


def _operating_points(weights: Path) -> str:
    for name in ("operating_points.json", "thresholds.json"):
        path = weights.with_name(name)
        if path.is_file():
            return f"{json.loads(path.read_text(encoding='utf-8')).get('origin', 'there')} (models/{name})"
    return "none"


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(f"{path}: not readable as JSON; give the metrics.json that evaluate.json wrote") from error
    if not isinstance(content, dict) or not MEANS.keys() & content.keys():
        raise CxrError(f"{path}: holds none of {', '.join(MEANS)}; give the metrics.json that evaluate.json wrote")
    return content


def _figures(metrics: Mapping[str, Any] | None, path: object) -> str:
    if metrics is None:
        return (
            f"{TO_FILL}: figures on patients that training never saw, with intervals, data, command and date "
            "(export with --metrics METRICS.json fills the figures in)."
        )
    kind = "synthetic radiographs" if metrics.get("synthetic") else "radiographs"
    lines = [
        f"On {metrics['images']} {kind} of {metrics['patients']} patients ({Path(str(path)).name}); 95 % intervals in "
        "brackets.",
        *(["Synthetic radiographs: these figures say nothing about patients."] if metrics.get("synthetic") else []),
        f"{TO_FILL}: which patients these are, the command and the date.",
    ]
    rows = [(words, _number(metrics, key)) for key, words in MEANS.items() if key in metrics]
    for name, values in {**metrics.get("findings", {}), **metrics.get("classes", {})}.items():
        rows += [(f"{name}, {words}", _number(values, key)) for key, words in OF_CLASSES.items() if key in values]
    table = ["| figure | value |", "| --- | --- |", *(f"| {words} | {value} |" for words, value in rows)]
    return "\n\n".join([*lines, "\n".join(table)])


def _subgroups(metrics: Mapping[str, Any] | None) -> str:
    """The widest gap in AUROC between groups, for each attribute."""
    lines = []
    for attribute, part in ((metrics or {}).get("subgroups") or {}).items():
        gaps = [(gaps["auroc"], finding) for finding, gaps in part["gaps"].items() if gaps["auroc"]["gap"] is not None]
        groups = ", ".join(f"{name} {group['images']} images" for name, group in part["groups"].items())
        if gaps:
            gap, finding = max(gaps, key=lambda item: item[0]["gap"])
            told = f"{_number(gap, 'gap')} for {finding}, {gap['highest']} above {gap['lowest']}"
        else:
            told = f"none, for want of {part['minimum']} images with and without a finding in two groups"
        lines.append(f"- {attribute} ({groups or 'unknown'}): widest gap in AUROC {told}")
    fill = f"{TO_FILL}: figures by sex, age, view, site and device; whether gaps are wider than their intervals."
    return "\n".join([*lines, "", fill]) if lines else fill


def _number(values: Mapping[str, Any], key: str) -> str:
    """A value with its interval."""
    value, ends = values[key], values.get(f"{key}_ci")
    if value is None or math.isnan(value):
        return "not defined"
    known = ends and not any(end is None or math.isnan(end) for end in ends)
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]" if known else f"{value:.3f}"
