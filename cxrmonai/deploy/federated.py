"""Federated training: several hospitals learn one network, and no image leaves any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxrmonai.deploy.federated_site import ERROR_FILE, Site
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path, write_json

NAME = "federated"
INITIAL, WEIGHTS, ROUNDS = "initial.pt", "weights.pt", "rounds.json"  # at the server
RESERVED = ("data_file", "output_dir", "ckpt_dir", "resume", "max_epochs", "bundle_root")
NEEDED = "federated training needs the package nvflare; pip install 'cxrmonai[fl]'"


def simulate(
    config_files: Sequence[str | os.PathLike[str]],
    stores: Sequence[str | os.PathLike[str]],
    rounds: int,
    work_dir: str | os.PathLike[str],
    local_epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Trains a bundle on the stores of several hospitals, each a process of its own, by NVFlare's simulator.

    `work_dir` gets `global/models/model.pt` (the federation's network), `global/rounds.csv`, `job/` (what NVFlare was
    given), `nvflare/` (its logs), and a folder for each hospital with its `site.json`, `models/` and `eval/`.

    Args:
        config_files: train.json of a bundle, and overlays.
        stores: one for each hospital; their file names are the hospitals'.
        rounds: of averaging.
        work_dir: must not exist yet, or be empty.
        local_epochs: that a hospital trains in each round.
        options: overrides of the config that all share.

    Returns:
        A row for each round and hospital: `round` (0 is before any training), `site`, `images`, and the metrics of the
        weights that the round began with; and rows `all`, means weighted by training images.

    Raises:
        CxrError: a store or number is wrong, the hospitals' networks differ, nvflare is missing, or a hospital failed.
    """
    work_dir = Path(work_dir)
    sites = site_names(stores)
    settings = _settings(config_files, sites, rounds, local_epochs, dict(options or {}), work_dir)
    _ready(work_dir)
    with tempfile.TemporaryDirectory() as elsewhere:  # the hospitals' own folders are for what they do
        built = [_site(name, content, elsewhere) for name, content in settings.items()]
        for other in built[1:]:
            other.check(built[0].shared())
        for name, content in settings.items():
            write_json(work_dir / name / "site.json", content)
        server = (work_dir / "global").resolve()
        _save(built[0].shared(), server / INITIAL)
        _write_job(work_dir / "job", list(sites), rounds, str(server), str(work_dir.resolve() / "{site}/site.json"))
        _run(work_dir, list(sites), rounds)
        built[0].save(torch.load(server / WEIGHTS, weights_only=True), server / "models/model.pt")
    table = rounds_table(_rows(server / ROUNDS))
    with atomic_path(work_dir / "global/rounds.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def site_names(stores: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Names the hospitals by their stores.

    Raises:
        CxrError: fewer than two, a store that is not there, or two of one name.
    """
    sites: dict[str, Path] = {}
    for store in map(Path, stores):
        if not store.is_file():
            raise CxrError(f"{store}: no such store; give one for each hospital, --sites A.h5,B.h5")
        if store.stem in sites or store.stem in ("global", "job", "nvflare", "server"):
            raise CxrError(f"{store}: the hospitals are named by their files, and '{store.stem}' is taken; rename it")
        sites[store.stem] = store
    if len(sites) < 2:
        raise CxrError("--sites: give the stores of two hospitals or more, A.h5,B.h5")
    return sites


def _settings(
    config_files: Sequence[str | os.PathLike[str]],
    sites: Mapping[str, Path],
    rounds: int,
    local_epochs: int,
    options: dict[str, Any],
    work_dir: Path,
) -> dict[str, dict[str, Any]]:
    for name, value in (("rounds", rounds), ("local_epochs", local_epochs)):
        if not isinstance(value, int) or value < 1:
            raise CxrError(f"--{name} {value}: give a whole number of at least 1")
    own = [key for key in RESERVED if key in options]
    if own:
        raise CxrError(f"--{own[0]} follows from --sites, --rounds, --local_epochs and --work_dir; leave it out")
    return {
        name: {
            "config_files": [str(Path(file).resolve()) for file in config_files],
            "rounds": rounds,
            "local_epochs": local_epochs,
            "options": {
                **options,
                "data_file": str(store.resolve()),
                "output_dir": str((work_dir / name / "eval").resolve()),
                "ckpt_dir": str((work_dir / name / "models").resolve()),
            },
        }
        for name, store in sites.items()
    }


def prepare_job(
    config_files: Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    names: Sequence[str],
    rounds: int,
    work_dir: str | os.PathLike[str],
    site_file: str,
    server_dir: str,
    local_epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the job of a real federation, the weights that it begins with, and a site.json for the hospitals.

    Args:
        config_files: see `simulate`.
        store: of the hospital that prepares the job; the others need the same findings.
        names: of the hospitals, as they were provisioned.
        rounds: of averaging.
        work_dir: gets `job/federated`, `initial.pt` and `site.json`, in which each hospital puts its own paths.
        site_file: where each hospital keeps its site.json.
        server_dir: folder at the server that holds `initial.pt` and gets weights and metrics.
        local_epochs: see `simulate`.
        options: see `simulate`.

    Returns:
        Folder of the job.

    Raises:
        CxrError: the store or a number is wrong, nvflare is missing, or `work_dir` is not empty.
    """
    work_dir = Path(work_dir)
    if len(set(names)) < 2:
        raise CxrError("--names: give the names of two hospitals or more, A,B")
    if not Path(store).is_file():
        raise CxrError(f"{store}: no such store; --sites takes that of the hospital that prepares the job")
    settings = _settings(config_files, {names[0]: Path(store)}, rounds, local_epochs, dict(options or {}), work_dir)
    _ready(work_dir)
    with tempfile.TemporaryDirectory() as elsewhere:
        _save(_site(names[0], settings[names[0]], elsewhere).shared(), work_dir / INITIAL)
    write_json(work_dir / "site.json", settings[names[0]])
    return _write_job(work_dir / "job", names, rounds, server_dir, site_file)


def _ready(work_dir: Path) -> None:
    if find_spec("nvflare") is None:
        raise CxrError(NEEDED)
    if work_dir.exists() and any(work_dir.iterdir()):
        raise CxrError(f"{work_dir}: is not empty; give another --work_dir, or remove it")


def _site(name: str, settings: Mapping[str, Any], elsewhere: str) -> Site:
    """A hospital's part with its outputs elsewhere."""
    options = {
        **settings["options"],
        "output_dir": f"{elsewhere}/{name}/eval",
        "ckpt_dir": f"{elsewhere}/{name}/models",
    }
    return Site({**settings, "options": options}, name)


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save(dict(weights), temporary)


def _write_job(folder: Path, sites: Sequence[str], rounds: int, server_dir: str, site_file: str) -> Path:
    """Writes the job that NVFlare's simulator runs, or an administrator submits; `{site}` is a hospital's name."""
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import ScriptRunner

    from cxrmonai.deploy.federated_server import ImageWeightedAveraging

    job = FedJob(name=NAME, min_clients=len(sites))
    job.set_app_packages(["cxrmonai"])
    job.to_server(ImageWeightedAveraging(server_dir, len(sites), rounds), id="controller")
    script = str(Path(__file__).with_name("federated_client.py"))
    for site in sites:
        job.to(ScriptRunner(script=script, script_args=f"--site_file {site_file}"), site)
    job.export_job(str(folder))
    return folder / NAME


def _run(work_dir: Path, sites: Sequence[str], rounds: int) -> None:
    """Runs the job in NVFlare's simulator, and tells each round as it ends."""
    log = work_dir / "nvflare.log"
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(work_dir / "job" / NAME)]
    command += ["-w", str(work_dir / "nvflare"), "-c", ",".join(sites), "-t", str(len(sites))]
    told = 0
    errors = [work_dir / site / ERROR_FILE for site in sites]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None and not any(error.is_file() for error in errors):
                time.sleep(0.5)
                told = _tell(work_dir / "global" / ROUNDS, len(sites), rounds, told)
        finally:
            _end(process)
    _tell(work_dir / "global" / ROUNDS, len(sites), rounds, told)
    for error in errors:
        if error.is_file():
            raise CxrError(error.read_text(encoding="utf-8").strip())
    rows = _rows(work_dir / "global" / ROUNDS)
    if process.returncode or sum(row["round"] == rounds for row in rows) < len(sites):
        raise CxrError(f"the simulation ended before its last round; {log} tells why")


