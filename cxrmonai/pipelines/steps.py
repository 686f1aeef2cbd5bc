"""Runs of bundles one after another, each left out when nothing that it depends on has changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxrmonai.caching import is_made, note_made, stamp
from cxrmonai.errors import CxrError
from cxrmonai.pipelines.running import run_config

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """One run of a bundle's config.

    Attributes:
        name: what it is called, unique in a pipeline.
        config: the config file.
        options: keys and values that override the config's.
        inputs: files that it reads.
        outputs: files that are there when it has ended well.
        resumable: whether the config takes `resume`, so that an interrupted run goes on.
        leftovers: files that nobody needs when it has ended well.
    """

    name: str
    config: Path
    options: Mapping[str, Any]
    inputs: Sequence[str | Path] = ()
    outputs: Sequence[Path] = field(default_factory=tuple)
    resumable: bool = False
    leftovers: Sequence[Path] = ()


class Runner:
    """Runs steps and keeps a record of each in `steps/` of the working folder.

    Args:
        work_dir: of the pipeline.
        total: number of steps, for what is shown.
    """

    def __init__(self, work_dir: Path, total: int) -> None:
        self.folder, self.total, self.count = Path(work_dir) / "steps", total, 0
        self.ran: list[str] = []

    def __call__(self, step: Step) -> None:
        """Runs a step, unless its record says that it was run with the same configs, code, options and input files.

        Raises:
            CxrError: the input is at fault, or a file that it should have made is not there.
        """
        self.count += 1
        title = f"[{self.count}/{self.total}] {step.name}"
        record = self.folder / f"{step.name.replace(' ', '_').replace('/', '_')}.json"
        inputs = {
            "config": _digest(step.config),
            "code": code_digest(),
            "options": {key: str(value) for key, value in step.options.items()},
            "files": {str(path): stamp(path) for path in step.inputs},
        }
        if is_made(record, inputs):
            print(f"{title}: unchanged, left out", flush=True)
            return
        begun = record.with_suffix(".begun.json")
        again = step.resumable and is_made(begun, inputs)
        note_made(begun, inputs, [])
        print(f"{title}: running", flush=True)
        start = time.perf_counter()
        _run(step, {"resume": True} if again else {})
        missing = [str(path) for path in step.outputs if not Path(path).is_file()]
        if missing:
            raise CxrError(f"the step '{step.name}' did not write {', '.join(missing)}")
        note_made(record, inputs, list(step.outputs))
        begun.unlink()
        for path in step.leftovers:
            path.unlink(missing_ok=True)
        self.ran.append(step.name)
        size = sum(Path(path).stat().st_size for path in step.outputs) / 1e6
        print(f"{title}: {time.perf_counter() - start:.0f} s, {size:.1f} MB", flush=True)


def _run(step: Step, more: Mapping[str, Any]) -> None:
    options = {key: str(value) if isinstance(value, Path) else value for key, value in {**step.options, **more}.items()}
    kind = "train" if step.config.stem == "train" else "infer"
    try:
        run_config([step.config], kind, **options)
    except CxrError as error:
        raise CxrError(f"step '{step.name}': {error}") from error


def folder_bytes(folder: Path) -> int:
    """What a folder takes on disk."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of all modules of this package: changes with any of them."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _digest(path: Path) -> str:
    if not path.is_file():
        raise CxrError(f"{path}: no such config; run the command from the repository's root, or give --bundles FOLDER")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


__all__ = ["Runner", "Step", "code_digest", "folder_bytes"]
