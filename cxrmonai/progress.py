"""Progress bars that look alike."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(label: str, total: int, unit: str, shown: bool = True, initial: int = 0) -> tqdm:
    """A bar on stderr; it appears after a second, and seldom moves where nobody watches (a log file).

    Args:
        label: what is going on.
        total: of units.
        unit: such as `img`.
        shown: whether to show it at all.
        initial: units that were done before.
    """
    pause = 0.2 if sys.stderr.isatty() else 10
    return tqdm(
        desc=label,
        total=total,
        unit=unit,
        disable=not shown,
        initial=initial,
        delay=1,
        mininterval=pause,
        smoothing=0.1,
    )
