"""The starts of an executor's child processes. When they fail, durable items wait; the log has one line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask_background.concurrency import native

if TYPE_CHECKING:
    from flask_background.core.run_host import RunHost
    from flask_background.executors.base import Executor

# The first pause after a start that failed, and the longest, in seconds.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


class Starts:
    """Pauses an executor whose children do not start, each time for longer."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = native.new_lock()
        self._failed = 0

    def seconds_left(self) -> float:
        """Return how long the pause still lasts, in seconds."""
        return max(0.0, self._executor.unable_until - time.monotonic())

    def failed(self, host: RunHost, error: Exception) -> float:
        """Note that a child did not start; return the seconds until the next try."""
        with self._lock:
            pauses = self.seconds_left() > 0  # several attendants try at once, and that counts once
            if not pauses:
                self._failed += 1
                pause = min(_FIRST_PAUSE * 2.0 ** min(self._failed - 1, 30), _LONGEST_PAUSE)
                self._executor.unable_until = time.monotonic() + pause
            first = not pauses and self._failed == 1
        if first and host.keeps_items:
            host.log_error(
                f"No child process of the executor {self._executor.name!r} starts: its durable items wait,"
                f" and a start is tried again, at the latest every {_LONGEST_PAUSE:g} s",
                error,
            )
        return self.seconds_left()

    def succeeded(self) -> None:
        """Note that a child has started."""
        if self._failed:
            with self._lock:
                self._failed = 0
                self._executor.unable_until = 0.0
