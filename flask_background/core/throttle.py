"""A throttle for progress: an item may report as often as it likes, others hear of it now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask_background.concurrency.timers import Timers


class Throttle:
    """Passes calls on at most once in so many seconds; the last call is late then, and never lost."""

    __slots__ = ("_every", "_last", "_timers")

    def __init__(self, every: float, timers: Timers) -> None:
        self._every = every
        self._timers = timers
        # When the last call was passed on, or will be (``time.monotonic()``).
        self._last = -every

    def call(self, report: Callable[[], None]) -> None:
        """Call report, now or soon. Nothing more is called while a late call is on its way."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            report()
        elif self._last <= now:
            self._last += self._every
            self._timers.set(self._last - now, report)
