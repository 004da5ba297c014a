"""The files of a process that may own items: they show that the process lives, and what it runs.

``owners/<id>`` is locked as long as its process lives. The kernel releases the lock at once when the process
dies, however it dies, and not while it is merely stopped or starved: no clock takes part. The first line of
the file says which tasks and executors the process has. A line that begins with "=" describes the process for
people; earlier versions have no such line, and pass over it. Then follow, a line each, which runs began and
ended, and whether the host was about to kill the process. A line is in the system's cache before its run
begins, where kill -9 does not reach it.

A file that has become long is replaced: the new file is written and locked, then renamed over the old one.
So the name always leads to a file that is true, and locked as long as the process lives. Another process that
has opened the old file, and gets its lock, sees that the name leads elsewhere by now.

A living process may lose the lock or the files. The kernel releases a process's lock when any code of the
process closes another descriptor of the file, for example a backup; a cleaner may remove the files. So the
process restores both now and then, and takeover.py asks the kernel for more than the lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from flask_background.concurrency import native
from flask_background.durable.journal import loads, process_identity
from flask_background.durable.journal.wakeups import wake_all

# The file is replaced when it is this long, in bytes, or twice as long as its necessary content.
_LONG = 100_000

# The names of this process's own files: opening and closing one of them would release its lock.
_own: set[str] = set()
_locks: WeakSet[ProcessLock] = WeakSet()


class About(NamedTuple):
    """A process, for people. ``since`` is ``time.time()``."""

    host: str
    pid: int
    #: For example "gunicorn worker".
    role: str
    since: float
    #: The executors whose durable items the process runs.
    runs: tuple[str, ...]


class ProcessLock:
    """This process and app, as other processes see them."""

    def __init__(
        self,
        folder: Path,
        tasks: Collection[str],
        executors: Collection[str],
        *,
        runs: Collection[str] = (),
        role: str = "process",
    ) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = process_identity.new_id()
        self._lock = native.new_lock()
        #: What other processes read of this one.
        self.about = About(socket.gethostname(), os.getpid(), role, time.time(), tuple(sorted(runs)))
        self._header = b"%s\n=%s\n" % (
            json.dumps([sorted(tasks), sorted(executors)]).encode(),
            json.dumps(self.about._asdict()).encode(),
        )
        self._running: set[str] = set()
        self._expects_kill = False
        self._closed = False
        self._path = folder / self.id
        # A file has another name until it is locked, because an unlocked file looks like that of a dead
        # process.
        self._new_path = self._path.with_suffix(".new")
        _own.update((self._path.name, self._new_path.name))
        self.fifo_path = self._path.with_suffix(".bell")
        try:
            self._file, self._size = self._make_file()
            self._longest = max(_LONG, 2 * self._size)
            try:
                self.fifo = _make_fifo(self.fifo_path)
                self._new_path.rename(self._path)
            except BaseException:
                self._drop(self._file)
                raise
        except BaseException:
            _own.difference_update((self._path.name, self._new_path.name))
            self.fifo_path.unlink(missing_ok=True)
            raise
        _locks.add(self)
        wake_all(folder)  # the other processes then watch this process

    def begin_run(self, item_id: str) -> None:
        """Note that a run of an item is about to begin. Raises OSError if that cannot be written."""
        with self._lock:
            self._running.add(item_id)
            if not self._closed:
                self._size += os.write(self._file, f"+{item_id}\n".encode())

    def end_run(self, item_id: str) -> None:
        """Note that the item's run has ended, and that its end is in the journal."""
        with self._lock:
            if self._closed or item_id not in self._running:
                return
            self._running.discard(item_id)
            with suppress(OSError):  # if the process dies now, the item is charged one crash too many
                self._size += os.write(self._file, f"-{item_id}\n".encode())
                if self._size > self._longest:
                    self._replace_file()

    def expect_kill(self) -> None:
        """Note that the host may kill the process from now on, through no fault of its running items."""
        with self._lock, suppress(OSError):
            self._expects_kill = True
            if not self._closed:
                os.write(self._file, b"!\n")

    def restore(self) -> None:
        """Make the files again if they were removed, and lock the file again if its lock was lost.

        Raises OSError.
        """
        with self._lock:
            if self._closed:
                return
            if self._is_in_place():
                with suppress(OSError):  # another process is looking at the file at this moment
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._new_path.unlink(missing_ok=True)
            self._replace_file()
            fifo = _make_fifo(self._new_path)  # a FIFO in place without a reader would be a dead process's
            self._new_path.rename(self.fifo_path)
            os.dup2(fifo, self.fifo, inheritable=False)  # the maintenance thread waits on this descriptor
            os.close(fifo)

    def _is_in_place(self) -> bool:
        try:
            is_file = os.path.samestat(os.stat(self._path), os.fstat(self._file))
            return is_file and os.path.samestat(os.stat(self.fifo_path), os.fstat(self.fifo))
        except OSError:
            return False

    def close(self) -> None:
        """Remove the files. The process must not own any item."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # the descriptors may soon belong to other files
            for suffix in ("", ".bell"):
                self._path.with_suffix(suffix).unlink(missing_ok=True)
            loads.forget(self.folder, self.id)
            _own.difference_update((self._path.name, self._new_path.name))
            os.close(self._file)
            os.close(self.fifo)
            _locks.discard(self)

    def forget(self) -> None:
        """Leave the files to the parent after a fork: only the parent's death may close the FIFO."""
        self._closed = True
        os.close(self.fifo)

    def _make_file(self) -> tuple[int, int]:
        """Make a new file with the present state, locked, not yet renamed; return it and its length."""
        lines = [self._header, *(f"+{item_id}\n".encode() for item_id in self._running)]
        content = b"".join(lines) + b"!\n" * self._expects_kill
        file = os.open(self._new_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            self._drop(file)
            raise
        return file, len(content)

    def _replace_file(self) -> None:
        # If the replacement fails, which does no harm, this is the next length to try it.
        self._longest = self._size + _LONG
        new, size = self._make_file()
        try:
            self._new_path.rename(self._path)
        except BaseException:
            self._drop(new)
            raise
        old, self._file = self._file, new
        self._size, self._longest = size, max(_LONG, 2 * size)
        os.close(old)  # this releases the lock of the old file, to which no name leads now

    def _drop(self, file: int) -> None:
        os.close(file)
        self._new_path.unlink(missing_ok=True)


def _make_fifo(path: Path) -> int:
    """Make a FIFO, and return a descriptor that both reads and writes, so that it always has a reader."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def is_own(process_id: str) -> bool:
    """Return whether an id, or the name of a file, is this process's."""
    return process_id in _own


def _after_fork() -> None:
    _own.clear()  # the locks are the parent's
    for lock in tuple(_locks):
        lock.forget()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
