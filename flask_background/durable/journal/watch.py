"""The wait of a process for events: a wake-up, the death of another process of the app, or the time."""

from __future__ import annotations

import os
import select
from pathlib import Path
from time import monotonic

from flask_background.concurrency import native
from flask_background.durable.journal import process_lock
from flask_background.durable.journal.process_lock import ProcessLock

# How often the deaths of processes are checked if the kernel does not report them, in seconds.
_LOOK = 0.5


class ProcessWatch:
    """Waits for the events of one process. For one thread."""

    def __init__(self, lock: ProcessLock) -> None:
        self._lock = lock
        self._folder: Path = lock.folder
        self._changed_at = 0
        self._looked_at = 0.0
        # The other processes, each with a descriptor that reports its death, or None.
        self._others: dict[str, int | None] = {}

    def dead(self) -> list[str]:
        """Return the ids of the processes that are dead, and whose items are not yet recovered."""
        return [
            name for name in process_lock.others(self._folder) if process_lock.is_dead(self._folder, name)
        ]

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
        if died or not ready or (in_the_dark and monotonic() - self._looked_at >= _LOOK):
            self._looked_at = monotonic()
            return self.dead()
        return []

    def close(self) -> None:
        """Close the descriptors."""
        for name in tuple(self._others):
            self._close_descriptor(name)

    def _follow(self) -> None:
        """Open a descriptor for each other process; the kernel makes it readable when the process dies."""
        changed_at = os.stat(self._folder).st_mtime_ns
        if changed_at == self._changed_at:
            return
        present = set(process_lock.others(self._folder))
        self._changed_at = changed_at
        for name in [name for name in self._others if name not in present]:
            self._close_descriptor(name)
            del self._others[name]
        for name in present - self._others.keys():
            try:
                self._others[name] = os.pidfd_open(int(name.partition("-")[0]))
            # Not Linux, a process in another container, or one that is already dead.
            except (AttributeError, OSError, ValueError, OverflowError):
                self._others[name] = None

    def _close_descriptor(self, name: str) -> None:
        """Close a process's descriptor: its death is checked from time to time while its file exists."""
        descriptor, self._others[name] = self._others[name], None
        if descriptor is not None:
            os.close(descriptor)

    def _drain_fifo(self) -> None:
        try:
            while os.read(self._lock.fifo, 4096):
                pass
        except BlockingIOError:
            pass
