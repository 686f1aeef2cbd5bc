"""A cross-validation of a segmenter: every fold trained and tested, and all test images joined into one result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path, write_json
from cxrmonai.pipelines.running import run_config
from cxrmonai.report.segmentation import COUNTS, in_a_line, segmentation_report, summarise_overlap

OPTIONS_FILE = "options.json"


def cross_validate(
    config_files: Sequence[Path],
    folds: int,
    work_dir: str | Path,
    overrides: Mapping[str, Any],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains and tests a bundle once for each fold of the patients, and joins the test images of all folds.

    Each image is tested on once, by weights and thresholds that its patient had no part in. A fold that was done before
    with the same options is not done again.

    Args:
        config_files: the bundle's train.json and overlays; its evaluate.json lies beside the first.
        folds: at least 3.
        work_dir: gets a folder for each fold, `overlap.csv`, `metrics.json` and `report.html`.
        overrides: keys of train.json; `seed`, `device` and `data_file` hold for the tests as well.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds.

    Raises:
        CxrError: fewer than three folds; see `run_fold`.
    """
    if folds < 3:
        raise CxrError(f"--folds {folds}: give at least 3, one to test on, one to validate, the rest to learn from")
    work_dir = Path(work_dir)
    parts = []
    for fold in range(folds):
        print(f"fold {fold + 1} of {folds}", flush=True)
        parts.append(run_fold(work_dir / f"fold_{fold}", config_files, {**overrides, "fold": fold, "folds": folds}))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    if table.duplicated(["image_id", "class"]).any():
        raise CxrError(f"{work_dir}: an image was tested on in two folds; remove the folder and start anew")
    names = list(parts[0].metrics["classes"])
    summary = summarise_overlap(table, names, resamples, seed)
    summary |= {"synthetic": parts[0].metrics["synthetic"], "folds": [part.metrics["mean_dice"] for part in parts]}
    write_json(work_dir / "metrics.json", summary)
    with atomic_path(work_dir / "overlap.csv") as temporary:
        table.to_csv(temporary, index=False)
    facts = {"folds": folds, **{f"mean Dice of fold {k}": part.metrics["mean_dice"] for k, part in enumerate(parts)}}
    segmentation_report(work_dir / "report.html", summary, {**overrides, **facts}, title="Cross-validation")
    print(f"{in_a_line(summary)}, each tested on once; see {work_dir / 'report.html'}")
    return summary


@dataclass(frozen=True)
class Fold:
    """What a fold that is done left.

    Attributes:
        table: pixel counts of its test images, see `report.segmentation.overlap_table`.
        metrics: of its test images.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]


def run_fold(folder: str | Path, config_files: Sequence[Path], options: Mapping[str, Any]) -> Fold:
    """Trains and tests one fold, unless that was done before with the same configs and options.

    Args:
        folder: of the fold.
        config_files: see `cross_validate`.
        options: keys of train.json, `fold` and `folds` among them.

    Raises:
        CxrError: no evaluate.json beside the config.
    """
    folder, evaluate = Path(folder), Path(config_files[0]).with_name("evaluate.json")
    if not evaluate.is_file():
        raise CxrError(f"{evaluate}: no such file; it is needed beside the config")
    asked = {"configs": [path.read_text(encoding="utf-8") for path in config_files], "options": dict(options)}
    done = folder / OPTIONS_FILE
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == json.loads(json.dumps(asked)):
        print(f"note: {folder} was done before with the same options")
    else:
        done.unlink(missing_ok=True)
        _train_and_test(folder, config_files, evaluate, options)
        write_json(done, asked)
    text = dict.fromkeys(("image_id", "patient_id", "split", "class"), str)
    table = pd.read_csv(folder / "eval/overlap.csv", dtype=text, keep_default_na=False)
    for name in COUNTS:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return Fold(table, json.loads((folder / "eval/metrics.json").read_text(encoding="utf-8")))


def _train_and_test(folder: Path, config_files: Sequence[Path], evaluate: Path, options: Mapping[str, Any]) -> None:
    places = {"bundle_root": str(evaluate.parents[1]), "output_dir": str(folder / "eval")}
    run_config(config_files, "train", **{**options, **places, "ckpt_dir": str(folder / "models")})
    shared = {key: options[key] for key in ("data_file", "device", "seed") if key in options}
    weights = str(folder / "models/model.pt")
    run_config([evaluate], "infer", **{**shared, **places, "ckpt_path": weights, "split": "test"})
