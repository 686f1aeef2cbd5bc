"""How good lungs are segmented from few masks, from scratch and from a pretrained encoder: a table and a plot.

For each number of masks, each seed and each start the bundle deeplabv3plus is trained with the same number of updates;
a seed draws the masks, the initial weights, and the fifth of the patients that is tested on. Runs that were done before
are not done again.

    python scripts/lung_curve.py --data_file lungs.h5 --pretrained bundles/simclr/models/model.pt --work_dir runs/curve
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cxrmonai.files import atomic_path
from cxrmonai.pipelines.cross_validation import run_fold
from cxrmonai.report.figures import blank_figure

CONFIGS = Path(__file__).resolve().parents[1] / "bundles/deeplabv3plus/configs"
UPDATES, BATCH, FOLDS = 40, 10, 5
STARTS = {"scratch": "#D55E00", "pretrained": "#0072B2"}


def main() -> None:
    """Runs what is missing, prints the table and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_file", required=True, help="store with masks named lungs")
    parser.add_argument("--pretrained", required=True, help="weights of a ResNet-18 for one channel")
    parser.add_argument("--work_dir", required=True, type=Path)
    parser.add_argument("--masks", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--figure", type=Path, help="PNG to draw; curve.png in the folder by default")
    given = parser.parse_args()
    dice = {start: np.zeros((len(given.masks), len(given.seeds))) for start in STARTS}
    for k, masks in enumerate(given.masks):
        for j, seed in enumerate(given.seeds):
            for start in STARTS:
                dice[start][k, j] = run(given, masks, seed, start)
    print("| masks | from scratch | pretrained |\n| --- | --- | --- |")
    for k, masks in enumerate(given.masks):
        print(f"| {masks} | {told(dice['scratch'][k])} | {told(dice['pretrained'][k])} |")
    path = given.figure or given.work_dir / "curve.png"
    draw(path, given.masks, dice)
    print(f"{path}: drawn")


def run(given: argparse.Namespace, masks: int, seed: int, start: str) -> float:
    """Mean Dice of the test patients of one seed."""
    folder = given.work_dir / f"{start}_{masks}_{seed}"
    options = {
        "data_file": given.data_file,
        "expert_masks": masks,
        "seed": seed,
        "image_size": given.image_size,
        "batch_size": min(BATCH, masks),
        "max_epochs": UPDATES // max(1, masks // BATCH),
        "device": "cpu",
    }
    if start == "pretrained":
        options["pretrained"] = given.pretrained
    configs = [CONFIGS / "train.json", CONFIGS / "presets/lungs.json"]
    return run_fold(folder / "fold_0", configs, {**options, "fold": 0, "folds": FOLDS}).metrics["mean_dice"]


def told(values: np.ndarray) -> str:
    """Mean and range over the seeds."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def draw(path: Path, masks: list[int], dice: dict[str, np.ndarray]) -> None:
    """Draws the mean over the seeds as a line, and each seed as a point."""
    figure = blank_figure(3.4, 5.2)
    axes = figure.add_subplot()
    for start, colour in STARTS.items():
        axes.plot(
            masks, dice[start].mean(axis=1), color=colour, marker="o", label=f"from {start}".replace("from p", "p")
        )
        for values in dice[start].T:
            axes.plot(masks, values, ".", color=colour, alpha=0.5)
    axes.set_xscale("log")
    axes.set_xticks(masks, [str(count) for count in masks])
    axes.minorticks_off()
    axes.set_xlabel("Lung masks to learn from")
    axes.set_ylabel("Dice, test patients")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    main()
