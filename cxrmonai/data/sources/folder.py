"""A folder of radiographs and nothing else: material for pretraining."""

from __future__ import annotations

from pathlib import Path

from cxrmonai.data.reading import ids_from_paths, image_files
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import with_splits
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError

ABOUT = "a folder of radiographs without labels, searched with all below it"
NEEDS = ("images of any file type that is known",)
WHERE = ""


def load(root: Path, seed: int = 0) -> Collection:
    """Takes every image below the folder, without labels.

    Args:
        root: the folder.
        seed: of the split, which is drawn by image.

    Returns:
        The collection.

    Raises:
        CxrError: there is no image.
    """
    paths = [path.relative_to(root).as_posix() for path in image_files(root)]
    if not paths:
        raise CxrError(f"{root}: no image below this folder")
    notes: list[str] = []
    table = with_splits(make_table({"image": paths, "image_id": ids_from_paths(paths)}), seed, False, notes)
    return Collection("folder", root, table, [], notes=notes)
