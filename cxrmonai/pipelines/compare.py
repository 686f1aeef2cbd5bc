"""Which pretraining pays: every method for the same number of images seen, probed on the same labels, in one table."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxrmonai._version import __version__
from cxrmonai.data.label_fractions import parse_fractions
from cxrmonai.data.store import open_store
from cxrmonai.engines.checkpointing import FINAL
from cxrmonai.engines.seeding import seed_everything
from cxrmonai.errors import CxrError, user_error
from cxrmonai.files import atomic_path, write_json
from cxrmonai.metrics import percentile_interval
from cxrmonai.networks import load_encoder
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.pipelines.label_probe import LabelProbe, ProbeScores
from cxrmonai.pipelines.methods import UNTRAINED, Method, bundles_folder, choose_methods, find_methods
from cxrmonai.pipelines.pretraining import Budget, Pretrained, plan, pretrain, try_step
from cxrmonai.report.comparison import comparison_figure
from cxrmonai.report.figures import png_bytes

INPUTS, TRAINED, RESULT, SAMPLES = "inputs.json", "trained.json", "result.json", "samples.npz"
DONE, REFUSED, FAILED = "done", "refused", "failed"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        data_file: store to pretrain on.
        probe_file: store to probe on.
        methods: see `methods.choose_methods`; `untrained` first.
        images_seen: by the encoders of each method, see `pretraining.ImageCounter`.
        out: folder.
        overrides: config keys that all methods get, such as `encoder` and `image_size`.
        probe: keyword arguments of `LabelProbe` besides the file, the image size and the device.
    """

    data_file: str
    probe_file: str
    methods: Sequence[Method]
    images_seen: int
    out: Path
    overrides: Mapping[str, Any]
    probe: Mapping[str, Any]

    def run(self) -> dict[str, Any]:
        """Runs what is not done yet, and writes `comparison.json`, `comparison.csv` and `comparison.png`.

        A method whose inputs (files, configs, options, version) are as they were is not run again, and one that was
        broken off goes on from its checkpoint. The table is written anew after each method.

        Returns:
            What `comparison.json` holds.

        Raises:
            CxrError: the files or options cannot be used at all, or `out` holds other things under these names.
        """
        open_store(self.data_file)
        probe = LabelProbe(
            self.probe_file, int(self.overrides["image_size"]), device=str(self.overrides["device"]), **self.probe
        )
        content: dict[str, Any] = {}
        for number, method in enumerate(self.methods, 1):
            print(f"[{number}/{len(self.methods)}] {method.name}", flush=True)
            result = self._one(method, probe)
            print(f"    {_told(result)}", flush=True)
            if method.bundle is None and result["status"] != DONE:
                raise CxrError(f"the untrained encoder cannot be probed: {result['reason']}")
            content = self._write(probe, self.methods[:number])
        return content

    def folder(self, method: Method) -> Path:
        """Where a method's run lies."""
        return self.out / "methods" / method.name.replace("/", "_")

    def _one(self, method: Method, probe: LabelProbe) -> dict[str, Any]:
        folder = self.folder(method)
        inputs = self._inputs(method)
        if _read(folder / INPUTS) != inputs:
            _clear(folder)
            write_json(folder / INPUTS, inputs)
        result = _read(folder / RESULT)
        if result is not None and result["status"] != FAILED:
            return result
        begun = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self._run(method, folder, probe)
        except Exception as error:  # must not lose the other methods; it is told, and so does the exit code
            cause = user_error(error)
            status = FAILED if cause is None else REFUSED
            result = {"status": status, "reason": str(cause or f"{type(error).__name__}: {error}")}
        result["seconds"] = round(time.perf_counter() - begun, 1)
        write_json(folder / RESULT, result)
        return result

    def _run(self, method: Method, folder: Path, probe: LabelProbe) -> dict[str, Any]:
        if method.bundle is None:
            seed_everything(int(self.overrides["seed"]))
            encoder = make_encoder(str(self.overrides["encoder"]), **self._untrained_options())
            trained: dict[str, Any] = {"images_seen": 0}
        else:
            trained = self._trained(method, folder)
            encoder = load_encoder(folder / "models" / FINAL)
        scores = probe(encoder.to(str(self.overrides["device"])).eval())
        _save(folder / SAMPLES, scores)
        return {"status": DONE, **trained, "probes": _figures(scores, probe.class_names)}

    def _untrained_options(self) -> dict[str, Any]:
        size = int(self.overrides["image_size"])
        return {"image_size": size, "stem": self.overrides.get("stem", "cifar" if size < 48 else "default")}

    def _trained(self, method: Method, folder: Path) -> dict[str, Any]:
        done = _read(folder / TRAINED)
        if done is not None:
            return done
        planned = _read(folder / "budget.json")
        overrides = {"data_file": self.data_file, **self.overrides}
        budget = Budget(**planned) if planned else plan(try_step(method, overrides), self.images_seen)
        write_json(folder / "budget.json", asdict(budget))
        made: Pretrained = pretrain(method, budget, folder, overrides)
        trained = {"images_seen": budget.images, **asdict(budget), **asdict(made)}
        write_json(folder / TRAINED, trained)
        return trained

    def _inputs(self, method: Method) -> dict[str, Any]:
        options = {"overrides": dict(self.overrides), "probe": dict(self.probe), "images_seen": self.images_seen}
        return {
            "data_file": _stamp(self.data_file),
            "probe_file": _stamp(self.probe_file),
            "configs": hashlib.sha256(method.content().encode()).hexdigest(),
            "options": json.loads(json.dumps(options, sort_keys=True)),
            "version": __version__,
        }

    def _write(self, probe: LabelProbe, methods: Sequence[Method]) -> dict[str, Any]:
        rows = []
        for method in methods:
            result = _read(self.folder(method) / RESULT) or {}
            bundle = None if method.bundle is None else method.bundle.name
            rows.append({"method": method.name, "bundle": bundle, **result})
        done = [row["status"] == DONE for row in rows]
        if done[0]:
            self._add_gains(methods, rows)
        content = {
            "data_file": self.data_file,
            "probe_file": self.probe_file,
            "synthetic": {"data": open_store(self.data_file).synthetic, "probe": probe.probe.store.synthetic},
            "images_seen": self.images_seen,
            "counted": "images that pass into an encoder, views, pairs and momentum passes each; patches by their area",
            "options": {**self.overrides, **self.probe},
            "findings": probe.class_names,
            "test_images": len(probe.truth),
            "test_patients": len(np.unique(probe.test_patients)),
            "methods": rows,
        }
        write_json(self.out / "comparison.json", content)
        table = comparison_table(content)
        with atomic_path(self.out / "comparison.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.4f")
        if any(done):
            with atomic_path(self.out / "comparison.png") as temporary:
                temporary.write_bytes(png_bytes(comparison_figure(table, _title(content))))
        return content

    def _add_gains(self, methods: Sequence[Method], rows: Sequence[dict[str, Any]]) -> None:
        """What each method adds to the untrained encoder, with intervals of the paired differences."""
        base = _load(self.folder(methods[0]) / SAMPLES)
        for method, row in zip(methods, rows, strict=True):
            if row["status"] != DONE or method.name == UNTRAINED:
                continue
            samples = _load(self.folder(method) / SAMPLES)
            for key, figure in row["probes"].items():
                low, high = percentile_interval((_mean(samples[key]) - _mean(base[key]))[:, None])
                figure["gain"] = figure["mean_auroc"] - rows[0]["probes"][key]["mean_auroc"]
                figure["gain_ci"] = [float(low[0]), float(high[0])]


