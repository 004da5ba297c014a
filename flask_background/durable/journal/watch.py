"""Waiting for what concerns a process: its bell, the death of a sibling, or the time."""

from __future__ import annotations

import os
import select
from pathlib import Path
from time import monotonic

from flask_background.concurrency import native
from flask_background.durable.journal import process_lock as owners
from flask_background.durable.journal.process_lock import ProcessLock

# Where the kernel does not tell of a sibling's death, it is looked for so often, in seconds.
_LOOK = 0.5


class Watch:
    """Waits for one owner. For one thread."""

    def __init__(self, owner: ProcessLock) -> None:
        self._owner = owner
        self._folder: Path = owner.folder
        self._changed_at = 0
        self._looked_at = 0.0
        self._siblings: dict[str, int | None] = {}

    def dead(self) -> list[str]:
        """The siblings that are dead, and not yet recovered."""
        return [name for name in owners.others(self._folder) if owners.is_dead(self._folder, name)]

    def wait(self, timeout: float) -> list[str]:
        """Wait until there may be something to do, or timeout seconds; returns siblings that have died."""
        self._follow()
        in_the_dark = None in self._siblings.values()
        poll = native.new_poll()
        poll.register(self._owner.bell, select.POLLIN)
        names = {}
        for name, descriptor in self._siblings.items():
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
                names[descriptor] = name
        ready = poll.poll((min(timeout, _LOOK) if in_the_dark else timeout) * 1000)
        died = [names[descriptor] for descriptor, _ in ready if descriptor in names]
        for name in died:  # its descriptor stays readable, whoever recovers its items
            self._forget(name)
        if len(died) < len(ready):
            self._hush()
        if died or not ready or (in_the_dark and monotonic() - self._looked_at >= _LOOK):
            self._looked_at = monotonic()
            return self.dead()
        return []

    def close(self) -> None:
        """Follow nobody any more."""
        for name in tuple(self._siblings):
            self._forget(name)

    def _follow(self) -> None:
        """Have a descriptor for each sibling that is alive, which the kernel makes readable when it dies."""
        changed_at = os.stat(self._folder).st_mtime_ns
        if changed_at == self._changed_at:
            return
        present = set(owners.others(self._folder))
        self._changed_at = changed_at
        for name in [name for name in self._siblings if name not in present]:
            self._forget(name)
            del self._siblings[name]
        for name in present - self._siblings.keys():
            try:
                self._siblings[name] = os.pidfd_open(int(name.partition("-")[0]))
            except (
                AttributeError,
                OSError,
                ValueError,
                OverflowError,
            ):  # not Linux, of another container, or dead by now
                self._siblings[name] = None

    def _forget(self, name: str) -> None:
        """Look for this one from time to time, as long as its file is there."""
        descriptor, self._siblings[name] = self._siblings[name], None
        if descriptor is not None:
            os.close(descriptor)

    def _hush(self) -> None:
        try:
            while os.read(self._owner.bell, 4096):
                pass
        except BlockingIOError:
            pass
