"""Splits by patient, so that no patient is both learned from and tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxrmonai.errors import CxrError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def split_by_patient(
    patient_ids: Sequence[str], fractions: Mapping[str, float] | None = None, seed: int = 0
) -> np.ndarray:
    """Draws a split for each image such that all images of a patient fall together.

    Patients are shuffled and cut at the cumulative fractions; every split with a fraction above 0 gets at least one
    patient when there are as many patients as such splits. The draw depends on the set of patients and the seed, not
    on the order of the rows.

    Args:
        patient_ids: (N,) patient of each image.
        fractions: share of the patients per split, summing to 1; `FRACTIONS` by default.
        seed: of the shuffle.

    Returns:
        (N,) split names.

    Raises:
        CxrError: the fractions do not sum to 1, or one is negative.
    """
    fractions = dict(FRACTIONS if fractions is None else fractions)
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise CxrError(f"split fractions must be at least 0 and sum to 1, got {fractions}")
    names = [name for name, share in fractions.items() if share > 0]
    patients, inverse = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    count = len(patients)
    cuts = np.rint(np.cumsum([fractions[name] for name in names]) * count).astype(int)
    if count >= len(names):
        for k in range(len(names)):
            cuts[k] = max(cuts[k], cuts[k - 1] + 1 if k else 1)
            cuts[k] = min(cuts[k], count - (len(names) - 1 - k))
    place = np.empty(count, dtype=int)
    place[np.random.default_rng(seed).permutation(count)] = np.arange(count)
    return np.asarray(names, dtype=object)[np.searchsorted(cuts, place, side="right")][inverse]


def fold_splits(patient_ids: Sequence[str], fold: int, folds: int, seed: int = 0) -> np.ndarray:
    """Splits for one turn of a cross-validation: one fold is tested on, the next validates, the rest is learned from.

    Patients are shuffled and dealt out, so that each image is tested on exactly once over all turns. The draw depends
    on the set of patients and the seed, not on the order of the rows.

    Args:
        patient_ids: (N,) patient of each image.
        fold: 0 … folds − 1.
        folds: at least 3.
        seed: of the shuffle.

    Returns:
        (N,) split names.

    Raises:
        CxrError: fewer than three folds, a fold out of range, or fewer patients than folds.
    """
    patients, inverse = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    if folds < 3 or not 0 <= fold < folds:
        raise CxrError(f"fold {fold} of {folds}: give 3 folds or more, counted from 0")
    if len(patients) < folds:
        raise CxrError(f"{len(patients)} patients cannot be dealt out to {folds} folds; use fewer folds")
    dealt = np.empty(len(patients), dtype=int)
    dealt[np.random.default_rng(seed).permutation(len(patients))] = np.arange(len(patients)) % folds
    turn = (dealt - fold) % folds
    return np.array(["test", "val", *["train"] * (folds - 2)], dtype=object)[turn][inverse]


def carve_validation(table: pd.DataFrame, fraction: float = 0.125, seed: int = 0) -> pd.DataFrame:
    """Divides the rows published as `train_val` into `train` and `val` by patient.

    Args:
        table: with `split` and `patient_id`.
        fraction: share of those patients that become `val`.
        seed: of the draw.

    Returns:
        A copy of the table; rows of other splits are as they were.
    """
    table = table.copy()
    pool = (table["split"] == "train_val").to_numpy()
    if pool.any():
        shares = {"train": 1 - fraction, "val": fraction}
        table.loc[pool, "split"] = split_by_patient(table.loc[pool, "patient_id"].tolist(), shares, seed)
    return table


def check_overlap(table: pd.DataFrame) -> None:
    """Makes sure that no patient has images in two splits.

    Raises:
        CxrError: says how many patients are shared between which splits, without naming one.
    """
    used = table[(table["split"] != "") & (table["patient_id"] != "")]
    places = used[["patient_id", "split"]].drop_duplicates()
    shared = places[places["patient_id"].duplicated(keep=False)].groupby("patient_id")["split"]
    if len(shared):
        where = " and ".join(sorted(next(iter(shared))[1]))
        raise CxrError(
            f"{len(shared)} patient(s) have images in more than one split (such as {where}); "
            "mend the split column or the tables, or leave the split out to have one drawn by patient"
        )
