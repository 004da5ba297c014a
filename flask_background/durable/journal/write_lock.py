"""The write lock of a journal: one process writes at a time, in the order in which they asked."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class WriteLock:
    """A record lock on its own file, which the kernel releases when the holder dies. For one thread.

    SQLite's own wait for a lock sleeps up to 0.1 s between its tries, and has no order. ``with`` waits for
    this lock without limit: a caller that cannot wait so long waits for the thread that does.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)  # for every transaction: the stat of a Path takes 1 µs more
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._place = place_of(os.fstat(self._descriptor))

    def try_acquire(self) -> bool:
        """Take the lock if no other process has it; return whether the lock is taken."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Release the lock for other processes."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the file; otherwise other processes lock another one."""
        try:
            return self._place == place_of(os.stat(self._path))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; the lock can no longer be taken."""
        os.close(self._descriptor)

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def place_of(file: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from all others that exist."""
    return file.st_ino, file.st_dev
