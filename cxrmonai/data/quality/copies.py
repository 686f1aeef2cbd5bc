"""Groups of rows that show the same radiograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cxrmonai.data.quality.neighbours import near_pairs
from cxrmonai.data.quality.thumbnails import agreement, signatures

AGREEMENT = 0.97
_PAIRS_AT_ONCE = 256

Loader = Callable[[np.ndarray], np.ndarray]


def group_copies(hashes: np.ndarray, rows: np.ndarray, load: Loader, progress: bool = False) -> list[tuple[int, ...]]:
    """Finds the connected components of "shows the same radiograph".

    Near hashes are candidates; they are copies if their thumbnails agree. Pairs that earlier ones have connected are
    not looked at again, so that thousands of copies of one image cost no more than as many comparisons.

    Args:
        hashes: (N, 16) uint16.
        rows: (N,) row numbers, ascending.
        load: gives the (B, 64, 64) thumbnails of B row numbers.
        progress: whether to show a bar.

    Returns:
        Groups of two rows or more, by their first row.
    """
    links = _Links(len(rows))
    inverse = np.unique(hashes, axis=0, return_inverse=True)[1].ravel()
    members = np.argsort(inverse, kind="stable")
    heads = []
    while len(members):
        leads = np.append(True, np.diff(inverse[members]) != 0)
        heads.append(members[leads])
        lead = heads[-1][np.cumsum(leads) - 1]
        linked = _join(links, lead[~leads], members[~leads], rows, load)
        members = members[~leads][~linked]
    heads = np.sort(np.concatenate(heads))
    for first, second in near_pairs(hashes[heads], progress=progress):
        _join(links, heads[first], heads[second], rows, load)
    return [tuple(int(row) for row in rows[members]) for members in links.groups()]


def _join(links: _Links, first: np.ndarray, second: np.ndarray, rows: np.ndarray, load: Loader) -> np.ndarray:
    """Links the pairs that agree; returns (P,) which pairs are linked now, directly or through others."""
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        apart = links.roots(first[part]) != links.roots(second[part])
        one, other = first[part][apart], second[part][apart]
        if len(one):
            places, inverse = np.unique(np.concatenate([one, other]), return_inverse=True)
            seen = signatures(load(rows[places]))
            alike = agreement(seen[inverse[: len(one)]], seen[inverse[len(one) :]]) >= AGREEMENT
            links.add(one[alike], other[alike])
    return links.roots(first) == links.roots(second)


class _Links:
    """Which of N things hang together; the least of a component stands for it."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, things: np.ndarray) -> np.ndarray:
        found = self._parent[things]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[things] = found
        return found

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        for one, other in zip(first, second, strict=True):
            one, other = self.roots(np.array([one, other]))
            self._parent[max(one, other)] = min(one, other)

    def groups(self) -> Iterator[np.ndarray]:
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(roots[order])) + 1):
            if len(members) > 1:
                yield members
