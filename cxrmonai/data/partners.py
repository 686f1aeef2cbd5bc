"""Which images of a patient may stand for one another, as positive pairs (Vu et al., MedAug, 2021)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrmonai import distributed
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError

STUDIES = ("any", "same", "other")
VIEWS = ("any", "same", "other", "lateral")
LATERAL = "LATERAL"


class Partners:
    """For each image the other images of its patient that pass a filter.

    An unknown patient, study or view (empty text) is like no other.

    Args:
        path: of the store.
        rows: (N,) the images, by row in the store; partners are among them too, unless `view` is `lateral`.
        study: of a partner: `any` of the patient, the `same` as the image's, or an `other`.
        view: likewise; or `lateral`, which takes lateral images of the same split as partners.

    Attributes:
        paired: (N,) bool, whether there is any partner.

    Raises:
        CxrError: unknown filter; or a single patient, or no image with a partner.
    """

    def __init__(
        self, path: str | os.PathLike[str], rows: Sequence[int], study: str = "any", view: str = "any"
    ) -> None:
        for name, value, known in (("pair_study", study, STUDIES), ("pair_view", view, VIEWS)):
            if value not in known:
                raise CxrError(f"{name} '{value}': known are {', '.join(known)}")
        self.rows = np.asarray(rows, np.int64)
        table = _table(path, ("patient_id", "study_id", "view", "split"))
        if table["patient_id"].iloc[self.rows].nunique() < 2:
            raise CxrError(f"{path}: all images are of one patient, so that no image shows another one; add patients")
        self.offsets, self.candidates = _candidates(table, self.rows, study, view)
        self.paired = np.diff(self.offsets) > 0
        if not self.paired.any():
            raise CxrError(
                f"{path}: no image has a partner of its patient with pair_study {study} and pair_view {view}; loosen "
                "them, or use a method without partners, such as moco_v2"
            )
        self._place = np.full(len(table), -1)
        self._place[self.rows] = np.arange(len(self.rows))

    def draw(self, rows: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """A partner for each image, drawn evenly; an image without any is its own.

        Args:
            rows: (B,) of `rows`.
            random: generator.

        Returns:
            (B,) rows.
        """
        places = self._place[rows]
        counts = np.diff(self.offsets)[places]
        chosen = self.offsets[places] + np.floor(random.uniform(size=len(rows)) * counts).astype(np.int64)
        return np.where(counts > 0, self.candidates[np.minimum(chosen, len(self.candidates) - 1)], rows)


def partners_of(path: str | os.PathLike[str], rows: Sequence[int], study: str = "any", view: str = "any") -> Partners:
    """`Partners`, and a note on rank 0 of how many images have none and are paired with themselves."""
    found = Partners(path, rows, study, view)
    alone = int((~found.paired).sum())
    if alone and distributed.rank() == 0:
        print(
            f"note: {alone} of {len(found.rows)} images have no partner (pair_study {study}, pair_view {view}) and are "
            "paired with themselves",
            file=sys.stderr,
        )
    return found


def frontal_rows(path: str | os.PathLike[str], split: str) -> np.ndarray:
    """Rows of a split's frontal images (PA, AP, FRONTAL) whose study has a lateral one.

    Args:
        path: of the store.
        split: of the table.

    Raises:
        CxrError: there is none.
    """
    rows = open_store(path).rows(split)
    table = _table(path, ("patient_id", "study_id", "view", "split"))
    frontal = rows[~table["view"].iloc[rows].isin([LATERAL, ""]).to_numpy()]
    offsets, _ = _candidates(table, frontal, "same", "lateral")
    chosen = frontal[np.diff(offsets) > 0]
    if len(chosen) == 0:
        raise CxrError(
            f"{path}: no study of the split {split} has a frontal (PA, AP) and a lateral image; use the preset cmc, "
            "which needs one image"
        )
    if len(chosen) < len(rows) and distributed.rank() == 0:
        print(
            f"note: {len(chosen)} of {len(rows)} images ({split}) are frontal with a lateral of their study; the rest "
            "is left out",
            file=sys.stderr,
        )
    return chosen


def _table(path: str | os.PathLike[str], columns: Sequence[str]) -> pd.DataFrame:
    store = open_store(path)
    return pd.DataFrame({name: store.column(name) for name in columns})


def _candidates(table: pd.DataFrame, rows: np.ndarray, study: str, view: str) -> tuple[np.ndarray, np.ndarray]:
    """(N + 1,) offsets into the (M,) rows of all images' partners, one image after the other."""
    pool = rows
    if view == "lateral":
        pool = np.flatnonzero((table["view"] == LATERAL) & table["split"].isin(table["split"].iloc[rows].unique()))
    patients = table["patient_id"].to_numpy()
    of_patient = pd.Series(pool).groupby(patients[pool]).indices
    studies, views = table["study_id"].to_numpy(), table["view"].to_numpy()
    parts = []
    for row in rows:
        others = pool[of_patient.get(patients[row], [])] if patients[row] else pool[:0]
        others = others[others != row]
        if study != "any":
            others = _related(others, studies, row, study)
        if view in ("same", "other"):
            others = _related(others, views, row, view)
        parts.append(others)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return offsets, np.concatenate(parts) if parts else rows[:0]


def _related(others: np.ndarray, values: np.ndarray, row: int, relation: str) -> np.ndarray:
    known = others[values[others] != ""] if values[row] else others[:0]
    equal = values[known] == values[row]
    return known[equal if relation == "same" else ~equal]
