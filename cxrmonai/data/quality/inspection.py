"""One pass over the images of a store, and a look at its table."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from cxrmonai.data.quality.copies import group_copies
from cxrmonai.data.quality.findings import CopyGroup, Findings
from cxrmonai.data.quality.polarity import looks_inverted
from cxrmonai.data.quality.thumbnails import EDGE, HASH_WORDS, content, hashes, negated, thumbnail
from cxrmonai.data.store import Store, blocks
from cxrmonai.progress import progress_bar

BLANK_SHARE = 0.95
BLANK_STEPS = 2
_WORK_BYTES = 16 * EDGE**2 * 4
_COLUMNS = ("image_id", "patient_id", "view", "split", "source")


def inspect(store: Store, progress: bool = True) -> Findings:
    """Looks for copies, blank and inverted images, patients in two splits and repeated ids.

    Each image is read once, block by block, and those again whose hashes are near another's. Besides one block, some
    tens of bytes an image are kept.

    - Copies: near-identical images, whether resized, recompressed, or of other brightness, contrast or gamma; see
      `thumbnails` and `neighbours`. Negatives are turned first where they look like such, so that a radiograph and its
      negative are copies as well. Blank images are none. Padding that was part of the file, a crop, a turn and a mirror
      image are not undone.
    - Blank: more than 95 % of the radiograph is within 2/256 of the grey scale around its median.
    - Inverted: see `polarity`; only frontal images and such of unknown view are judged.

    Args:
        store: an open store.
        progress: whether to show a bar.
    """
    columns = {name: pd.Series(store.column(name)) for name in _COLUMNS if name in store.columns}
    frontal = is_frontal(columns["view"])
    words, blank, inverted = _look(store, frontal, progress)
    words[inverted] = negated(words[inverted])

    def load(rows: np.ndarray) -> np.ndarray:
        found = np.stack([thumbnail(content(store.images[row], store.geometry[row])) for row in rows])
        return np.where(inverted[rows, None, None], -found, found)

    shown = np.flatnonzero(~blank)
    groups = [_describe(rows, columns) for rows in group_copies(words[shown], shown, load, progress)]
    groups.sort(key=lambda group: (not group.across_splits, group.rows))
    patients, rows = _patients_in_two_splits(columns["patient_id"], columns["split"])
    return Findings(
        images=len(store),
        copies=tuple(groups),
        blank=_numbers(blank),
        inverted=_numbers(inverted),
        unjudged=int((~frontal & ~blank).sum()),
        split_patients=patients,
        split_rows=_numbers(rows),
        repeated_ids=_numbers(columns["image_id"].duplicated(keep=False).to_numpy()),
    )


def is_frontal(views: pd.Series) -> np.ndarray:
    """(N,) whether a view is PA, AP or of their kind, or unknown."""
    upper = views.astype(str).str.upper()
    return (upper.isin(["", "FRONTAL"]) | upper.str.startswith(("PA", "AP"))).to_numpy()


def _look(store: Store, frontal: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 16) hashes, (N,) whether blank and (N,) whether inverted."""
    count = len(store)
    words = np.zeros((count, HASH_WORDS), np.uint16)
    blank, inverted = np.zeros(count, bool), np.zeros(count, bool)
    bar = progress_bar("inspect", count, "img", progress)
    for block in blocks(count, store.size**2 * store.dtype.itemsize + _WORK_BYTES):
        images = np.asarray(store.images[block])
        radiographs = [content(*pair) for pair in zip(images, store.geometry[block], strict=True)]
        blank[block] = _are_blank(radiographs)
        thumbnails = np.stack([thumbnail(radiograph) for radiograph in radiographs])
        words[block] = hashes(thumbnails)
        inverted[block] = looks_inverted(thumbnails) & frontal[block] & ~blank[block]
        bar.update(len(radiographs))
    bar.close()
    return words, blank, inverted


def _are_blank(radiographs: list[np.ndarray]) -> np.ndarray:
    scale = [0.0, float(np.iinfo(radiographs[0].dtype).max) + 1]
    counts = np.stack([cv2.calcHist([radiograph], [0], None, [256], scale).ravel() for radiograph in radiographs])
    below = np.pad(np.cumsum(counts, 1), ((0, 0), (1, 0)))
    total = below[:, -1]
    median = (below[:, 1:] < total[:, None] / 2).sum(1)
    low, high = np.maximum(median - BLANK_STEPS, 0), np.minimum(median + BLANK_STEPS + 1, 256)
    each = np.arange(len(counts))
    return below[each, high] - below[each, low] > BLANK_SHARE * total


def _describe(rows: tuple[int, ...], columns: dict[str, pd.Series]) -> CopyGroup:
    def values(name: str) -> tuple[str, ...]:
        found = columns[name].iloc[list(rows)] if name in columns else pd.Series([], dtype=object)
        return tuple(sorted({str(value) for value in found} - {""}))

    return CopyGroup(
        rows,
        same_patient=columns["patient_id"].iloc[list(rows)].nunique() == 1,
        splits=values("split"),
        sources=values("source"),
    )


def _patients_in_two_splits(patients: pd.Series, splits: pd.Series) -> tuple[int, np.ndarray]:
    known = (splits != "") & (patients != "")
    counts = splits[known].groupby(patients[known]).nunique()
    several = counts.index[counts > 1]
    return len(several), (known & patients.isin(several)).to_numpy()


def _numbers(flags: np.ndarray) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(flags))
