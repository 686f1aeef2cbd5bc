"""Processes that work for another: how many, and that they end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def follow_parent() -> None:
    """Leaves interrupts to the parent, and ends with it, even where that is killed; call it first in a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
