"""Finding the folder of a bundle, which MONAI never infers."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cxrmonai.bundle.command import bundle_command
from cxrmonai.bundle.source import config_files
from cxrmonai.errors import CxrError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow


def find_root(name: str) -> str:
    """Returns the absolute path of the bundle `name`, for `"bundle_root": "$cxrmonai.bundle.find_root('…')"`.

    It is the folder that holds the config being run, else the current folder where that is the bundle, else
    `bundles/<name>` below the current folder.

    Args:
        name: the bundle's name, that of its folder in this repository.

    Raises:
        CxrError: none of these is the bundle; the message asks for --bundle_root.
    """
    holding = [folder for config in _configs() for folder in config.parents if _is_bundle(folder)]
    here = Path.cwd()
    candidates = [folder for folder in holding if _is_named(folder, name)] + holding
    candidates += [here] if _is_bundle(here) and _is_named(here, name) else []
    candidates += [here / "bundles" / name] if _is_bundle(here / "bundles" / name) else []
    if not candidates:
        raise CxrError(f"the folder of the bundle '{name}' is not here ({here}); give it with --bundle_root")
    return str(candidates[0])


def _configs() -> Iterator[Path]:
    folder = _workflow_folder()
    if folder is not None:
        yield Path(os.path.abspath(folder / "config"))
    _, arguments = bundle_command() or ("", {})
    if arguments.get("config_file"):
        yield from (Path(os.path.abspath(path)) for path in config_files(arguments["config_file"]))


def _workflow_folder() -> Path | None:
    """The config folder of the workflow that is evaluating the call."""
    workflow = running_workflow()
    return None if workflow is None else workflow.config_root_path


def running_workflow() -> ConfigWorkflow | None:
    """The workflow that is evaluating the call, started in Python or from the command line; `None` if none is.

    MONAI passes an expression nothing about its own config, so the callers are asked.
    """
    workflows = sys.modules.get("monai.bundle.workflows")
    frame = inspect.currentframe() if workflows else None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, workflows.ConfigWorkflow):
            return owner
        frame = frame.f_back
    return None


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _is_named(folder: Path, name: str) -> bool:
    return name in (folder.name, _metadata_name(folder))


def _metadata_name(folder: Path) -> str:
    try:
        content = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = content.get("name", "") if isinstance(content, dict) else ""
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")
