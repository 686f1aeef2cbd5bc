"""Pairs of hashes that differ in few bits, found without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012): of
two hashes of 16 words that differ in at most 31 bits, one word differs in at most one bit. So only those pairs are
compared that agree in a word but for one bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cxrmonai.progress import progress_bar

LIMIT = 31
CANDIDATES = 2**20
_ONES = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)


def near_pairs(
    hashes: np.ndarray, limit: int = LIMIT, progress: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields every pair of hashes that differ in at most `limit` bits, once.

    Args:
        hashes: (N, 16) uint16.
        limit: 0 to 31.
        progress: whether to show a bar.

    Yields:
        Two (P,) arrays of row numbers, some thousands of pairs at most in general; all pairs of a row may come at once.
    """
    if not 0 <= limit <= LIMIT:
        raise ValueError(f"limit {limit}: pairs are found for 0 to {LIMIT} bits")
    bar = progress_bar("compare", hashes.shape[1], "part", progress)
    for word in range(hashes.shape[1]):
        for first, second in _candidates(hashes[:, word]):
            first, second = _within(hashes, first, second, limit)
            new = ~(_ONES[hashes[first, :word] ^ hashes[second, :word]] <= 1).any(1)
            if new.any():
                yield first[new], second[new]
        bar.update(1)
    bar.close()


def _within(hashes: np.ndarray, first: np.ndarray, second: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    half = hashes.shape[1] // 2
    for part in (slice(None, half), slice(None)):
        near = _ONES[hashes[first, part] ^ hashes[second, part]].sum(1) <= limit
        first, second = first[near], second[near]
    return first, second


def _candidates(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows whose (N,) keys differ in no or one bit, each once, about `CANDIDATES` at a time."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    ends = np.cumsum(np.bincount(ranked, minlength=2**16))
    starts = np.concatenate([[0], ends[:-1]])
    places = np.arange(len(keys))
    yield from _spread(order, places, places + 1, ends[ranked])
    for bit in range(16):
        below = places[(ranked >> bit) & 1 == 0]
        partner = ranked[below] | np.uint16(1 << bit)
        yield from _spread(order, below, starts[partner], ends[partner])


def _spread(
    order: np.ndarray, places: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs each of `places` with all places from its start to its end, as rows."""
    counts = ends - starts
    places, starts, counts = places[counts > 0], starts[counts > 0], counts[counts > 0]
    totals = np.cumsum(counts)
    begin = 0
    while begin < len(places):
        done = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, done + CANDIDATES, side="right")))
        part = slice(begin, end)
        offsets = np.arange(totals[end - 1] - done) - np.repeat(totals[part] - counts[part] - done, counts[part])
        yield order[np.repeat(places[part], counts[part])], order[np.repeat(starts[part], counts[part]) + offsets]
        begin = end
