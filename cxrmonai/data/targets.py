"""From labels to what a loss or a metric sees: policies are applied here, and only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxrmonai.data.vocabulary import canonical
from cxrmonai.errors import CxrError

POLICIES = ("ignore", "zeros", "ones")
BLANKS = ("ignore", "zeros")
CHEXPERT5 = "chexpert5"
CHEXPERT5_ONES = ("Atelectasis", "Edema")
NO_FINDING = "No Finding"
NOT_ABNORMAL = (NO_FINDING, "Support Devices")


def make_targets(
    labels: np.ndarray,
    class_names: Sequence[str],
    policy: str | Mapping[str, str] = "ignore",
    blank: str | None = None,
) -> np.ndarray:
    """Replaces uncertain and blank labels by policy.

    Args:
        labels: (N, C) with 1, 0, -1 (uncertain) and NaN (unknown).
        class_names: (C,) names of the columns.
        policy: what an uncertain label becomes: `ignore`, `zeros` or `ones` for all (U-Ignore, U-Zeros and U-Ones of
            Irvin et al., CheXpert, 2019), or by name; names that are absent are ignored where uncertain. Or
            `chexpert5`, as is practice in the CheXpert competition: Atelectasis and Edema one, all else zero, and
            blanks zero.
        blank: what an unknown label becomes: `ignore` or `zeros` (in CheXpert and MIMIC a finding that the report does
            not mention is blank). By default `zeros` with policy `chexpert5`, else `ignore`.

    Returns:
        (N, C) float32 with 1, 0 and NaN (to be masked).

    Raises:
        CxrError: unknown policy, or a policy for a class that is not there.
    """
    blank = blank or ("zeros" if policy == CHEXPERT5 else "ignore")
    if blank not in BLANKS:
        raise CxrError(f"blank '{blank}': known are {', '.join(BLANKS)}")
    per_class = _per_class(class_names, policy)
    value = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
    fill = np.array([value[per_class.get(name, "ignore")] for name in class_names], np.float32)
    labels = np.asarray(labels, np.float32)
    known = np.where(np.isnan(labels), np.float32(value[blank]), labels)
    return np.where(labels == -1, fill, known)


def _per_class(class_names: Sequence[str], policy: str | Mapping[str, str]) -> dict[str, str]:
    if policy == CHEXPERT5:
        return {name: "ones" if canonical(name) in CHEXPERT5_ONES else "zeros" for name in class_names}
    per_class = dict.fromkeys(class_names, policy) if isinstance(policy, str) else dict(policy)
    for name, choice in per_class.items():
        if choice not in POLICIES:
            raise CxrError(
                f"uncertainty policy '{choice}' for {name}: known are {', '.join(POLICIES)}, and {CHEXPERT5} for all"
            )
        if name not in class_names:
            raise CxrError(f"uncertainty policy for '{name}', but the classes are {', '.join(class_names)}")
    return per_class


def any_finding(
    labels: np.ndarray,
    class_names: Sequence[str],
    findings: Sequence[str] | None = None,
    policy: str | Mapping[str, str] = "ignore",
    blank: str | None = None,
) -> np.ndarray:
    """One binary target: is any finding there?

    Positive where a finding is positive after the policy. Negative where every finding is known and negative, or where
    none is positive and a column No Finding says 1. Unknown otherwise: an unknown finding might be there.

    Args:
        labels: (N, C) with 1, 0, -1 (uncertain) and NaN (unknown).
        class_names: (C,) names of the columns.
        findings: those that count, in any spelling; by default all but No Finding and Support Devices.
        policy: see `make_targets`.
        blank: see `make_targets`.

    Returns:
        (N, 1) float32 with 1, 0 and NaN (to be masked).

    Raises:
        CxrError: see `make_targets` and `match_classes`; or there is no finding to count.
    """
    if findings is None:
        columns = [k for k, name in enumerate(class_names) if canonical(name) not in NOT_ABNORMAL]
    else:
        columns = match_classes(findings, class_names)
    if not columns:
        raise CxrError(f"no finding to tell abnormal by among {', '.join(class_names)}; name some")
    targets = make_targets(labels, class_names, policy, blank)[:, columns]
    clear = [k for k, name in enumerate(class_names) if canonical(name) == NO_FINDING and k not in columns]
    said_clear = (np.asarray(labels)[:, clear] == 1).any(axis=1)
    positive = (targets == 1).any(axis=1)
    negative = ~positive & ((targets == 0).all(axis=1) | said_clear)
    return np.where(positive, 1, np.where(negative, 0, np.nan)).astype(np.float32)[:, None]


def make_grades(values: Sequence | np.ndarray | pd.Series, grades: int, column: str = "grade") -> np.ndarray:
    """A multi-class target from one column of grades, such as the severity of edema, 0 to 3.

    Args:
        values: (N,) whole numbers 0 … K − 1, as numbers or text; blank or NaN where unknown, -1 where uncertain.
        grades: K, at least 2.
        column: its name, for messages.

    Returns:
        (N,) float32 with 0 … K − 1 and NaN (to be masked: unknown and uncertain).

    Raises:
        CxrError: fewer than two grades, or a value that is none.
    """
    if grades < 2:
        raise CxrError(f"column '{column}': {grades} grades make no choice; there must be at least 2")
    cells = pd.Series(np.asarray(values))
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    blank = (cells.isna() | cells.astype(str).str.strip().isin(["", "nan"])).to_numpy(bool)
    wrong = ~blank & ~np.isin(numbers, np.arange(-1, grades))
    if wrong.any():
        strange = cells[wrong].iloc[0]
        raise CxrError(f"column '{column}' holds '{strange}'; a grade is 0 to {grades - 1}, -1 (uncertain) or blank")
    return np.where(numbers >= 0, numbers, np.nan).astype(np.float32)


def match_classes(wanted: Sequence[str], there: Sequence[str]) -> list[int]:
    """Places of classes among others, whatever their publishers call them.

    A column of the very same name is taken, else the one that has the same common name, see `vocabulary`.

    Args:
        wanted: names of the classes that are sought, such as those of a trained network.
        there: names of the columns that are there, such as those of a store.

    Returns:
        For each wanted class its place in `there`.

    Raises:
        CxrError: lists the classes that are missing; or one name fits two columns, or two names one column.
    """
    missing = [name for name in wanted if canonical(name) not in {canonical(other) for other in there}]
    if missing:
        quoted = ", ".join(f"'{name}'" for name in missing)
        raise CxrError(f"no class {quoted}; there are {', '.join(there)}")
    places: list[int] = []
    for name in wanted:
        same = [k for k, other in enumerate(there) if other == name]
        fitting = same or [k for k, other in enumerate(there) if canonical(other) == canonical(name)]
        if len(fitting) > 1:
            raise CxrError(
                f"class '{name}' fits both '{there[fitting[0]]}' and '{there[fitting[1]]}'; name one of them"
            )
        if fitting[0] in places:
            raise CxrError(f"classes '{wanted[places.index(fitting[0])]}' and '{name}' are one, '{there[fitting[0]]}'")
        places.append(fitting[0])
    return places