def compare_methods(
    data_file: str,
    probe_file: str,
    methods: str | Sequence[str],
    images_seen: int,
    out: str | os.PathLike[str],
    overrides: Mapping[str, Any],
    probe: Mapping[str, Any],
    device: str | None = None,
    bundles: str | None = None,
) -> dict[str, Any]:
    """Finds the methods, and runs a `Comparison`.

    Args:
        data_file, probe_file, images_seen, overrides: see `Comparison`.
        methods: `all`, or names.
        out: folder.
        probe: keyword arguments of `LabelProbe`; `fractions` as `parse_fractions` takes them.
        device: where to run; a GPU where there is one.
        bundles: folder of the bundles.

    Raises:
        CxrError: see `Comparison`; or an unknown method, or a number out of range.
    """
    if not isinstance(images_seen, int) or isinstance(images_seen, bool) or images_seen < 1:
        raise CxrError(f"--images_seen {images_seen}: must be a whole number of at least 1")
    fractions = parse_fractions(probe["fractions"])
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_methods(find_methods(bundles_folder(bundles)), methods)
    shared = {**overrides, "device": place, "probe_every": 0}
    return Comparison(
        data_file, probe_file, chosen, images_seen, Path(out), shared, {**probe, "fractions": fractions}
    ).run()


