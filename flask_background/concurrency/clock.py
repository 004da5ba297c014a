"""The clock of items. The times and deadlines of an item are read from the clock of its host.

Hosts, journals and stops read the time themselves: no test moves the time of the process.
"""

from __future__ import annotations

import time


class Clock:
    """The system's time in seconds: ``time()`` and ``monotonic()`` as in the module ``time``."""

    __slots__ = ("monotonic", "time")

    def __init__(self) -> None:
        # Attributes, not methods: every item reads the time, and a method would take twice as long.
        self.time = time.time
        self.monotonic = time.monotonic


class MovableClock(Clock):
    """The system's time, and ahead of it by as much as the clock was moved."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead = 0.0
        # The functions are looked up at each call, because libraries that freeze the time replace them.
        self.time = lambda: time.time() + self._ahead
        self.monotonic = lambda: time.monotonic() + self._ahead

    def move_to(self, moment: float) -> None:
        """Move the time ahead to moment (as ``time()``), unless it is past that."""
        self._ahead += max(0.0, moment - self.time())


#: The clock of all items but those of a backend for tests.
CLOCK = Clock()
