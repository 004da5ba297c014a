"""Has the runs of a process looked after: all of them one after the other, by one thread, time and again."""

from __future__ import annotations

from collections.abc import Callable

from flask_background.concurrency import native
from flask_background.concurrency.timers import Timers

# How often, in seconds. A run that is over sooner has mostly been none of its business.
_EVERY = 0.5


class Watch:
    """What looks after a run may ask the network, and must not raise."""

    def __init__(self) -> None:
        self._alarms = Timers()
        self._lock = native.new_lock()
        self._looks: list[Callable[[], None]] = []
        self._is_on = False

    def begin(self, look: Callable[[], None]) -> None:
        """Call this from now on, on another thread: for the first time within half a second."""
        with self._lock:
            self._looks.append(look)
            start, self._is_on = not self._is_on, True
        if start:  # else this costs nothing, as an item is often over when the next one begins
            self._alarms.set(_EVERY, self._round)

    def end(self, look: Callable[[], None]) -> None:
        """Call it no more, but for once that may have begun."""
        with self._lock:
            self._looks.remove(look)

    def _round(self) -> None:
        for look in tuple(self._looks):
            if look in self._looks:
                look()
        with self._lock:
            again = self._is_on = bool(self._looks)
        if again:
            self._alarms.set(_EVERY, self._round)
