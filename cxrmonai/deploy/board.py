"""TensorBoard on the runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cxrmonai.errors import CxrError

USUAL = ("bundles", "runs")
EVENTS = "events.out.tfevents.*"


def run_folders(folders: Sequence[str]) -> dict[str, Path]:
    """Finds runs.

    Args:
        folders: to search, with all below them; `bundles` and `runs` where there are none.

    Returns:
        Name of each run (its folder, without the last part `tensorboard`) → folder of its event files, sorted.

    Raises:
        CxrError: a folder is not there, or no run is in them.
    """
    searched = [Path(folder) for folder in folders] or [Path(name) for name in USUAL if Path(name).is_dir()]
    missing = [str(folder) for folder in searched if not folder.is_dir()]
    if missing:
        raise CxrError(f"{missing[0]}: no such folder; name the folder that holds the runs")
    found = {file.parent for folder in searched for file in folder.rglob(EVENTS)}
    if not found:
        places = ", ".join(map(str, searched)) or " and ".join(USUAL)
        raise CxrError(f"no run of TensorBoard below {places}; train a bundle, or name its output_dir")
    return {_name(folder): folder for folder in sorted(found)}


def serve(folders: Sequence[str], port: int = 6006) -> None:
    """Serves the runs at 127.0.0.1 until interrupted.

    Args:
        folders: see `run_folders`.
        port: to serve at; 0 for any that is free.

    Raises:
        CxrError: see `run_folders`; or the port is taken.
    """
    from tensorboard import program

    runs = run_folders(folders)
    tool = program.TensorBoard()
    spec = ",".join(f"{name.replace(',', ' ')}:{folder}" for name, folder in runs.items())
    tool.configure(logdir_spec=spec, host="127.0.0.1", port=port)
    try:
        address = tool.launch()
    except program.TensorBoardServerException as error:
        raise CxrError(f"port {port}: TensorBoard cannot serve there; give another --port, or 0 for any") from error
    print(f"{len(runs)} runs at {address} (Ctrl-C ends it)", flush=True)
    while True:
        time.sleep(3600)


def _name(folder: Path) -> str:
    """A name that begins with `/` TensorBoard would take for part of the path."""
    return str(folder.parent if folder.name == "tensorboard" else folder).replace(":", "_").lstrip("/")