def comparison_table(content: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each method, probe and fraction of the labels; one row, with the reason, for a method without figures.

    Args:
        content: what `comparison.json` holds.

    Returns:
        Columns `method`, `bundle`, `status`, `reason`, `images_seen`, `collapsed`, `probe`, `labels` (fraction of the
        patients), `patients`, `mean_auroc`, `low`, `high`, `gain` over `untrained`, `gain_low`, `gain_high`.
    """
    lines = []
    for row in content["methods"]:
        base = {name: row.get(name) for name in ("method", "bundle", "status", "reason", "images_seen", "collapsed")}
        for figure in row.get("probes", {}).values() or [{}]:
            low, high = figure.get("mean_auroc_ci", (None, None))
            gain_low, gain_high = figure.get("gain_ci", (None, None))
            part = {name: figure.get(name) for name in ("probe", "labels", "patients", "mean_auroc")}
            gains = {"gain": figure.get("gain"), "gain_low": gain_low, "gain_high": gain_high}
            lines.append({**base, **part, "low": low, "high": high, **gains})
    return pd.DataFrame(lines).astype({"images_seen": "Int64", "patients": "Int64"})


def _figures(scores: Mapping[tuple[str, float], ProbeScores], class_names: Sequence[str]) -> dict[str, Any]:
    figures = {}
    for (method, fraction), score in scores.items():
        low, high = percentile_interval(_mean(score.samples)[:, None])
        ends = np.stack(percentile_interval(score.samples), axis=1)
        figures[_key(method, fraction)] = {
            "probe": method,
            "labels": fraction,
            "patients": score.patients,
            "images": score.images,
            "mean_auroc": float(_mean(score.value[None])[0]),
            "mean_auroc_ci": [float(low[0]), float(high[0])],
            "findings": {
                name: {"auroc": float(value), "auroc_ci": ci.tolist()}
                for name, value, ci in zip(class_names, score.value, ends, strict=True)
            },
        }
    return figures


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the findings that are defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=1)


def _key(method: str, fraction: float) -> str:
    return f"{method} {fraction:g}"


def _save(path: Path, scores: Mapping[tuple[str, float], ProbeScores]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{_key(*key): score.samples for key, score in scores.items()})


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _clear(folder: Path) -> None:
    """Removes a run whose inputs were others.

    Raises:
        CxrError: the folder is none of ours.
    """
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / INPUTS).exists():
        raise CxrError(f"{folder}: is there already and no run of a comparison; give another --out")
    print(f"    note: the inputs have changed since the run in {folder}; it is made anew")
    shutil.rmtree(folder)


def _stamp(path: str) -> list[Any]:
    """What tells a file from another of its name."""
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _told(result: Mapping[str, Any]) -> str:
    if result["status"] != DONE:
        return f"{result['status']}: {result['reason']}"
    parts = [
        f"{figure['probe']} {100 * figure['labels']:g} % {figure['mean_auroc']:.3f}"
        for figure in result["probes"].values()
    ]
    mark = "; COLLAPSED" if result.get("collapsed") else ""
    return f"{result['images_seen']} images seen, {result['seconds']:.0f} s{mark}; mean AUROC: {', '.join(parts)}"


def _title(content: Mapping[str, Any]) -> str:
    synthetic = " (synthetic)" if any(content["synthetic"].values()) else ""
    return f"{content['options']['encoder']}, {content['images_seen']} images seen{synthetic}"


def warn_of_failures(content: Mapping[str, Any]) -> int:
    """Names on stderr the methods that failed of themselves, and returns how many there are."""
    failed = [row for row in content["methods"] if row["status"] == FAILED]
    for row in failed:
        print(f"failed: {row['method']}: {row['reason']}", file=sys.stderr)
    return len(failed)
