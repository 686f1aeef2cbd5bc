"""Pairs of radiographs: two studies of one patient, or of two patients that are alike in all that the table tells."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cxrmonai.data.dataset import StoreDataset
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError

SAME, ORDER = 0, 1  # columns of a pair's label
MATCHED = ("view, sex and decade of age", "view and sex", "view", "nothing")


class StudyPairs(StoreDataset):
    """Pairs of images, half of them of one patient, drawn anew each epoch.

    Each image of a patient with several studies is paired once with an image of another study of that patient, and
    once with an image of another patient that has the view, the sex and the decade of age of the first partner (or as
    many of these as can be had). So the two halves show the same views, sexes and ages, and which image comes first is
    drawn alike for both. The patients of the second half have several studies too, where there is more than one.

    A batch of B pairs holds `image` (2B, 1, S, S), first images and then second ones; `label` (B, 2) with `SAME` 1 or 0
    and `ORDER` 1 where the first image was taken before the second, 0 where after, NaN where not known or not of one
    patient; and `index` (2B,) rows in the store.

    Args:
        path: of the store.
        split: whose patients are paired.
        order_column: numbers or texts that rise with a patient's studies, such as `age`, or a `study_id` that counts.
        seed: of the draws.

    Attributes:
        matched: (4,) how many pairs of two patients agree in what `MATCHED` says.

    Raises:
        CxrError: the split has one patient, or no patient with two studies; or there is no such column.
    """

    def __init__(self, path: str | os.PathLike[str], split: str, order_column: str = "age", seed: int = 0) -> None:
        super().__init__(path, split)
        self.seed = seed
        table = _pair_table(self.store, self.rows, order_column)
        known = (table["patient"] != "") & (table["study"] != "")
        studies = table[known].groupby("patient")["study"].nunique()
        if not (studies > 1).any():
            raise CxrError(
                f"{path}: no patient of the split {split} has a second study, so there are no pairs to tell apart"
            )
        if table.loc[table["patient"] != "", "patient"].nunique() < 2:
            raise CxrError(f"{path}: the split {split} has one patient, so there is no other to tell it from")
        several = table["patient"].isin(studies.index[studies > 1]) & known
        self._anchors = np.flatnonzero(several)
        pool = several if (studies > 1).sum() > 1 else table["patient"] != ""
        self._patient, self._study = (pd.factorize(table[name])[0] for name in ("patient", "study"))
        self._order = table["order"].to_numpy(float)
        self._of_patient = _places(self._patient, self._anchors)
        self._keys = [table[list(columns)].agg("/".join, axis=1).to_numpy(str) for columns in _LEVELS]
        self._keys.append(np.full(len(table), ""))
        self._alike = [_places(keys, np.flatnonzero(pool)) for keys in self._keys]
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers must see it change
        self._drawn = -1
        self._draw()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose pairs come next."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return 2 * len(self._anchors)

    @property
    def pairs(self) -> np.ndarray:
        """(P, 2) rows in the store of this epoch's pairs, in order."""
        self._draw()
        return self.rows[self._pairs]

    @property
    def labels(self) -> np.ndarray:
        """(P, 2) float32 of this epoch's pairs: `SAME` and `ORDER`."""
        self._draw()
        return self._pair_labels

    def _draw(self) -> None:
        epoch = int(self._epoch)
        if epoch == self._drawn:
            return
        random = np.random.default_rng([self.seed, epoch])
        pairs, labels = [], []
        self.matched = np.zeros(len(MATCHED), np.int64)
        for anchor in self._anchors:
            others = self._of_patient[self._patient[anchor]]
            partner = random.choice(others[self._study[others] != self._study[anchor]])
            stranger = self._stranger(random, anchor, partner)
            turned = random.random() < 0.5
            for second in (partner, stranger):
                pairs.append((second, anchor) if turned else (anchor, second))
            first, second = pairs[-2]
            earlier, later = self._order[first], self._order[second]
            order = np.nan if np.isnan(earlier + later) or earlier == later else float(earlier < later)
            labels += [(1.0, order), (0.0, np.nan)]
        self._pairs, self._pair_labels = np.array(pairs), np.array(labels, np.float32)
        self._drawn = epoch

    def _stranger(self, random: np.random.Generator, anchor: int, partner: int) -> int:
        """An image of another patient than the anchor's that is like the partner."""
        for level, groups in enumerate(self._alike):
            group = groups.get(self._keys[level][partner], _NONE)
            group = group[self._patient[group] != self._patient[anchor]]
            if len(group):
                self.matched[level] += 1
                return int(random.choice(group))
        raise AssertionError("the pool holds another patient")  # made sure of at the start

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of pairs, see the class."""
        self._draw()
        places = np.asarray(indices, np.int64)
        rows = self.rows[self._pairs[places].T.ravel()]
        return {
            "image": torch.from_numpy(self.store.images[rows]).unsqueeze(1),
            "label": torch.from_numpy(self._pair_labels[places]),
            "index": torch.from_numpy(rows),
        }


_LEVELS = (("view", "sex", "decade"), ("view", "sex"), ("view",))
_NONE = np.zeros(0, np.int64)


def _pair_table(store: Store, rows: np.ndarray, order_column: str) -> pd.DataFrame:
    columns = {"patient": "patient_id", "study": "study_id", "view": "view", "sex": "sex", "age": "age"}
    table = pd.DataFrame({name: store.column(column)[rows] for name, column in columns.items()})
    table["decade"] = (table.pop("age") // 10).map(str)
    order = pd.Series(store.column(order_column)[rows])
    if not pd.api.types.is_numeric_dtype(order):
        order = order.where(order != "").rank(method="dense")
    table["order"] = order
    return table


def _places(names: np.ndarray, chosen: np.ndarray) -> dict[object, np.ndarray]:
    """Where each name stands among the chosen places of (N,) names."""
    return {name: group.to_numpy() for name, group in pd.Series(chosen).groupby(names[chosen])}
