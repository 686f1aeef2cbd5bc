"""What a classifier is asked: which columns of a store become which targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrmonai import distributed
from cxrmonai.data.store import open_store
from cxrmonai.data.table import name_list
from cxrmonai.data.targets import any_finding, make_grades, make_targets, match_classes
from cxrmonai.errors import CxrError

TARGETS = ("findings", "abnormal", "exclusive", "grades")
ABNORMAL = "Abnormal"


@dataclass(frozen=True)
class Task:
    """Targets of every image of a store.

    Attributes:
        kind: `multilabel`, each class by itself (one class is a binary task), or `multiclass`, one class of several.
        class_names: (K,) what the network's outputs mean.
        targets: (N, K) 1, 0 and NaN for `multilabel`, (N, 1) with 0 … K − 1 and NaN for `multiclass`.
    """

    kind: str
    class_names: list[str]
    targets: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """The targets as metrics take them: (N, K), or (N,) class numbers for `multiclass`."""
        return self.targets[:, 0] if self.kind == "multiclass" else self.targets

    def frequencies(self, rows: np.ndarray) -> np.ndarray:
        """(K, 2) how often each class is absent and present among rows of the store."""
        values = self.targets[rows]
        if self.kind == "multiclass":
            values = np.where(np.isnan(values), np.nan, values == np.arange(len(self.class_names)))
        return np.stack([(values == 0).sum(axis=0), (values == 1).sum(axis=0)], axis=1)


def make_task(
    data_file: str | os.PathLike[str],
    target: str = "findings",
    classes: str | Sequence[str] | None = None,
    policy: str | Mapping[str, str] = "ignore",
    blank: str | None = None,
    grade_column: str = "edema_severity",
) -> Task:
    """Makes the targets of a store.

    Args:
        data_file: the store.
        target: `findings`, each of the classes by itself; `abnormal`, whether any of them is there; `exclusive`, which
            of the classes it is, where they exclude each other; or `grades`, which grade stands in one column.
        classes: findings of the store in any spelling, as a list or `A,B`; all by default. For `grades` the names of
            the grades 0, 1, ….
        policy: what an uncertain label becomes, see `targets.make_targets`.
        blank: what an unknown label becomes, likewise.
        grade_column: column of `grades`.

    Returns:
        The task; class names as given, so that they may differ from the store's in spelling.

    Raises:
        CxrError: an unknown target, class or column, or nothing known of it.
    """
    store = open_store(data_file)
    if target not in TARGETS:
        raise CxrError(f"target '{target}': known are {', '.join(TARGETS)}")
    if target == "grades":
        names = name_list(classes) or [f"grade {grade}" for grade in range(4)]
        return _known(data_file, Task("multiclass", names, _grades(store, grade_column, len(names))))
    if not store.class_names:
        raise CxrError(f"{data_file}: holds no findings to learn; prepare it with labels")
    names = name_list(classes) or list(store.class_names)
    try:
        columns = match_classes(names, store.class_names)
    except CxrError as error:
        raise CxrError(f"{data_file}: {error}") from error
    if target == "abnormal":
        findings = name_list(classes) or None
        values = any_finding(store.labels, store.class_names, findings, policy, blank)
        return _known(data_file, Task("multilabel", [ABNORMAL], values))
    values = make_targets(store.labels[:, columns], names, policy, blank)
    if target == "findings":
        return _known(data_file, Task("multilabel", names, values))
    if len(names) < 2:
        raise CxrError("target exclusive needs at least two classes; name them with --classes A,B")
    single = ((values == 1).sum(axis=1) == 1) & ((values == 0).sum(axis=1) == len(names) - 1)
    which = np.where(single, np.nan_to_num(values).argmax(axis=1), np.nan).astype(np.float32)
    return _known(data_file, Task("multiclass", names, which[:, None]))


def remake_task(
    data_file: str | os.PathLike[str],
    asked: Mapping[str, Any],
    class_names: Sequence[str],
    policy: str | Mapping[str, str],
    blank: str | None,
) -> Task:
    """Makes the targets that a trained network was asked for, of any store that has them.

    Args:
        data_file: the store.
        asked: `target`, `classes` and `grade_column` of the training run.
        class_names: of the network.
        policy: what an uncertain label becomes.
        blank: what an unknown label becomes.

    Raises:
        CxrError: see `make_task`.
    """
    classes = asked["classes"] if asked["target"] == "abnormal" else class_names
    return make_task(data_file, asked["target"], classes, policy, blank, asked["grade_column"])


def _grades(store: object, column: str, count: int) -> np.ndarray:
    values = store.labels[:, store.class_names.index(column)] if column in store.class_names else store.column(column)
    return make_grades(values, count, column)[:, None]


def _known(data_file: str | os.PathLike[str], task: Task) -> Task:
    if np.isnan(task.targets).all():
        raise CxrError(f"{data_file}: nothing is known of {', '.join(task.class_names)}; see policy, blank and classes")
    return task


def note_one_sided(task: Task, rows: np.ndarray) -> None:
    """Says on rank 0 of which classes the training images show one side only, so that they cannot be learned.

    Args:
        task: of the store.
        rows: of the training images.
    """
    absent, present = task.frequencies(rows).T
    for name, without, having in zip(task.class_names, absent, present, strict=True):
        if not (without and having):
            what = "is present in none" if without else "is absent in none" if having else "is known in none"
            distributed.note(f"{name} {what} of the {len(rows)} training images, so that it cannot be learned")


def sampling_weights(task: Task, rows: np.ndarray, kind: str = "uniform") -> np.ndarray | None:
    """How often each image shall be drawn.

    Args:
        task: of the store.
        rows: (N,) of the images to draw from.
        kind: `uniform`, or `balanced`: an image counts as much as its rarest label, one over the label's frequency, so
            that of a single class present and absent come equally often.

    Returns:
        (N,) weights, or `None` for `uniform`; an image of which nothing is known counts as the commonest label.

    Raises:
        CxrError: an unknown kind.
    """
    if kind == "uniform":
        return None
    if kind != "balanced":
        raise CxrError(f"sampling '{kind}': known are uniform, balanced")
    share = 1 / np.maximum(task.frequencies(rows), 1)
    values = task.targets[rows]
    if task.kind == "multiclass":
        present = share[np.nan_to_num(values[:, 0]).astype(int), 1]
        return np.where(np.isnan(values[:, 0]), share[:, 1].min(), present)
    each = np.where(values == 1, share[:, 1], np.where(values == 0, share[:, 0], share.min()))
    return each.max(axis=1)
