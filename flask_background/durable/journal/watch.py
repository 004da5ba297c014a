"""The wait of a process for events: a wake-up, the death of another process of the app, or the time."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from time import monotonic

from flask_background.concurrency import native
from flask_background.durable.journal import process_identity, takeover
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.wakeups import LOAD, YOUNG

# How often the deaths of processes are checked if the kernel does not report them, in seconds.
_LOOK = 0.5
# How often they are checked otherwise, however often the process is woken, in seconds.
_NET = 5.0


class ProcessWatch:
    """Waits for the events of one process. For one thread."""

    def __init__(self, lock: ProcessLock) -> None:
        self._lock = lock
        self._folder: Path = lock.folder
        self._changed_at = 0
        self._looked_at = 0.0
        self._is_asked = False
        # The other processes, each with a descriptor that reports its death, or None.
        self._others: dict[str, int | None] = {}

    def dead(self) -> list[str]:
        """Return the ids of the processes that are dead, and whose items are not yet recovered."""
        return [name for name in takeover.others(self._folder) if takeover.is_dead(self._folder, name)]

    def wait(self, timeout: float) -> list[str]:
        """Wait up to timeout seconds until there may be something to do; return the dead processes."""
        self._follow()
        in_the_dark = None in self._others.values()
        poll = native.new_poll()
        poll.register(self._lock.fifo, select.POLLIN)
        names = {}
        for name, descriptor in self._others.items():
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
                names[descriptor] = name
        ready = poll.poll((min(timeout, _LOOK) if in_the_dark else timeout) * 1000)
        died = [names[descriptor] for descriptor, _ in ready if descriptor in names]
        # The descriptor of a dead process stays readable, whichever process recovers its items.
        for name in died:
            self._close_descriptor(name)
        if len(died) < len(ready):
            self._drain_fifo()
        if died or not ready or monotonic() - self._looked_at >= (_LOOK if in_the_dark else _NET):
            self._looked_at = monotonic()
            return self.dead()
        return []

    def is_asked(self) -> bool:
        """Return whether another process has asked for the load of this one since the last call."""
        asked, self._is_asked = self._is_asked, False
        return asked

    def close(self) -> None:
        """Close the descriptors."""
        for name in tuple(self._others):
            self._close_descriptor(name)

    def _follow(self) -> None:
        """Open a descriptor for each other process; the kernel makes it readable when the process dies."""
        changed_at = os.stat(self._folder).st_mtime_ns
        if changed_at != self._changed_at:
            now = time.time_ns()
            present = set(takeover.others(self._folder))
            # While the folder's time is young, the next change may not alter it.
            self._changed_at = changed_at if abs(now - changed_at) > YOUNG else 0
            for name in [name for name in self._others if name not in present]:
                self._close_descriptor(name)
                del self._others[name]
            self._others.update(dict.fromkeys(present - self._others.keys()))
        for name, descriptor in self._others.items():
            if descriptor is None:
                self._others[name] = self._open_descriptor(name)

    def _open_descriptor(self, name: str) -> int | None:
        """Return a descriptor that reports a process's death; None if it is dead, or there is none."""
        pid = process_identity.pid_of(name)
        try:
            if pid is None:  # in another container, or not on Linux: its end of its FIFO closes with it
                fifo = (self._folder / name).with_suffix(".bell")
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError, OverflowError):
            return None
        if process_identity.is_running(name) is False:  # the pid is another process's by now
            os.close(descriptor)
            return None
        return descriptor

    def _close_descriptor(self, name: str) -> None:
        """Close a process's descriptor: its death is checked from time to time while its file exists."""
        descriptor, self._others[name] = self._others[name], None
        if descriptor is not None:
            os.close(descriptor)

    def _drain_fifo(self) -> None:
        try:
            while why := os.read(self._lock.fifo, 4096):
                self._is_asked = self._is_asked or LOAD in why
        except BlockingIOError:
            pass
