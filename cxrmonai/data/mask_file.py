"""Masks of many images in one JSON file, as CheXlocalize exchanges them.

`{image_id: {task: {"size": [h, w], "counts": "…"}}}`: compressed COCO run lengths at original size, with the same tasks
for every image; an empty mask is a short text (Saporta et al., Nature Machine Intelligence 2022).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from cxrmonai.data.masks import decode_rle, encode_rle
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path


class MaskFileWriter(AbstractContextManager):
    """Writes a mask file image by image; the file appears under its name when the block ends without an error.

    Args:
        path: of the JSON file.

    Raises:
        CxrError: on entering: the folder cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._file: IO[str] | None = None
        self._tasks: set[str] | None = None
        self._ids: set[str] = set()

    def __enter__(self) -> MaskFileWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        self._file.write("{")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write("\n}\n" if self._ids else "}\n")
        self._stack.__exit__(kind, error, trace)

    def add(self, image_id: str, masks: Mapping[str, np.ndarray]) -> None:
        """Writes the masks of one image.

        Args:
            image_id: not written before.
            masks: task → (H, W) bool at the image's original size, the same tasks for every image.

        Raises:
            CxrError: the image is there already, the tasks or sizes differ, or there is none.
        """
        self._check(image_id, masks)
        if len({np.shape(mask) for mask in masks.values()}) > 1:
            raise CxrError(f"{self.path}: the masks of {image_id} differ in size; give all at the image's own")
        self._write(image_id, {task: encode_rle(mask) for task, mask in masks.items()})

    def add_encoded(self, image_id: str, masks: Mapping[str, str]) -> None:
        """Writes the masks of one image as `encode_rle` gives them, see `add`."""
        self._check(image_id, masks)
        self._write(image_id, masks)

    def _check(self, image_id: str, masks: Mapping[str, Any]) -> None:
        if image_id in self._ids:
            raise CxrError(f"{self.path}: has the image {image_id} already; each is written once")
        if not masks:
            raise CxrError(f"{self.path}: no task to write for {image_id}")
        if self._tasks is None:
            self._tasks = set(masks)
        if set(masks) != self._tasks:
            odd = sorted(set(masks) ^ self._tasks)
            raise CxrError(f"{self.path}: every image needs the same tasks; {image_id} differs in {', '.join(odd)}")

    def _write(self, image_id: str, masks: Mapping[str, str]) -> None:
        texts = [f"{json.dumps(task)}: {mask}" for task, mask in masks.items()]
        self._file.write(("," if self._ids else "") + f"\n{json.dumps(image_id)}: {{{', '.join(texts)}}}")
        self._ids.add(image_id)


class MaskFile(Mapping):
    """A mask file in memory, each mask as run lengths until it is asked for: image id → {task: (H, W) bool}.

    Args:
        content: of the JSON file.
        path: where it came from, for messages.
    """

    def __init__(self, content: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
        self._content, self.path = content, path

    def __getitem__(self, image_id: str) -> dict[str, np.ndarray]:
        """All masks of an image.

        Raises:
            CxrError: run lengths are damaged.
        """
        return {task: self.mask(image_id, task) for task in self._content[image_id]}

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def tasks(self, image_id: str) -> list[str]:
        """Tasks of an image."""
        return list(self._content[image_id])

    def mask(self, image_id: str, task: str) -> np.ndarray:
        """(H, W) bool, one mask.

        Raises:
            CxrError: there is none, or its run lengths are damaged.
        """
        if task not in self._content.get(image_id, {}):
            raise CxrError(f"{self.path}: no mask of {task} for the image {image_id}")
        try:
            return decode_rle(json.dumps(self._content[image_id][task]))
        except CxrError as error:
            raise CxrError(f"{self.path}: {image_id}, {task}: {error}") from error


def read_mask_file(path: str | os.PathLike[str]) -> MaskFile:
    """Reads a mask file; masks are decoded when they are asked for.

    Raises:
        CxrError: the file is missing, no JSON, or of another layout.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CxrError(f"{path}: no such file, or not readable ({error.strerror})") from error
    except ValueError as error:
        raise CxrError(f"{path}: no JSON text; give a mask file in CheXlocalize's layout") from error
    if not isinstance(content, dict) or not all(_are_masks(masks) for masks in content.values()):
        raise CxrError(f'{path}: not in CheXlocalize\'s layout, {{image_id: {{task: {{"size", "counts"}}}}}}')
    return MaskFile(content, path)


def _are_masks(masks: Any) -> bool:
    return isinstance(masks, dict) and all(
        isinstance(mask, dict) and {"size", "counts"} <= mask.keys() for mask in masks.values()
    )