def _end(process: subprocess.Popen) -> None:
    """Ends the simulator where it still runs, with the processes that it started, each a session of its own."""
    if process.poll() is not None:
        return
    import psutil  # comes with nvflare

    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _tell(path: Path, sites: int, rounds: int, told: int) -> int:
    """Prints the rounds that are whole and were not told, and returns how many were."""
    table = rounds_table(_rows(path))
    while not table.empty and (table["round"] == told).sum() == sites + 1:
        row = table[(table["round"] == told) & (table["site"] == "all")].iloc[0]
        numbers = ", ".join(f"{name} {row[name]:.4f}" for name in table.columns[3:])
        print(f"after round {told} of {rounds}, validation: {numbers}", flush=True)
        told += 1
    return told


def rounds_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The metrics of all rounds, with a row `all` for each: means weighted by training images.

    Args:
        rows: `round`, `site`, `images`, `metrics`.
    """
    flat = [{"round": row["round"], "site": row["site"], "images": row["images"], **row["metrics"]} for row in rows]
    table = pd.DataFrame(flat)
    if table.empty:
        return table
    means = []
    for number, part in table.groupby("round"):
        mean = {"round": number, "site": "all", "images": part["images"].sum()}
        for name in table.columns[3:]:
            known = part[part[name].notna()]
            mean[name] = np.average(known[name], weights=known["images"]) if len(known) else np.nan
        means.append(mean)
    joined = pd.concat([table, pd.DataFrame(means)], ignore_index=True)
    return joined.sort_values("round", kind="stable", ignore_index=True)
