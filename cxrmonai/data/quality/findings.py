"""What a look at a store found, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 5


@dataclass(frozen=True)
class CopyGroup:
    """Rows that show the same radiograph.

    Attributes:
        rows: two or more, ascending.
        same_patient: whether all have one patient id.
        splits: those that the rows are in, the blank one left out.
        sources: those that the rows come from, where the store has a column `source`.
    """

    rows: tuple[int, ...]
    same_patient: bool
    splits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def across_splits(self) -> bool:
        """Whether the copies lie in several splits."""
        return len(self.splits) > 1

    @property
    def across_sources(self) -> bool:
        """Whether the copies come from several sources."""
        return len(self.sources) > 1


@dataclass(frozen=True)
class Findings:
    """What `inspect` found. Rows are row numbers of the store, ascending.

    Attributes:
        images: how many were looked at.
        copies: groups of near-identical images, those across splits first.
        blank: rows that show nothing.
        inverted: rows in which air is bright.
        unjudged: images of a view for which bright air is not looked for.
        split_patients: how many patients are in two splits or more.
        split_rows: rows of those patients.
        repeated_ids: rows that share an image id with another.
    """

    images: int
    copies: tuple[CopyGroup, ...] = ()
    blank: tuple[int, ...] = ()
    inverted: tuple[int, ...] = ()
    unjudged: int = 0
    split_patients: int = 0
    split_rows: tuple[int, ...] = ()
    repeated_ids: tuple[int, ...] = ()

    def warnings(self) -> list[str]:
        """One sentence for each kind of fault, with counts and some row numbers; empty where there is none."""
        found = [self._copies_warning()] if self.copies else []
        if self.blank:
            which = "it" if len(self.blank) == 1 else "them"
            found.append(f"{_count(len(self.blank), 'blank image')}: {name_rows(self.blank)}; remove {which}")
        if self.inverted:
            look = "looks" if len(self.inverted) == 1 else "look"
            found.append(
                f"{_count(len(self.inverted), 'image')} {look} inverted (bright air, dark bone): "
                f"{name_rows(self.inverted)}; check, and prepare the store with their grey values reversed"
            )
        if self.split_patients:
            found.append(
                f"{_count(self.split_patients, 'patient')} in more than one split: {name_rows(self.split_rows)}; "
                "divide by patient"
            )
        if self.repeated_ids:
            found.append(
                f"{_count(len(self.repeated_ids), 'image')} with an id that another has: "
                f"{name_rows(self.repeated_ids)}; give each its own"
            )
        return found

    def _copies_warning(self) -> str:
        images = sum(len(group.rows) for group in self.copies)
        text = f"{_count(len(self.copies), 'group')} of near-identical images ({images} images)"
        kinds = (
            ("across splits", sum(group.across_splits for group in self.copies)),
            ("across sources", sum(group.across_sources for group in self.copies)),
            ("of different patient ids", sum(not group.same_patient for group in self.copies)),
        )
        text += "".join(f", {_count(count, 'group')} {kind}" for kind, count in kinds if count)
        mend = "remove the copies"
        if not all(group.same_patient for group in self.copies):
            mend += " or give them one patient id"
        return f"{text}: {self._copied_rows()}; {mend}"

    def _copied_rows(self) -> str:
        named: list[str] = []
        left = SHOWN
        for group in self.copies:
            if named and len(group.rows) > left:
                break
            named.append(_join(group.rows[:left], " and ") + (" …" if len(group.rows) > left else ""))
            left -= len(group.rows)
            if left < 2:
                break
        return "rows " + "; ".join(named) + ("; …" if len(named) < len(self.copies) else "")


def name_rows(rows: Sequence[int]) -> str:
    """The first few row numbers in words."""
    if len(rows) > SHOWN:
        return f"rows {', '.join(map(str, rows[:SHOWN]))}, …"
    return ("row " if len(rows) == 1 else "rows ") + _join(rows, " and ")


def _join(rows: Sequence[int], last: str) -> str:
    numbers = [str(row) for row in rows]
    return last.join([", ".join(numbers[:-1]), numbers[-1]]) if len(numbers) > 1 else numbers[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
