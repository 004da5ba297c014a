"""Lets the children of a Celery worker know that it stops: one number in memory that they share."""

from __future__ import annotations

import math
import mmap
import os
import signal
import struct
import threading
import time
from types import FrameType

# What TERM raises in a child, by Celery's handler.
TERMINATED = -(256 - signal.SIGTERM)
# How long after a child the worker itself may hear of a TERM that was sent to both (seconds).
_ECHO = 1.0


class StopFlag:
    """Until when (``time.monotonic()``) items have time, once the worker stops."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._pid = 0

    def share(self) -> None:
        """Before children are forked."""
        self._memory, self._pid = mmap.mmap(-1, 8), os.getpid()

    def is_childs(self) -> bool:
        """Whether this process is one of the children."""
        return self._memory is not None and self._pid != os.getpid()

    def raise_for(self, seconds: float) -> None:
        """The stop has begun, and items have so many seconds. Fit for a signal handler."""
        if self._memory is not None and self.at() is None:
            struct.pack_into("d", self._memory, 0, time.monotonic() + seconds)

    def at(self) -> float | None:
        """When the time is up; None while nothing stops."""
        (at,) = struct.unpack_from("d", self._memory, 0) if self._memory is not None else (0.0,)
        return at or None


stop_flag = StopFlag()


def hear_term(limit: float | None) -> None:
    """Before a run, which may last so many seconds: let TERM not cut it in a child whose worker stops.

    systemd, for one, sends it to all processes of a service. The worker alone says how long items have, and
    ends them then. What Celery sends a child for other reasons does what it did.
    """
    theirs = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and stop_flag.is_childs() and callable(theirs)):
        return
    theirs = getattr(theirs, "theirs", theirs)
    late_at = math.inf if limit is None else time.monotonic() + limit - 0.5

    def heed(number: int, frame: FrameType | None) -> None:
        end = time.monotonic() + _ECHO
        while stop_flag.at() is None and time.monotonic() < min(end, late_at):
            time.sleep(0.02)
        if stop_flag.at() is None or time.monotonic() >= late_at:
            theirs(number, frame)

    heed.theirs = theirs  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, heed)
