"""The bells: each process of the app has a FIFO, by which the others wake it if there is work for it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

# A folder's time is no finer than the kernel's clock ticks: while it is so young, in nanoseconds, the next
# change may leave it as it is.
_YOUNG = 100_000_000

# The bells in a folder, and the folder's time when they were listed: views ring them, and it seldom changes.
_known: dict[Path, tuple[int, list[Path]]] = {}


def ring(folder: Path, but: str | None = None) -> None:
    """Wake every process of the app, but this owner's. Who cannot be woken looks by himself before long."""
    silent = f"{but}.bell"
    with suppress(OSError):  # no descriptors are left, say: what there is to tell of is done all the same
        for bell in _bells(folder):
            if bell.name != silent:
                ring_one(bell)


def ring_one(bell: Path) -> None:
    """Wake one; if it is dead, or has been woken often enough, nothing happens."""
    with suppress(OSError):
        descriptor = os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"!")
        finally:
            os.close(descriptor)


def _bells(folder: Path) -> list[Path]:
    changed = os.stat(folder).st_mtime_ns
    known = _known.get(folder)
    if known is not None and known[0] == changed:
        return known[1]
    now = time.time_ns()
    bells = [folder / name for name in os.listdir(folder) if name.endswith(".bell")]
    if abs(now - changed) > _YOUNG:
        _known[folder] = changed, bells
    return bells
