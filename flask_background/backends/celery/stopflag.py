"""Lets the children of a Celery worker know that it stops: one number in memory that they share."""

from __future__ import annotations

import mmap
import struct
import time


class StopFlag:
    """Until when (``time.monotonic()``) items have time, once the worker stops."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def share(self) -> None:
        """Before children are forked."""
        self._memory = mmap.mmap(-1, 8)

    def raise_for(self, seconds: float) -> None:
        """The stop has begun, and items have so many seconds. Fit for a signal handler."""
        if self._memory is not None and self.at() is None:
            struct.pack_into("d", self._memory, 0, time.monotonic() + seconds)

    def at(self) -> float | None:
        """When the time is up; None while nothing stops."""
        (at,) = struct.unpack_from("d", self._memory, 0) if self._memory is not None else (0.0,)
        return at or None


stop_flag = StopFlag()
