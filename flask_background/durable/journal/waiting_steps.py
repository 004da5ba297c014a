"""The steps that wait to be written, and how long the writing thread waits for more of them.

The thread is woken when as many steps wait as it wants: once for each transaction, because waking a thread
costs more than the thread's work.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from flask_background.concurrency import native
from flask_background.durable.journal.group_commit import Write

# How many steps one transaction carries at most.
_MOST = 2_000
# How long the thread waits for callers that are expected to return, in seconds.
_LINGER = 0.001
# How long the thread holds back steps that no caller waits for, so that one sync serves many, in seconds.
_COMPANY = 0.003


class WaitingSteps:
    """A queue of steps. Any thread puts steps in; one thread waits for them."""

    def __init__(self) -> None:
        self._writes: deque[Write] = deque()
        self._wanted: float = 1
        self._lingers = False
        self._signal = native.new_lock()
        self._signal.acquire()
        #: How many callers waited for the last transaction: they may return at once, so the thread waits a
        #: moment for them.
        self.expected = 0
        #: Whether the thread is to wait no longer than it has to, because the file is about to be closed.
        self.hurries = True

    def __len__(self) -> int:
        return len(self._writes)

    def put(self, write: Write) -> None:
        """Add a step."""
        self._writes.append(write)
        if len(self._writes) >= self._wanted or (self._lingers and write.latch is not None):
            self.wake_thread()

    def put_back(self, writes: Iterable[Write]) -> None:
        """Add steps that were taken, before all others."""
        self._writes.extendleft(reversed([*writes]))

    def withdraw(self, write: Write) -> bool:
        """Remove a step that has not been taken; return whether it was there."""
        try:
            self._writes.remove(write)
        except ValueError:
            return False
        return True

    def take(self) -> list[Write]:
        """Return the steps that wait by now, for one transaction."""
        found: list[Write] = []
        while self._writes and len(found) < _MOST:
            try:
                found.append(self._writes.popleft())
            except IndexError:  # a caller has just withdrawn its step
                break
        return found

    def gather(self) -> None:
        """Wait until there is a step to write, and a moment longer for callers expected to return."""
        self._wanted = 1
        if not self._writes and not self.hurries:
            self.wait(-1)
        if 0 < len(self._writes) < self.expected:
            self._wanted = self.expected
            if len(self._writes) < self.expected:
                self.wait(_LINGER)
        self._wanted = math.inf
        if self._writes and not self.hurries and all(write.latch is None for write in tuple(self._writes)):
            self._lingers = True
            self.wait(_COMPANY)
            self._lingers = False

    def wait(self, timeout: float) -> None:
        """Wait up to timeout seconds (-1: no limit) for ``wake_thread``."""
        self._signal.acquire(timeout=timeout)

    def wake_thread(self) -> None:
        """End the thread's wait, or its next one."""
        try:
            self._signal.release()
        except RuntimeError:
            pass  # the thread is awake already
