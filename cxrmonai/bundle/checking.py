"""The check of a config as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.expressions import expression_faults, import_faults
from cxrmonai.bundle.overrides import apply, run_argument_faults, split_run_arguments, with_args_file
from cxrmonai.bundle.references import is_content, reference_faults, resolve_macros, walk
from cxrmonai.bundle.source import ConfigFile, config_files, merge, read_metadata
from cxrmonai.bundle.targets import component_faults
from cxrmonai.bundle.values import value_faults

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


@dataclass
class Report:
    """What a check found: the faults in order, and how much was looked at."""

    faults: list[str] = field(default_factory=list)
    components: int = 0
    expressions: int = 0


def check(config_file: ConfigFile, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the faults of a config with its overrides, one sentence each; an empty list when there is none.

    Nothing is built and no `$` expression is evaluated; the modules that the config names are imported.

    Args:
        config_file: one path or several, or the text that MONAI takes for them.
        overrides: the `--key value` pairs that would follow the config on a command line, with Python values.
    """
    return examine(config_file, overrides).faults


def examine(config_file: ConfigFile, overrides: Mapping[str, Any] | None = None) -> Report:
    """Does what `check` does, and counts the components and expressions too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = _examine(config_files(config_file), overrides or {})
    report.faults = list(dict.fromkeys(report.faults))
    return report


def _examine(files: list[Path], given: Mapping[str, Any]) -> Report:
    overrides, faults = with_args_file(given)
    parser, found = merge(files)
    faults += found
    if faults:
        return Report(faults)
    own, pairs = split_run_arguments(overrides)
    if not isinstance(own.get("meta_file"), (list, tuple)):
        faults += read_metadata(parser, Path(own.get("meta_file") or files[0].parent / "metadata.json"))
    faults += apply(parser, pairs, own, " + ".join(path.name for path in files))
    faults += run_argument_faults(parser, own)
    faults += value_faults(parser, pairs)
    faults += _root_faults(parser)
    faults += resolve_macros(parser)
    return _content_report(parser.get(), faults)


def _content_report(config: Mapping[str, Any], faults: list[str]) -> Report:
    items = {id: value for id, value in walk(config) if is_content(id)}
    texts = {id: value for id, value in items.items() if isinstance(value, str) and value.startswith("$")}
    components = {id: value for id, value in items.items() if isinstance(value, dict) and "_target_" in value}
    names, found = import_faults(texts)
    faults += found
    for id, component in components.items():
        faults += component_faults(id, component)
    faults += reference_faults(config)
    for id, text in texts.items():
        faults += expression_faults(id, text, names)
    return Report(faults, len(components), len(texts))


def _root_faults(parser: ConfigParser) -> list[str]:
    root = parser.get("bundle_root")
    if not isinstance(root, str) or root[:1] in ("$", "@", "%") or (Path(root) / "configs" / "metadata.json").is_file():
        return []
    return [f"bundle_root '{root}' holds no configs/metadata.json; give the bundle's folder with --bundle_root"]
