"""Running bundles as a user does, for tests."""

import json
import re
import subprocess
import sys
from pathlib import Path

from monai.bundle import ConfigWorkflow, create_workflow

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"max_epochs": 2, "batch_size": 16, "image_size": 32, "stem": "default", "probe_every": 1}


def options(values):
    """A dictionary as `--key value …`."""
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def run(arguments, cwd, **kwargs):
    """Runs Python with arguments, and returns the finished process with its output as text."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, **kwargs)


def bundle(config, cwd, **overrides):
    """Runs a config of a bundle."""
    return run(["-m", "monai.bundle", "run", "--config_file", config, *options(overrides)], cwd)


def readme_command():
    """The arguments after `python` of the first bundle run in the README."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.search(r"python (-m monai\.bundle run --config_file bundles/simclr/configs/train\.json)\b", text)[
        1
    ].split()


def error_lines(finished):
    """Lines of a failed run that begin with `error:`; the run must have failed without a traceback."""
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr, finished.stderr
    return [line for line in finished.stderr.splitlines() if line.startswith("error:")]


def initialized(bundle, files, kind="train", **overrides):
    """A workflow of a bundle, initialised in this process and not run; files are configs, or below its `configs`."""
    made = ConfigWorkflow(
        config_file=[str(bundle / "configs" / file) for file in files],
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        **overrides,
    )
    made.initialize()
    return made


def train_here(bundle, store, folder, *presets, **overrides):
    """Trains a bundle in this process with presets over its train.json, into a folder, which is returned."""
    files = [str(bundle / "configs" / name) for name in ("train.json", *(f"presets/{name}.json" for name in presets))]
    places = {"data_file": str(store), "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    work = create_workflow(config_file=files, workflow_type="train", bundle_root=str(bundle), **{**places, **overrides})
    work.initialize()
    work.run()
    work.finalize()
    return folder


def evaluate_here(bundle, folder, store, out, **overrides):
    """Evaluates in this process what `train_here` left in a folder, and returns the metrics."""
    places = {"data_file": str(store), "ckpt_path": str(folder / "models/model.pt"), "output_dir": str(out)}
    work = create_workflow(
        config_file=str(bundle / "configs/evaluate.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
        **{"resamples": 100, "device": "cpu", **places, **overrides},
    )
    work.initialize()
    work.run()
    return json.loads((out / "metrics.json").read_text())
