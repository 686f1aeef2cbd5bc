"""The table of commands, and what runs one of them."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from typing import Any

import fire

from cxrmonai._version import __version__
from cxrmonai.cli import models, products, stores
from cxrmonai.errors import CxrError


def version() -> int:
    """Prints the version."""
    print(__version__)
    return 0


COMMANDS = {
    "sources": stores.sources,
    "prepare": stores.prepare,
    "merge": stores.merge,
    "label": stores.label,
    "info": stores.info,
    "encoder": models.encoder,
    "delong": models.delong,
    "compare": models.compare,
    "phantom": stores.phantom,
    "export": products.export,
    "label-app": products.label_app,
    "serve": products.serve,
    "board": products.board,
    "dicom-out": products.dicom_out,
    "chexseg": models.chexseg,
    "cross-validate": models.cross_validate,
    "federated": models.federated,
    "check": models.check,
    "version": version,
}


def _refuse_unknown_flags(arguments: list[str]) -> None:
    """Fire runs a command first and complains of a flag it does not know afterwards."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or "--" in arguments:
        return
    parameters = inspect.signature(command).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in arguments[1:]:
        name = argument.removeprefix("--").split("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in {*parameters, *(f"no{known}" for known in parameters), "help"}:
            close = difflib.get_close_matches(name, parameters, 1)
            hint = f"; did you mean --{close[0]}?" if close else f"; it has --{', --'.join(parameters)}"
            raise CxrError(f"{arguments[0]} has no flag --{name}{hint}")


def _unless_code(result: Any) -> Any:
    return None if isinstance(result, int) else result


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and leaves with its exit code; a fault of the input is one line on stderr and exit code 1."""
    os.environ.setdefault("PAGER", "cat")
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] and given[0] in COMMANDS and "--help" in given:
        given = [given[0], "--", "--help"]  # otherwise Fire takes it for one of the command's own options
    try:
        _refuse_unknown_flags(given)
        code = fire.Fire(COMMANDS, command=given, name="cxrmonai", serialize=_unless_code)
        sys.stdout.flush()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        resumable = "; the same command goes on from here" if sys.argv[1:2] in (["prepare"], ["compare"]) else ""
        print(f"interrupted{resumable}", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
