"""What a run over a loader that shares images out to ranks needs, to end with what one rank would have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from ignite.engine import Engine

from cxrmonai import distributed
from cxrmonai.data.dataset import EpochSampler
from cxrmonai.errors import CxrError

Opened = TypeVar("Opened")


def sampler_of(engine: Engine) -> EpochSampler | None:
    """Who shares out the images of a MONAI engine; `None` for a loader that `store_loader` did not make."""
    sampler = getattr(getattr(engine, "data_loader", None), "sampler", None)
    return sampler if isinstance(sampler, EpochSampler) else None


def is_shared(engine: Engine) -> bool:
    """Whether each rank sees images of its own."""
    sampler = sampler_of(engine)
    return sampler is not None and sampler.ranks > 1


def joined(engine: Engine, part: np.ndarray) -> np.ndarray:
    """What all ranks made, in the order of the data set, on rank 0; elsewhere `part`. All ranks must call it.

    Args:
        engine: of the run.
        part: (n, …) of this rank's images, in their order.
    """
    return sampler_of(engine).join(part) if is_shared(engine) else part


def part_path(engine: Engine, path: str | os.PathLike[str]) -> Path:
    """Where this rank writes a file too large for memory: a hidden file beside `path`; `path` itself on one rank."""
    return _part(Path(path), distributed.rank()) if is_shared(engine) else Path(path)


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank-{rank}")


@contextmanager
def parts_in_turn(
    engine: Engine, path: str | os.PathLike[str], read: Callable[[Path], Opened]
) -> Iterator[Iterator[tuple[Opened, int]] | None]:
    """What the ranks wrote to their `part_path`, image by image in the order of the data set; all ranks must call it.

    Args:
        engine: of the run.
        path: of the whole file.
        read: opens a part.

    Yields:
        On rank 0 pairs of an opened part and a place in it; `None` elsewhere. The parts are gone when the block ends.

    Raises:
        CxrError: a part is not there.
    """
    distributed.collect(None)  # rank 0 waits until every part is whole
    if distributed.rank() != 0:
        yield None
        return
    paths = [_part(Path(path), rank) for rank in range(distributed.world_size())]
    missing = [part for part in paths if not part.is_file()]
    if missing:
        raise CxrError(f"{missing[0]}: not here; output_dir must lie on a disk that all machines share")
    try:
        parts = [read(part) for part in paths]
        yield ((parts[rank], place) for rank, place in sampler_of(engine).turns())
    finally:
        for part in paths:
            part.unlink()
