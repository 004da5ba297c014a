"""Wake-ups: each process of the app has a FIFO, through which other processes wake it for work.

A process that cannot be woken looks for work every few seconds.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

#: A folder's time is no finer than the kernel's clock ticks: while the time is this young, in nanoseconds,
#: the next change may not alter it.
YOUNG = 100_000_000

# The FIFOs in a folder, and the folder's time when they were listed. The folder seldom changes, and views
# must not wait. These are no Paths, with which a call takes 2 µs more.
_known: dict[str, tuple[int, list[str]]] = {}


#: The byte that wakes a process for work, and the one that asks for its load besides.
WORK, LOAD = b"!", b"?"


def wake_all(folder: Path, but: str | None = None, why: bytes = WORK) -> None:
    """Wake every process of the app, except the one with this id."""
    name = str(folder)
    silent = f"{name}/{but}.bell"
    try:
        for fifo in _fifos(name):
            if fifo != silent:
                wake(fifo, why)
    except OSError:  # for example no descriptors are left: those processes look for work themselves
        pass


def wake(fifo: str | Path, why: bytes = WORK) -> None:
    """Wake the process of this FIFO. Nothing happens if the process is dead, or its FIFO is full."""
    with suppress(OSError):
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, why)
        finally:
            os.close(descriptor)


def has_reader(fifo: Path) -> bool | None:
    """Return whether a process has this FIFO open; None if there is no such FIFO."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return False if error.errno == errno.ENXIO else None
    return True


def _fifos(folder: str) -> list[str]:
    changed = os.stat(folder).st_mtime_ns
    known = _known.get(folder)
    if known is not None and known[0] == changed:
        return known[1]
    now = time.time_ns()
    fifos = [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".bell")]
    if abs(now - changed) > YOUNG:
        _known[folder] = changed, fifos
    return fifos
