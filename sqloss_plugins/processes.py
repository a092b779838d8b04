"""Processes: how many at a time, and that none outlives the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "SQLOSS_PARENT_PID"
"""Environment variable: the process that a new one is to end with; see :func:`die_with_parent`."""


def usable_cpus() -> int:
    """How many CPUs this process may use: on a cluster, or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent(parent: int | None = None) -> None:
    """On Linux: this process is killed with its parent, so that none is at work in a folder that looks free.

    For the top of a module that is run as a process, before its long imports. A process whose parent does not name
    itself is left alone. The process itself asks for it, because code between fork and exec can hang where the parent
    has threads.

    Args:
        parent: the parent's process id; None for the one that :data:`PARENT` names.
    """
    parent = parent or int(os.environ.pop(PARENT, 0))  # popped: it is not the parent of what this process starts
    if sys.platform != "linux" or not parent:
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), signal.SIGKILL)
