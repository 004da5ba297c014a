"""Remembers for a while that Celery could not be reached, so that not every view waits for that anew."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.core.events import Events

# So long after a failure nobody tries, then one does, in seconds. The outbox does so more often.
_REST = 5.0


class Breaker:
    """Whether Celery can be reached, as one process knows it. The log gets one line for each change."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = native.new_lock()
        self._lost_at: float | None = None
        self._next_try = 0.0

    @property
    def is_broken(self) -> bool:
        """Whether the last try has failed."""
        return self._lost_at is not None

    def lets_pass(self) -> bool:
        """Whether the caller should try."""
        if self._lost_at is None:
            return True
        with self._lock:
            now = time.monotonic()
            passes = now >= self._next_try
            if passes:
                self._next_try = now + _REST
            return passes

    def broke(self, error: Exception) -> None:
        """A try has failed."""
        now = time.monotonic()
        with self._lock:
            self._next_try = now + _REST
            was_broken, self._lost_at = self.is_broken, self._lost_at or now
        if not was_broken:
            self._events.backend_lost("Celery", error)

    def mended(self) -> None:
        """A try has succeeded."""
        if self._lost_at is None:
            return
        with self._lock:
            lost_at, self._lost_at = self._lost_at, None
        if lost_at is not None:
            self._events.backend_found("Celery", time.monotonic() - lost_at)
