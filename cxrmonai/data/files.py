"""Radiographs straight from files, for inference."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from cxrmonai.data.dataset import as_it_is
from cxrmonai.data.reading import id_from_path, ids_from_paths, image_files
from cxrmonai.errors import CxrError, user_error


def list_radiographs(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Finds the radiographs in a folder, or takes a single file.

    Args:
        path: a folder, searched with all below it, or a file.

    Returns:
        One item per file, sorted: `image` (path) and `image_id` (path below the folder without suffix, `/` as `_`).

    Raises:
        CxrError: there is no such path, or no radiograph in it.
    """
    path = Path(path)
    if path.is_file():
        return [{"image": str(path), "image_id": id_from_path(path.name)}]
    if not path.is_dir():
        raise CxrError(f"{path}: no such file or folder; name the radiographs' folder with --dataset_dir")
    files = list(image_files(path))
    if not files:
        raise CxrError(
            f"{path}: no radiograph (PNG, JPEG, DICOM, NIfTI, NPY) in this folder; name the radiographs' folder with "
            "--dataset_dir"
        )
    ids = ids_from_paths([file.relative_to(path).as_posix() for file in files])
    return [{"image": str(file), "image_id": image_id} for file, image_id in zip(files, ids, strict=True)]


class FileDataset(Dataset):
    """Items that a transform reads from files; a file that cannot be read is reported and does not stop the others.

    A batch is `image` (B, …), `image_id` (B texts), `shape` (B pairs of the files' own height and width, where the
    transform leaves them as `image_shape`) and `skipped` (pairs of path and reason); B counts the readable ones.

    Args:
        items: from `list_radiographs`.
        transform: item → item with `image` as a tensor of one shape.
        shape: that shape; what a batch looks like in which no file can be read.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, str]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        shape: Sequence[int],
    ) -> None:
        self.items, self.transform, self.shape = list(items), transform, tuple(shape)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One item, transformed.

        Raises:
            CxrError: the file cannot be read.
        """
        try:
            return self.transform(self.items[index])
        except Exception as error:
            cause = user_error(error)
            if cause is None:
                raise
            raise cause from None

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch of the items that can be read."""
        images, ids, shapes, skipped = [], [], [], []
        for index in indices:
            try:
                item = self[index]
                images.append(item["image"])
                shapes.append(item.get("image_shape"))
                ids.append(self.items[index]["image_id"])
            except CxrError as error:
                skipped.append((self.items[index]["image"], str(error)))
        batch = torch.stack(images) if images else torch.empty((0, *self.shape))
        return {"image": batch, "image_id": ids, "shape": shapes, "skipped": skipped}


__all__ = ["FileDataset", "as_it_is", "list_radiographs"]
