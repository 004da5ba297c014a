"""A throttle for progress reports: an item may report often, and only some reports are passed on."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask_background.concurrency.timers import Timers


class Throttle:
    """Passes calls on at most once per interval (seconds); the last call may be late, but is never lost."""

    __slots__ = ("_every", "_last", "_timers")

    def __init__(self, every: float, timers: Timers) -> None:
        self._every = every
        self._timers = timers
        # The time of the last call that was passed on, or will be (``time.monotonic()``).
        self._last = -every

    def call(self, report: Callable[[], None]) -> None:
        """Call report, now or soon. While a late call is planned, further calls are dropped."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            report()
        elif self._last <= now:
            self._last += self._every
            self._timers.set(self._last - now, report)
