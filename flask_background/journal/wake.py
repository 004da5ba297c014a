"""Waiting for what concerns a process: its bell, the death of a sibling, or the time."""

from __future__ import annotations

import os
import select
from pathlib import Path

from .. import native
from . import owner as owners
from .owner import Owner

# Where the kernel does not tell of a sibling's death, it is looked for so often, in seconds.
_LOOK = 0.5


class Watch:
    """Waits for one owner. For one thread."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._folder: Path = owner.folder
        self._siblings: dict[str, int | None] = {}

    def dead(self) -> list[str]:
        """The siblings that are dead, and not yet recovered."""
        return [name for name in owners.others(self._folder) if owners.is_dead(self._folder, name)]

    def wait(self, timeout: float) -> list[str]:
        """Wait until there may be something to do, or timeout seconds; returns the siblings that have died."""
        self._follow()
        if None in self._siblings.values():
            timeout = min(timeout, _LOOK)
        poll = native.new_poll()
        poll.register(self._owner.bell, select.POLLIN)
        for descriptor in self._siblings.values():
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(timeout * 1000):
            if descriptor == self._owner.bell:
                self._hush()
        return self.dead()

    def close(self) -> None:
        """Follow nobody any more."""
        for descriptor in self._siblings.values():
            if descriptor is not None:
                os.close(descriptor)
        self._siblings.clear()

    def _follow(self) -> None:
        """Have a descriptor for each sibling that is alive, which the kernel makes readable when it dies."""
        present = set(owners.others(self._folder))
        for name in [name for name in self._siblings if name not in present]:
            descriptor = self._siblings.pop(name)
            if descriptor is not None:
                os.close(descriptor)
        for name in present - self._siblings.keys():
            try:
                self._siblings[name] = os.pidfd_open(int(name.partition("-")[0]))
            except (AttributeError, OSError, ValueError):  # not Linux, or of another container
                self._siblings[name] = None

    def _hush(self) -> None:
        try:
            while os.read(self._owner.bell, 4096):
                pass
        except BlockingIOError:
            pass
