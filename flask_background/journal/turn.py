"""Whose turn it is to write: one process at a time, and a short wait for the others."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from .. import native

# How long to wait for another process, in seconds; and how often to ask, at first and at last.
_PATIENCE = 3.0
_FIRST, _LAST = 0.0002, 0.005


class Turn:
    """A record lock on a file of its own, which the kernel frees when its holder dies. For one thread.

    SQLite's own wait for a lock sleeps up to 0.1 s between its tries, and has no order; this one is quicker.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        end = time.monotonic() + _PATIENCE
        pause = _FIRST
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            if time.monotonic() >= end:
                raise TimeoutError(f"another process has been writing to the journal for {_PATIENCE:g} s")
            native.sleep(pause)
            pause = min(_LAST, pause * 1.5)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)
