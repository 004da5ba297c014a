"""Waiting for what concerns a process: a wake-up, the death of another process of the app, or the time."""

from __future__ import annotations

import os
import select
from pathlib import Path
from time import monotonic

from flask_background.concurrency import native
from flask_background.durable.journal import process_lock
from flask_background.durable.journal.process_lock import ProcessLock

# How often dead processes are looked for where the kernel does not report a death, in seconds.
_LOOK = 0.5


class ProcessWatch:
    """Waits for one process. For one thread."""

    def __init__(self, lock: ProcessLock) -> None:
        self._lock = lock
        self._folder: Path = lock.folder
        self._changed_at = 0
        self._looked_at = 0.0
        # The other processes, each with a descriptor that tells of its death, if there is one.
        self._others: dict[str, int | None] = {}

    def dead(self) -> list[str]:
        """The ids of the processes that are dead, and whose items are not yet recovered."""
        return [
            name for name in process_lock.others(self._folder) if process_lock.is_dead(self._folder, name)
        ]

    def wait(self, timeout: float) -> list[str]:
        """Wait until there may be something to do, or timeout seconds; returns the dead processes."""
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
        for name in died:  # its descriptor stays readable, whichever process recovers its items
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
        """Have a descriptor for each other process, which the kernel makes readable when that one dies."""
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
            # Not Linux, a process of another container, or dead by now.
            except (AttributeError, OSError, ValueError, OverflowError):
                self._others[name] = None

    def _close_descriptor(self, name: str) -> None:
        """Look for the death of this process from time to time, as long as its file is there."""
        descriptor, self._others[name] = self._others[name], None
        if descriptor is not None:
            os.close(descriptor)

    def _drain_fifo(self) -> None:
        try:
            while os.read(self._lock.fifo, 4096):
                pass
        except BlockingIOError:
            pass
