"""The command line: `python -m cxrmonai COMMAND …`."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from typing import Any

import fire

from cxrmonai._version import __version__
from cxrmonai.errors import CxrError

SOME_SKIPPED = 3


def prepare(
    source: str,
    root: str,
    out: str,
    size: int = 256,
    workers: int | None = None,
    depth: int = 8,
    overwrite: bool = False,
    **options: Any,
) -> int:
    """Packs a data set into a store. An interrupted run goes on when the same command is given again.

    Options of the sources, besides the flags below. nih: --images FOLDER, --seed K. csv: --table FILE (needed),
    --path_column NAME, --class_columns A,B, --id_column, --patient_column, --study_column, --view_column, --age_column,
    --sex_column, --split_column, --mask_column A,B, --seed K. folder: --seed K. The exit code is 3 where the store was
    written but some images could not be read, and 1 where nothing was written.

    Args:
        source: nih, csv or folder.
        root: folder of the data set.
        out: the store to write, NAME.h5.
        size: edge of the square images in pixels.
        workers: processes; as many as there are cores by default.
        depth: 8 or 16 bits a pixel.
        overwrite: replace an existing store.
    """
    from cxrmonai.data.prepare import prepare as run
    from cxrmonai.data.sources import load_source

    collection = load_source(str(source), str(root), **options)
    for note in collection.notes:
        print(f"note: {note}")
    made = run(collection, str(out), size=size, workers=workers, depth=depth, overwrite=overwrite)
    resumed = f", {made.resumed} of them from an interrupted run" if made.resumed else ""
    print(f"{made.path}: {made.written} images written{resumed}, {len(made.skipped)} skipped")
    for image, reason in made.skipped.itertuples(index=False):
        print(f"skipped {image}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if len(made.skipped) else 0


def info(file: str) -> int:
    """Describes a store: size, splits, findings, boxes, masks, what was skipped.

    Args:
        file: a store, NAME.h5.
    """
    from cxrmonai.data.describe import describe
    from cxrmonai.data.store import open_store

    print(describe(open_store(str(file))))
    return 0


def phantom(
    out: str | None = None,
    patients: int = 600,
    size: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    sheet: str | None = None,
) -> int:
    """Makes a store of synthetic radiographs with exact masks and boxes.

    Args:
        out: the store to write, NAME.h5.
        patients: how many; each has one to four studies.
        size: edge of the images in pixels, 32 to 2048.
        seed: of the whole population.
        overwrite: replace an existing store.
        sheet: a PNG or JPEG to draw 16 of the radiographs on, findings outlined.
    """
    from cxrmonai.data.phantom_store import write_phantom, write_sheet

    if out is None and sheet is None:
        raise CxrError("nothing to make; give --out FILE.h5, or --sheet FILE.png")
    if sheet is not None:
        print(f"{write_sheet(str(sheet), patients, size, seed)}: 16 synthetic radiographs, findings outlined")
    if out is not None:
        count = write_phantom(str(out), patients, size, seed, overwrite=overwrite)
        print(f"{out}: {count} synthetic radiographs of {patients} patients")
    return 0


def check(config_file: str, **overrides: Any) -> int:
    """Checks a bundle's config and overrides without running it; one line per fault.

    Args:
        config_file: a config, or several as "['a.json','b.json']".
        **overrides: as they would follow `python -m monai.bundle run`.
    """
    from cxrmonai.bundle import main_check

    return main_check(config_file, **overrides)


def version() -> int:
    """Prints the version."""
    print(__version__)
    return 0


COMMANDS = {"prepare": prepare, "info": info, "phantom": phantom, "check": check, "version": version}


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
    try:
        _refuse_unknown_flags(sys.argv[1:] if arguments is None else arguments)
        code = fire.Fire(COMMANDS, command=arguments, name="cxrmonai", serialize=_unless_code)
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        resumable = "; the same command goes on from here" if sys.argv[1:2] == ["prepare"] else ""
        print(f"interrupted{resumable}", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
