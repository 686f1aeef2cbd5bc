"""A cross-validation of a segmenter: every fold trained and tested, and all test images joined into one result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from monai.bundle import create_workflow

from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path, write_json
from cxrmonai.report.segmentation import in_a_line, segmentation_report, summarise_overlap

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
        CxrError: fewer than three folds, or no evaluate.json beside the config.
    """
    evaluate = Path(config_files[0]).with_name("evaluate.json")
    if folds < 3 or not evaluate.is_file():
        raise CxrError(f"{evaluate}: needed beside the config, and at least 3 folds, not {folds}")
    work_dir = Path(work_dir)
    parts = []
    for fold in range(folds):
        folder = work_dir / f"fold_{fold}"
        options = {**overrides, "fold": fold, "folds": folds}
        if _is_done(folder, config_files, options):
            print(f"note: fold {fold + 1} of {folds} was done before with the same options; see {folder}")
        else:
            print(f"fold {fold + 1} of {folds}", flush=True)
            _run_fold(folder, config_files, evaluate, options)
        parts.append(_Fold(folder))
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


class _Fold:
    """What a fold that is done left."""

    def __init__(self, folder: Path) -> None:
        text = dict.fromkeys(("image_id", "patient_id", "split", "class"), str)
        self.table = pd.read_csv(folder / "eval/overlap.csv", dtype=text, keep_default_na=False, na_values={})
        for name in ("intersection", "predicted", "true"):
            self.table[name] = pd.to_numeric(self.table[name], errors="coerce")
        self.metrics = json.loads((folder / "eval/metrics.json").read_text(encoding="utf-8"))


def _asked(config_files: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    return {"configs": [path.read_text(encoding="utf-8") for path in config_files], "options": dict(options)}


def _is_done(folder: Path, config_files: Sequence[Path], options: Mapping[str, Any]) -> bool:
    path = folder / OPTIONS_FILE
    wanted = json.loads(json.dumps(_asked(config_files, options)))
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == wanted


def _run_fold(folder: Path, config_files: Sequence[Path], evaluate: Path, options: Mapping[str, Any]) -> None:
    """Trains, tests, and notes at the end with which options."""
    root = str(evaluate.parents[1])
    (folder / OPTIONS_FILE).unlink(missing_ok=True)
    places = {"bundle_root": root, "output_dir": str(folder / "eval")}
    train = create_workflow(
        config_file=[str(path) for path in config_files],
        workflow_type="train",
        **{**options, **places, "ckpt_dir": str(folder / "models")},
    )
    train.initialize()
    train.run()
    train.finalize()
    shared = {key: options[key] for key in ("data_file", "device", "seed") if key in options}
    test = create_workflow(
        config_file=str(evaluate),
        workflow_type="infer",
        **{**shared, **places, "ckpt_path": str(folder / "models/model.pt"), "split": "test"},
    )
    test.initialize()
    test.run()
    write_json(folder / OPTIONS_FILE, _asked(config_files, options))
