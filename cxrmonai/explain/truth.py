"""Where findings truly are, from the boxes, masks and labels of a store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxrmonai.data.geometry import HEIGHT, WIDTH, boxes_to_original, mask_to_original
from cxrmonai.data.store import Store
from cxrmonai.data.vocabulary import canonical
from cxrmonai.explain.boxes import mask_boxes


class StoreTruth:
    """Boxes and masks of classes, image by image.

    A drawn mask tells where a finding is, or that it is nowhere. Boxes that are not given are drawn around the regions
    of the mask, and a mask that is not drawn is made of the boxes. Without either, a label of 0 says that the finding
    is nowhere, and any other label that its place is unknown.

    Args:
        store: with the truth.
        class_names: of the classifier, in any spelling; a class that the store does not know has no known place.
    """

    def __init__(self, store: Store, class_names: Sequence[str]) -> None:
        self.store, self.class_names = store, list(class_names)
        self._image_ids = store.column("image_id")
        self._bits = [_place(name, store.mask_names) for name in class_names]
        self._columns = [_place(name, store.class_names) for name in class_names]
        self._boxes: dict[tuple[str, str], list[tuple[float, ...]]] = {}
        for image_id, finding, *box in store.boxes[["image_id", "finding", *"xywh"]].itertuples(index=False):
            self._boxes.setdefault((image_id, canonical(finding)), []).append(tuple(box))
        self._drawn = set(store.mask_rows().tolist())
        self._row, self._masks, self._flags = -1, np.empty(0), np.empty(0)

    def rows(self, split: str | None) -> np.ndarray:
        """Rows of a split in which the place of some class is drawn, as a box or a mask; may be empty."""
        rows = self.store.rows(None)
        if split not in (None, "all"):
            rows = rows[self.store.column("split") == split]
        names = {canonical(name) for name in self.class_names}
        boxed = {image_id for image_id, finding in self._boxes if finding in names}
        drawn = self._rows_with_masks()
        return np.array([row for row in rows if self._image_ids[row] in boxed or int(row) in drawn], np.int64)

    def _rows_with_masks(self) -> set[int]:
        wanted = sum(1 << bit for bit in self._bits if bit is not None)
        if not wanted or not self._drawn:
            return set()
        return set(self.store.mask_rows()[(self.store.mask_flags() & wanted) != 0].tolist())

    def present(self, row: int, k: int) -> bool:
        """Whether the finding is there, as far as is known: by its mask or boxes, else by its label."""
        boxes, column = self.boxes(row, k), self._columns[k]
        if boxes is not None:
            return len(boxes) > 0
        return column is not None and bool(self.store.labels[row, column] == 1)

    def boxes(self, row: int, k: int) -> np.ndarray | None:
        """(T, 4) [x, y, w, h] in original pixels, empty where the finding is nowhere; `None` where it is unknown."""
        given = self._boxes.get((self._image_ids[row], canonical(self.class_names[k])))
        if given is not None:
            return np.array(given, np.float64)
        drawn = self._drawn_mask(row, k)
        if drawn is not None:
            return boxes_to_original(mask_boxes(drawn), self.store.geometry[row])
        return np.empty((0, 4)) if self._absent(row, k) else None

    def mask(self, row: int, k: int) -> np.ndarray | None:
        """(height, width) bool at original size, empty where the finding is nowhere; `None` where it is unknown."""
        geometry = self.store.geometry[row]
        drawn = self._drawn_mask(row, k)
        if drawn is not None:
            return mask_to_original(drawn, geometry)
        boxes = self.boxes(row, k)
        shape = (int(geometry[HEIGHT]), int(geometry[WIDTH]))
        return None if boxes is None else filled(boxes, shape)

    def _drawn_mask(self, row: int, k: int) -> np.ndarray | None:
        bit = self._bits[k]
        if bit is None or int(row) not in self._drawn:
            return None
        if row != self._row:
            masks, flags = self.store.masks([int(row)])
            self._row, self._masks, self._flags = row, masks[0], flags[0]
        return self._masks[bit] if self._flags[bit] else None

    def _absent(self, row: int, k: int) -> bool:
        column = self._columns[k]
        return column is not None and self.store.labels[row, column] == 0


def filled(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(T, 4) boxes [x, y, w, h] → (height, width) bool: the pixels whose centre lies in one."""
    mask = np.zeros(shape, bool)
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for x, y, w, h in boxes:
        mask |= ((rows >= y) & (rows < y + h))[:, None] & ((columns >= x) & (columns < x + w))
    return mask


def _place(name: str, names: Sequence[str]) -> int | None:
    fitting = [k for k, other in enumerate(names) if canonical(other) == canonical(name)]
    return fitting[0] if fitting else None
