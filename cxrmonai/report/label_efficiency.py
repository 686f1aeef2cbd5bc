"""What labels are worth: one recipe run on several fractions of the labels, and the table and plot that come of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cxrmonai import distributed
from cxrmonai.data.label_fractions import LabelledDraw, draw_labelled, parse_fractions, percent
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task
from cxrmonai.engines import predict, seed_everything
from cxrmonai.engines.checkpointing import BEST
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path, write_json
from cxrmonai.metrics.label_efficiency import MEAN, FractionRun, label_efficiency
from cxrmonai.metrics.multiclass import class_numbers, one_hot
from cxrmonai.networks import load_classifier
from cxrmonai.report.figures import label_efficiency_curves, png_bytes

UNTRAINED = "untrained"


class Recipe(Protocol):
    """What `cxrmonai.bundle.Recipe` does."""

    def get(self, key: str) -> Any:
        """Builds an item."""

    def anew(self, **overrides: Any) -> Recipe:
        """The same with other values."""


class LabelEfficiency:
    """Runs a fine-tuning recipe for each encoder, fraction of the labels and draw, and compares them on test patients.

    Validation patients keep all their labels; they choose the best epoch, or C. The whole (fraction 1) is run once. A
    run is the same as one of the recipe with the same `label_fraction` and `draw`. Its weights are not kept.

    Args:
        recipe: with the keys `method`, `pretrained`, `untrained`, `label_fraction`, `draws`, `draw`, `compare`,
            `resume`, `data_file`, `ckpt_dir`, `output_dir`, `seed`, `resamples` and `device`, and the items `task`,
            `train::trainer`, `probe` and `plain_view`.
        label_fraction: one or several, see `parse_fractions`.
        draws: of each fraction below 1.
        compare: an encoder that `load_encoder` reads, `untrained` for that of `pretrained` with random weights, or
            `None`.

    Raises:
        CxrError: a fraction is out of range.
    """

    def __init__(
        self,
        recipe: Recipe,
        label_fraction: float | str | Sequence[float],
        draws: int = 1,
        compare: str | None = None,
    ) -> None:
        self.recipe, self.draws, self.compare = recipe, draws, compare
        self.fractions = parse_fractions(label_fraction)

    @property
    def wanted(self) -> bool:
        """Whether there is more than one run to make."""
        return len(self.fractions) > 1 or self.draws > 1 or self.compare is not None

    def run(self) -> None:
        """Makes all runs, and writes `label_efficiency.csv`, `.json`, `.png` and the gains on rank 0.

        Raises:
            CxrError: there are no training or test patients, what is to be compared with is missing, or the run is to
                be resumed.
        """
        recipe = self.recipe
        if recipe.get("resume"):
            raise CxrError("resume: a table of several runs cannot be resumed; leave --resume out")
        self._encoders()
        data_file, task = recipe.get("data_file"), recipe.get("task")
        store = open_store(data_file)
        rows = {name: np.flatnonzero(store.column("split") == name) for name in ("train", "test")}
        if not len(rows["train"]) or not len(rows["test"]):
            missing = next(name for name, some in rows.items() if not len(some))
            raise CxrError(f"{data_file}: has no {missing} patients, so that label fractions cannot be compared")
        patients = store.column("patient_id")
        draws = [
            draw_labelled(task, rows["train"], patients[rows["train"]], fraction, recipe.get("seed"), draw)
            for fraction in self.fractions
            for draw in range(1 if fraction == 1 else self.draws)
        ]
        runs = list(self._runs(draws, task, data_file, rows["test"]))
        if distributed.rank() == 0:
            self._write(runs, task, rows["test"], patients[rows["test"]], store.synthetic)

    def _encoders(self) -> dict[str, dict[str, Any]]:
        """What to call each encoder, and the keys that ask for it."""
        pretrained, untrained = self.recipe.get("pretrained"), self.recipe.get("untrained")
        if self.compare is None:
            return {"untrained" if untrained or pretrained is None else "pretrained": {}}
        if pretrained is None:
            raise CxrError("compare needs --pretrained FILE, the encoder that is compared")
        if self.compare == UNTRAINED:
            return {"pretrained": {"untrained": False}, UNTRAINED: {"untrained": True}}
        if str(self.compare) == str(pretrained):
            raise CxrError(f"compare: {self.compare} is --pretrained itself; name another encoder, or untrained")
        names = _names([str(pretrained), str(self.compare)])
        keys = ({"pretrained": path, "untrained": False} for path in (pretrained, self.compare))
        return dict(zip(names, keys, strict=True))

    def _runs(
        self, draws: Sequence[LabelledDraw], task: Task, data_file: str, test: np.ndarray
    ) -> Iterator[FractionRun]:
        method, place = self.recipe.get("method"), Path(self.recipe.get("output_dir"))
        for encoder, keys in self._encoders().items():
            common = {**keys, "compare": None, "draws": 1, "data_file": data_file}
            seed_everything(self.recipe.get("seed"))  # as a single run does before it builds anything
            probe = None if method == "full" else self.recipe.anew(**common, label_fraction=1).get("probe")
            for number, draw in enumerate(draws, 1):
                if distributed.rank() == 0:
                    part = f"{percent(draw.fraction)} of the labels, draw {draw.draw}"
                    print(f"{encoder}, run {number} of {len(draws)}: {part}, {draw.patients} patients", flush=True)
                if probe is not None:
                    for sentence in draw.shortcomings(task.class_names) if distributed.rank() == 0 else []:
                        print(f"note: {sentence}")
                    probability = probe.fit(draw.rows).probability(test)
                else:
                    own = {"label_fraction": draw.fraction, "draw": draw.draw}
                    own["output_dir"] = str(place / "runs" / f"{encoder}_{draw.fraction:g}_{draw.draw}")
                    probability = self._tuned({**common, **own}, data_file, test)
                yield FractionRun(encoder, draw.fraction, draw.draw, draw.patients, len(draw.rows), probability)

    def _tuned(self, keys: dict[str, Any], data_file: str, test: np.ndarray) -> np.ndarray:
        """(N, K) what a network says of the test images that was fine-tuned as the recipe has it with these keys."""
        with tempfile.TemporaryDirectory() as folder:
            one = self.recipe.anew(**keys, ckpt_dir=folder)
            seed_everything(one.get("seed"))
            one.get("train::trainer").run()
            if distributed.rank() != 0:
                return np.empty(0)
            network, device = load_classifier(Path(folder) / BEST), one.get("device")
            return predict(network.to(device), data_file, test, one.get("plain_view"), device)

    def _write(
        self, runs: Sequence[FractionRun], task: Task, test: np.ndarray, patients: np.ndarray, synthetic: bool
    ) -> None:
        names = task.class_names
        truth = task.truth[test]
        if task.kind == "multiclass":
            truth = one_hot(class_numbers(truth, len(names)), len(names))
        resamples, seed = self.recipe.get("resamples"), self.recipe.get("seed")
        table = label_efficiency(runs, truth, names, patients, resamples, seed)
        folder = Path(self.recipe.get("output_dir"))
        origin = {
            "method": self.recipe.get("method"),
            "data": str(self.recipe.get("data_file")),
            "encoders": {name: _origin(self.recipe, keys) for name, keys in self._encoders().items()},
            "test_images": len(test),
            "test_patients": len(np.unique(patients)),
            "resamples": resamples,
            "seed": seed,
            "synthetic": synthetic,
        }
        write_json(folder / "label_efficiency.json", {**origin, **table})
        _write_csv(folder / "label_efficiency.csv", table["fractions"])
        if table["gains"]:
            _write_csv(folder / "label_efficiency_gains.csv", table["gains"])
        with atomic_path(folder / "label_efficiency.png") as temporary:
            temporary.write_bytes(png_bytes(label_efficiency_curves(table["fractions"], synthetic)))
        print("\n".join(_in_words(table, synthetic)), f"\nsee {folder / 'label_efficiency.csv'}", flush=True)


def _origin(recipe: Recipe, keys: dict[str, Any]) -> str:
    path = keys.get("pretrained", recipe.get("pretrained"))
    if path is None:
        return "untrained"
    return f"{path}, untrained" if keys.get("untrained", recipe.get("untrained")) else str(path)


def _names(paths: Sequence[str]) -> list[str]:
    """Short names that tell two files apart: the file's, with as many folders as it takes."""
    parts = [Path(path).with_suffix("").parts if not path.startswith("timm:") else (path,) for path in paths]
    for length in range(1, 1 + max(map(len, parts))):
        names = ["_".join(part[-length:]).replace(os.sep, "") for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"encoder {number}" for number in range(1, 1 + len(paths))]


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def _in_words(table: dict[str, list[dict[str, Any]]], synthetic: bool) -> list[str]:
    kind = "synthetic radiographs" if synthetic else "radiographs"
    lines = [f"\nMean AUROC on test patients ({kind}) by fraction of the labels [95 % interval], mean over the draws:"]
    for row in table["fractions"]:
        if row["finding"] == MEAN:
            value = f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            lines.append(f"  {row['encoder']:<12} {percent(row['fraction']):>7}  {value}, {row['draws']} draw(s)")
    for row in table["gains"]:
        if row["finding"] == MEAN:
            value = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            lines.append(f"  {row['encoder']} over {row['against']} at {percent(row['fraction'])}: {value}")
    return lines
