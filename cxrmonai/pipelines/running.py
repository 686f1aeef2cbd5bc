"""A bundle's config run in this process: a new one would spend most of a short run on imports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from monai.bundle import create_workflow

from cxrmonai.errors import user_error


def run_config(config_files: Sequence[str | os.PathLike[str]], kind: str, **overrides: Any) -> None:
    """Runs a config as `python -m monai.bundle run` does.

    Args:
        config_files: the config, and overlays.
        kind: `train` or `infer`, as MONAI calls workflows.
        **overrides: keys of the config; paths as text.

    Raises:
        CxrError: the input is at fault, however deep in MONAI that was found.
    """
    try:
        work = create_workflow(config_file=[os.fspath(file) for file in config_files], workflow_type=kind, **overrides)
        work.initialize()
        work.run()
        work.finalize()
    except Exception as error:
        cause = user_error(error)
        if cause is None:
            raise
        raise cause from None


__all__ = ["run_config"]
