"""The check at the start of a run, and faults told in one line."""

from __future__ import annotations

import os
import re
import sys
import time
from types import TracebackType
from typing import Any

from cxrmonai.bundle.checking import check, examine
from cxrmonai.bundle.command import bundle_command
from cxrmonai.bundle.source import ConfigFile, config_files
from cxrmonai.bundle.tracking import mend_tracking
from cxrmonai.bundle.wording import one_line
from cxrmonai.errors import CxrError, user_error

# torchrun kills all ranks once one has left; the rank that speaks must not be killed before it has.
_SPEAKER_SECONDS = 10
# As gloo, nccl and the store of addresses call a partner that has gone.
_LOST = re.compile(
    r"Dist\w*Error|gloo|nccl|Connection (closed|reset|refused)|Broken pipe|Socket Timeout", re.IGNORECASE
)


def preflight() -> None:
    """Checks the config and overrides of `python -m monai.bundle run`; in any other process it only mends tracking.

    It is the first item of `initialize`: `"$cxrmonai.bundle.preflight()"`. Faults go to stderr, one line each, once
    for a node when several processes run. The environment variable CXRMONAI_CHECK=0 leaves the check out.

    Raises:
        SystemExit: with code 1, when there are faults.
    """
    mend_tracking()
    command, arguments = bundle_command() or ("", {})
    if command not in ("run", "run_workflow"):
        return
    install_excepthook()
    config_file = arguments.pop("config_file", None)
    if config_file is None or os.environ.get("CXRMONAI_CHECK") == "0":
        return
    faults = check(config_file, {"run_id": "run", **arguments})
    if not faults:
        return
    if int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) == 0:
        _tell(faults)
    else:
        time.sleep(_SPEAKER_SECONDS)
    raise SystemExit(1)


def main_check(config_file: ConfigFile, **overrides: Any) -> int:
    """Checks a config, prints `ok: …` or one line for each fault, and returns the exit code, 0 or 1."""
    report = examine(config_file, overrides)
    if report.faults:
        _tell(report.faults)
        return 1
    files = " + ".join(str(path) for path in config_files(config_file))
    print(f"ok: {files}: {report.components} components and {report.expressions} expressions checked")
    return 0


def install_excepthook() -> None:
    """Makes an uncaught error that a `CxrError` caused end the process with the line `error: …` and code 1.

    So does one that another rank caused by ending. Other errors keep their traceback, and so do all with the
    environment variable CXRMONAI_TRACEBACK=1. A second call changes nothing.
    """
    if getattr(sys.excepthook, "tells_cxr_errors", False):
        return
    earlier = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = user_error(error) or _lost_rank(error)
        if cause is None or os.environ.get("CXRMONAI_TRACEBACK") == "1":
            earlier(kind, error, trace)
        else:
            _tell([str(cause)])

    hook.tells_cxr_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _lost_rank(error: BaseException | None) -> CxrError | None:
    """What to say of an error by which this rank learns that another has ended; `None` for any other error."""
    while error is not None and "WORLD_SIZE" in os.environ:
        if isinstance(error, RuntimeError) and _LOST.search(f"{type(error).__name__}: {error}"):
            return CxrError(
                f"rank {os.environ.get('RANK', '?')} has lost another rank, which ended or cannot be reached; that "
                "rank's own message says why, and a training goes on from its last whole epoch with --resume True"
            )
        error = error.__cause__ or error.__context__
    return None


def _tell(faults: list[str]) -> None:
    for fault in faults:
        print(f"error: {one_line(fault)}", file=sys.stderr, flush=True)
