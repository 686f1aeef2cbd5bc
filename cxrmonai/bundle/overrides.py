"""The `--key value` pairs of a command: known to the config, and applied to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.source import read_file
from cxrmonai.bundle.wording import suggestion

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")
WORKFLOW_ARGUMENTS = ("workflow_name", "workflow_type", "properties_path")


def with_args_file(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the overrides laid over the content of their `args_file`, less that key, and the faults of the file.

    Overrides that are None are left out, since MONAI ignores them.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    args_file = given.pop("args_file", None)
    if args_file is None:
        return given, []
    from monai.bundle import update_kwargs

    content, faults = read_file(Path(str(args_file)))
    return update_kwargs(content, **given), faults


def split_run_arguments(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the runner's own arguments, and the rest, which change the config."""
    own = RUN_ARGUMENTS + WORKFLOW_ARGUMENTS
    return (
        {key: value for key, value in overrides.items() if key in own},
        {_normal(key): value for key, value in overrides.items() if key not in own},
    )


def apply(parser: ConfigParser, overrides: Mapping[str, Any], own: Mapping[str, Any], file: str) -> list[str]:
    """Sets the overrides whose key the config knows, and returns a fault for each other one."""
    extra = _tracking_keys(own.get("tracking"))
    faults = []
    for key, value in overrides.items():
        fault = _key_fault(parser, key, extra, file)
        if fault:
            faults.append(fault)
        else:
            parser[key] = value
    return faults


def run_argument_faults(parser: ConfigParser, own: Mapping[str, Any]) -> list[str]:
    """Returns the faults of the runner's own arguments: ids, files and tracking that are not there."""
    faults = []
    for name in ("run_id", "init_id", "final_id"):
        if name in own and str(own[name]) not in parser:
            faults.append(f"--{name}: the config has no key '{own[name]}'{suggestion(str(own[name]), parser.get())}")
    for name in ("meta_file", "logging_file"):
        files = own.get(name) or []
        for path in [files] if isinstance(files, (str, Path)) else files:
            if not Path(path).is_file():
                faults.append(f"--{name}: no such file: {path}")
    if own.get("tracking") == "mlflow" and importlib.util.find_spec("mlflow") is None:
        faults.append("--tracking mlflow needs the package 'mlflow', which is not installed: pip install mlflow")
    return faults


def _normal(key: str) -> str:
    return str(key).removeprefix("+").replace("#", "::")


def _key_fault(parser: ConfigParser, key: str, extra: set[str], file: str) -> str | None:
    parent_id, _, last = key.rpartition("::")
    if key.split("::")[0] == parser.meta_key or key in extra or key in parser:
        return None
    if not parent_id:
        known = [*parser.get(), *RUN_ARGUMENTS, *extra]
        return f"--{key}: {file} has no such key{suggestion(key, known) or '; see its top-level keys'}"
    if parent_id not in parser:
        return f"--{key}: {file} has no '{parent_id}'{suggestion(key, _ids(parser.get()))}"
    parent = parser[parent_id]
    if isinstance(parent, dict):
        if not parent or _in_component(parser, parent_id):
            return None
        siblings = suggestion(last, [str(name) for name in parent], mark=f"{parent_id}::")
        return f"--{key}: '{parent_id}' in {file} has no key '{last}'{siblings}"
    if isinstance(parent, list):
        return f"--{key}: '{parent_id}' in {file} is a list of {len(parent)}, numbered from 0"
    return f"--{key}: '{parent_id}' in {file} is a single value without keys; set '--{parent_id}' as a whole"


def _in_component(parser: ConfigParser, key: str) -> bool:
    """Whether the group is a component or lies inside one, where new keys are arguments or data."""
    parts = key.split("::")
    groups = (parser["::".join(parts[: end + 1])] for end in range(len(parts)))
    return any(isinstance(group, dict) and "_target_" in group for group in groups)


def _ids(config: Any, prefix: str = "") -> list[str]:
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    found = []
    for key, value in items:
        name = f"{prefix}{key}"
        found += [name, *_ids(value, f"{name}::")]
    return found


def _tracking_keys(tracking: Any) -> set[str]:
    """The top-level keys that MONAI adds for an experiment tracker."""
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    if isinstance(tracking, str):
        tracking = DEFAULT_EXP_MGMT_SETTINGS.get(tracking) or read_file(Path(tracking))[0]
    return set(tracking.get("configs", {})) if isinstance(tracking, dict) else set()
