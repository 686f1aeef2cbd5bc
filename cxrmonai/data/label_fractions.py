"""Drawing a fraction of the labelled patients, so that what labels are worth can be measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrmonai import distributed
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task
from cxrmonai.errors import CxrError


@dataclass(frozen=True)
class LabelledDraw:
    """Training images of some of the patients.

    Attributes:
        fraction: of the patients that was asked for, above 0 and at most 1.
        draw: its number, from 0 on.
        rows: (N,) rows in the store.
        patients: how many patients these are.
        positives: (K,) images with each class.
        negatives: (K,) images known to be without it.
    """

    fraction: float
    draw: int
    rows: np.ndarray
    patients: int
    positives: np.ndarray
    negatives: np.ndarray

    def shortcomings(self, class_names: Sequence[str]) -> list[str]:
        """Sentences on what such a draw cannot teach: classes that are never there, or never absent."""
        told = []
        for counts, word in ((self.positives, "with"), (self.negatives, "without")):
            missing = [name for name, count in zip(class_names, counts, strict=True) if not count]
            if missing:
                told.append(
                    f"draw {self.draw} of {percent(self.fraction)} of the labels ({len(self.rows)} images of "
                    f"{self.patients} patients) has no image {word} {', '.join(missing)}"
                )
        return told


def parse_fractions(value: float | str | Sequence[float]) -> list[float]:
    """Fractions from an option: a number, `A,B`, or a list; each once, from the smallest up.

    Raises:
        CxrError: none is given, or one is no number above 0 and at most 1.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    fractions = []
    for part in parts:
        try:
            fraction = float(part)
        except (TypeError, ValueError):
            fraction = float("nan")
        if isinstance(part, bool) or not 0 < fraction <= 1:
            raise CxrError(f"label_fraction {part}: must be above 0 and at most 1, such as 0.01 for 1 % of the labels")
        fractions.append(fraction)
    if not fractions:
        raise CxrError("label_fraction names no fraction; give one above 0 and at most 1, such as 0.01")
    return sorted(set(fractions))


def percent(fraction: float) -> str:
    """A fraction as a person writes it: `1 %`."""
    return f"{100 * fraction:.6g} %"


def draw_patients(patient_ids: Sequence[str] | np.ndarray, fraction: float, seed: int = 0, draw: int = 0) -> np.ndarray:
    """Chooses a fraction of the patients, such that a smaller draw is part of every larger one of the same number.

    The patients are put into an order that depends on the set of them, the seed and the draw; the first are taken. The
    whole (fraction 1) is the same for all draws.

    Args:
        patient_ids: (N,) patient of each image.
        fraction: of the patients, above 0 and at most 1; rounded to whole patients.
        seed: of the order.
        draw: number of the draw, 0 or more.

    Returns:
        (N,) bool, whether the image is of one of them.

    Raises:
        CxrError: the fraction is out of range, or makes less than half a patient.
    """
    (fraction,) = parse_fractions(fraction)
    patients, inverse = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    count = int(np.floor(fraction * len(patients) + 0.5))
    if count == 0:
        least = 1 / max(len(patients), 1)
        raise CxrError(
            f"label_fraction {fraction:g} of {len(patients)} training patients is no patient; give {least:.2g} or more"
        )
    place = np.empty(len(patients), dtype=int)
    place[np.random.default_rng([seed, draw]).permutation(len(patients))] = np.arange(len(patients))
    return (place < count)[inverse]


def draw_labelled(
    task: Task, rows: np.ndarray, patient_ids: np.ndarray, fraction: float, seed: int = 0, draw: int = 0
) -> LabelledDraw:
    """Draws a fraction of the training patients, see `draw_patients`, and counts what their labels hold.

    Args:
        task: targets of the store.
        rows: (N,) of the training images in the store.
        patient_ids: (N,) their patients.
        fraction: of the patients.
        seed: of the draw.
        draw: its number.

    Raises:
        CxrError: see `draw_patients`.
    """
    chosen = draw_patients(patient_ids, fraction, seed, draw)
    counts = task.frequencies(rows[chosen])
    patients = len(np.unique(patient_ids[chosen]))
    return LabelledDraw(float(fraction), draw, rows[chosen], patients, counts[:, 1], counts[:, 0])


def labelled_part(
    data_file: str | os.PathLike[str],
    task: Task,
    fraction: float | str | Sequence[float] = 1.0,
    seed: int = 0,
    draw: int = 0,
) -> LabelledDraw:
    """The training images of a store whose labels may be used, see `draw_labelled`; rank 0 says what they lack.

    Args:
        data_file: the store.
        task: its targets.
        fraction: of the patients, one.
        seed: of the draw.
        draw: its number.

    Raises:
        CxrError: see `draw_patients`; several fractions; or there are no training images.
    """
    fractions = parse_fractions(fraction)
    if len(fractions) > 1:
        raise CxrError(f"label_fraction {fraction}: one run takes one fraction; several make a table of runs")
    store = open_store(data_file)
    rows = store.rows("train")
    chosen = draw_labelled(task, rows, store.column("patient_id")[rows], fractions[0], seed, draw)
    if distributed.rank() == 0:
        if chosen.fraction < 1:
            print(
                f"note: {percent(chosen.fraction)} of the labels, draw {draw}: {len(chosen.rows)} images of "
                f"{chosen.patients} patients"
            )
        for sentence in chosen.shortcomings(task.class_names):
            print(f"note: {sentence}")
    return chosen
