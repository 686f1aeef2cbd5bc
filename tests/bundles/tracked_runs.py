"""Trains bundles with `--tracking mlflow`, and tells what was tracked; a process of its own, since it needs MLflow.

python tracked_runs.py FOLDER STORE JSON: the options of each bundle. Prints JSON on its last line.
"""

import json
import sys
from pathlib import Path

from mlflow import MlflowClient
from page_commands import run_command

REPOSITORY = Path(__file__).resolve().parents[2]


def tracked(output):
    """Names of parameters and metrics of the runs in an output_dir."""
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlruns.db")
    runs = [run for found in client.search_experiments() for run in client.search_runs([found.experiment_id])]
    return {
        "status": [run.info.status for run in runs],
        "params": sorted({name for run in runs for name in run.data.params}),
        "metrics": {name: value for run in runs for name, value in run.data.metrics.items()},
    }


def main(folder, store, options):
    """Runs each bundle in a folder of its own."""
    found = {}
    for bundle, given in json.loads(options).items():
        here = Path(folder) / bundle
        (here / "somewhere").mkdir(parents=True)
        words = ["python", "-m", "monai.bundle", "run", "--config_file"]
        words += [str(REPOSITORY / f"bundles/{bundle}/configs/train.json"), "--tracking", "mlflow"]
        places = {"data_file": store, "output_dir": str(here / "eval"), "ckpt_dir": str(here / "models")}
        words += [part for key, value in {**given, **places}.items() for part in (f"--{key}", str(value))]
        finished = run_command(words, here / "somewhere")
        assert finished.code == 0, finished.out + finished.err
        strays = [str(path) for path in here.rglob("*") if "mlruns" in path.name and path.parent != here / "eval"]
        strays += [str(path) for path in (here / "somewhere").iterdir()]
        events = [str(path) for path in here.rglob("events.out.tfevents.*")]
        configs = [str(path) for path in (here / "eval").glob("config_*.json")]
        found[bundle] = {**tracked(here / "eval"), "configs": configs, "strays": strays, "events": events}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
