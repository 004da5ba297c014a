"""Wake-ups: each process of the app has a FIFO, through which the others wake it when there is work for it.

A process that cannot be woken looks for work every few seconds.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

# The time of a folder is no finer than the kernel's clock ticks: while it is so young, in nanoseconds, the
# next change may leave it as it is.
_YOUNG = 100_000_000

# The FIFOs in a folder, and the folder's time when they were listed: it seldom changes, and views are quick.
_known: dict[Path, tuple[int, list[Path]]] = {}


def wake_all(folder: Path, but: str | None = None) -> None:
    """Wake every process of the app, but the one with this id."""
    silent = f"{but}.bell"
    with suppress(OSError):  # such as when no descriptors are left: those processes look by themselves
        for fifo in _fifos(folder):
            if fifo.name != silent:
                wake(fifo)


def wake(fifo: Path) -> None:
    """Wake the process of this FIFO. Nothing happens if it is dead, or its FIFO is full of wake-ups."""
    with suppress(OSError):
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"!")
        finally:
            os.close(descriptor)


def _fifos(folder: Path) -> list[Path]:
    changed = os.stat(folder).st_mtime_ns
    known = _known.get(folder)
    if known is not None and known[0] == changed:
        return known[1]
    now = time.time_ns()
    fifos = [folder / name for name in os.listdir(folder) if name.endswith(".bell")]
    if abs(now - changed) > _YOUNG:
        _known[folder] = changed, fifos
    return fifos
