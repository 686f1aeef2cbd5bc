"""What a synthesis leaves: the trajectory as a strip and as an animation, numbers, and a report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from cxrmonai.explain.synthesis import Trajectory
from cxrmonai.files import atomic_path, write_json
from cxrmonai.report.classification import SYNTHETIC
from cxrmonai.report.figures import image_grid, png_bytes
from cxrmonai.report.html import Report

STRIP, EDGE, LINE = 6, 192, 16
MILLISECONDS = 200
_MEANING = (
    "Each row begins with one image, whose pixels are then changed step by step, within a given distance, in the "
    "direction that raises the classifier's probability of the named finding most. What appears is what this "
    "classifier responds to. If it is not what a radiologist would draw, the classifier goes by something else, or by "
    "patterns too fine to be seen. These images are made; they are nobody's radiographs, and must not be taken for any."
)


def write_synthesis(
    output_dir: str | os.PathLike[str],
    trajectory: Trajectory,
    class_names: Sequence[str],
    facts: Mapping[str, object],
    synthetic: bool = False,
) -> dict[str, Any]:
    """Writes a synthesis, each file atomically, and says what came of it.

    Args:
        output_dir: gets `trajectory.png` (the strip), `trajectory.gif`, `metrics.json` and `report.html`.
        trajectory: of B images.
        class_names: (K,) of the classifier.
        facts: to be listed, such as the classifier and the ball.
        synthetic: whether the classifier's data are a phantom.

    Returns:
        What `metrics.json` holds: `items`, one for each image, and the facts.
    """
    folder = Path(output_dir)
    items = _items(trajectory, class_names)
    strip = strip_figure(trajectory, class_names)
    with atomic_path(folder / "trajectory.png") as temporary:
        temporary.write_bytes(png_bytes(strip))
    write_animation(folder / "trajectory.gif", trajectory, class_names)
    metrics = {"items": items, "facts": dict(facts), "synthetic": synthetic}
    report = Report("What the classifier looks for", f"{len(items)} images made by raising a finding's probability")
    if synthetic:
        report.note(SYNTHETIC)
    report.text(_MEANING)
    report.table(["Fact", "Value"], [(key, str(value)) for key, value in facts.items()])
    report.section("Result")
    rows = [
        [
            ", ".join(item["findings"]),
            *(_joined(item[key], item["findings"]) for key in ("probability_before", "probability_after")),
            item["step"],
            item["L2"],
            item["Linf"],
        ]
        for item in items
    ]
    headers = ["Finding", "Probability before", "Probability after", "Best step", "Change, L2", "Change, largest pixel"]
    report.table(headers, rows)
    report.figure(
        strip,
        "From the left: steps of the synthesis, the best image, and its change from the first (grey is no change, "
        "stretched to the full range). p is the probability of the finding, the least where several are raised.",
        "Strips of images, one row for each finding; the table above holds the probabilities.",
    )
    report.save(folder / "report.html")
    write_json(folder / "metrics.json", metrics)
    for item in items:
        before, after = (_joined(item[f"probability_{when}"], item["findings"]) for when in ("before", "after"))
        print(f"{', '.join(item['findings'])}: probability {before} → {after} (L2 {item['L2']:.2f})")
    print(f"see {folder / 'report.html'}")
    return metrics


def _items(trajectory: Trajectory, class_names: Sequence[str]) -> list[dict[str, Any]]:
    distances = trajectory.distances()
    return [
        {
            "findings": [class_names[k] for k in np.flatnonzero(wanted)],
            "probability_before": dict(zip(class_names, trajectory.probability[0, place].tolist(), strict=True)),
            "probability_after": dict(zip(class_names, trajectory.best_probability[place].tolist(), strict=True)),
            "step": int(trajectory.steps[place]),
            **{norm: float(values[place]) for norm, values in distances.items()},
        }
        for place, wanted in enumerate(trajectory.wanted)
    ]


def _joined(probability: Mapping[str, float], findings: Sequence[str]) -> str:
    return ", ".join(f"{probability[name]:.3f}" for name in findings)


def strip_figure(trajectory: Trajectory, class_names: Sequence[str]) -> Figure:
    """A row for each image: up to six steps, the best image, and its change."""
    shown = np.unique(np.linspace(0, len(trajectory.iterations) - 1, STRIP).round().astype(int))
    cells, captions = [], []
    for place in range(len(trajectory.best)):
        for column, step in enumerate(shown):
            cells.append(_grey(trajectory.images[step, place]))
            text = f"step {trajectory.iterations[step]}, p {_least(trajectory, place, step):.2f}"
            captions.append(text if column else f"{_named(trajectory, place, class_names)}\n{text}")
        cells.append(_grey(trajectory.best[place]))
        captions.append(f"best, p {_least(trajectory, place):.2f}")
        cells.append(change_picture(trajectory.best[place] - trajectory.start[place]))
        captions.append("change")
    return image_grid(np.stack(cells), captions, columns=len(shown) + 2)


def change_picture(change: np.ndarray) -> np.ndarray:
    """(H, W) differences → uint8, 128 for none, the largest at 1 or 255."""
    largest = np.abs(change).max()
    return np.round(128 + 127 * change / (largest or 1)).astype(np.uint8)


def write_animation(path: str | os.PathLike[str], trajectory: Trajectory, class_names: Sequence[str]) -> None:
    """Writes all kept steps as an endless GIF, the images side by side with their probabilities underneath."""
    count, size = trajectory.best.shape[:2]
    columns = min(count, 5)
    edge = max(EDGE, size)
    cell = edge + 2 * LINE + 4
    font = ImageFont.load_default(size=12)
    frames = []
    for step, iteration in enumerate(trajectory.iterations):
        frame = Image.new("L", (columns * edge, math.ceil(count / columns) * cell))
        pen = ImageDraw.Draw(frame)
        for place in range(count):
            left, top = place % columns * edge, place // columns * cell
            picture = cv2.resize(_grey(trajectory.images[step, place]), (edge, edge), interpolation=cv2.INTER_CUBIC)
            frame.paste(Image.fromarray(picture), (left, top))
            name = _named(trajectory, place, class_names)
            pen.text((left + 4, top + edge + 2), name, fill=255, font=font)
            words = f"step {iteration}: p {_least(trajectory, place, step):.3f}"
            pen.text((left + 4, top + edge + 2 + LINE), words, fill=255, font=font)
        frames.append(frame)
    durations = [MILLISECONDS] * (len(frames) - 1) + [8 * MILLISECONDS]
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=2
        )


def _named(trajectory: Trajectory, place: int, class_names: Sequence[str]) -> str:
    return " + ".join(class_names[k] for k in np.flatnonzero(trajectory.wanted[place]))


def _least(trajectory: Trajectory, place: int, step: int | None = None) -> float:
    """Probability of the finding, the least of several, at a kept step or of the best image."""
    values = trajectory.best_probability[place] if step is None else trajectory.probability[step, place]
    return float(values[trajectory.wanted[place]].min())


def _grey(image: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
