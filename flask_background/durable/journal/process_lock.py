"""The file of a process that may own items: a lock on it shows that the process lives, its text what it runs.

``owners/<pid>-<random>`` is locked as long as its process lives. The kernel releases the lock at once when
the process dies, however it dies, and not while it is merely stopped or starved: no clock takes part. The
file says which tasks and executors the process has, and then, a line each, which runs began and ended,
and whether the host was about to kill the process. A line is in the system's cache before its run begins,
where kill -9 does not reach it.

A file that has become long is replaced: the new file is written and locked, then renamed over the old one.
So the name always leads to a file that is true, and locked as long as the process lives. Another process that
has opened the old file, and gets its lock, sees that the name leads elsewhere by now.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from flask_background.concurrency import native
from flask_background.durable.journal.wakeups import wake_all

# The file is replaced when it is this long, in bytes, or twice as long as its necessary content.
_LONG = 100_000

# How long a file that is not yet renamed into place is left alone, in seconds.
_NEW = 60.0

# The names of this process's own files: opening and closing one of them would release its lock.
_own: set[str] = set()


class ProcessLock:
    """This process and app, as other processes see them."""

    def __init__(self, folder: Path, tasks: Collection[str], executors: Collection[str]) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._lock = native.new_lock()
        self._header = json.dumps([sorted(tasks), sorted(executors)]).encode() + b"\n"
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
                os.mkfifo(self.fifo_path, 0o600)
                self.fifo = os.open(self.fifo_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._new_path.rename(self._path)
            except BaseException:
                self._drop(self._file)
                raise
        except BaseException:
            _own.difference_update((self._path.name, self._new_path.name))
            self.fifo_path.unlink(missing_ok=True)
            raise
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
        """Make the files again if they were removed: other processes would take this one for dead.

        Raises OSError.
        """
        with self._lock:
            if self._closed or self._is_in_place():
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._new_path.unlink(missing_ok=True)
            self._replace_file()
            self.fifo_path.unlink(missing_ok=True)
            os.mkfifo(self.fifo_path, 0o600)
            fifo = os.open(self.fifo_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
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
            _own.difference_update((self._path.name, self._new_path.name))
            os.close(self._file)
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


class Takeover:
    """A dead process, held so that no other process recovers its items at the same time."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        lines = _lines(file)[1:]  # empty after a power cut
        #: Whether the death counts as a crash of the items that were running.
        self.charged = b"!" not in lines
        running: set[str] = set()
        for line in lines:
            if line[:1] == b"+":
                running.add(line[1:].decode("ascii", "replace"))
            else:
                running.discard(line[1:].decode("ascii", "replace"))
        #: The ids of the items that were running then.
        self.running = frozenset(running)

    def remove_files(self) -> None:
        """Remove the files of the dead process, which owns no item now."""
        self._path.with_suffix(".bell").unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def take_over(folder: Path, process_id: str) -> Takeover | None:
    """Take over from a dead process; return None if it is alive, or another process is taking over."""
    if process_id in _own:
        return None
    path = folder / process_id
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # the file is gone, or another user's
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Otherwise the file was removed or replaced meanwhile.
        if os.path.samestat(os.fstat(file), path.stat()):
            return Takeover(path, file)
    except OSError:
        pass
    os.close(file)
    return None


def is_dead(folder: Path, process_id: str) -> bool:
    """Return whether a process is dead, and its items still have to be recovered."""
    takeover = take_over(folder, process_id)
    if takeover is None:
        return False
    with takeover:
        return True


def others(folder: Path) -> list[str]:
    """Return the ids of all other processes."""
    return [name for name in os.listdir(folder) if "." not in name and name not in _own]


def exists(folder: Path, process_id: str) -> bool:
    """Return whether a process has a file, dead or alive."""
    return process_id in _own or (folder / process_id).exists()


def sweep(folder: Path) -> None:
    """Remove the files of processes that died while they made them."""
    for name in os.listdir(folder):
        path = folder / name
        if path.suffix == ".new" and _is_old(path) and is_dead(folder, name):
            path.unlink(missing_ok=True)
        elif path.suffix == ".bell":
            new, renamed = path.with_suffix(".new"), path.with_suffix("")
            # In this order, because the file is renamed from the one to the other.
            if not new.exists() and not renamed.exists():
                path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    # For a moment a new file is not locked, though its process is not dead.
    try:
        return abs(time.time() - path.stat().st_mtime) > _NEW
    except FileNotFoundError:
        return False


def knows(folder: Path, process_id: str, task: str, executor: str | None = None) -> bool:
    """Return whether a process has a task of this name, and the executor."""
    try:
        with open(folder / process_id, "rb") as file:
            tasks, executors = json.loads(file.readline())
            return task in tasks and (executor is None or executor in executors)
    except (OSError, ValueError):
        return False


def _lines(file: int) -> list[bytes]:
    # The file is read through this descriptor, because closing another one would release the lock.
    content = b""
    while more := os.pread(file, 1 << 20, len(content)):
        content += more
    return content.splitlines()


def _after_fork() -> None:
    _own.clear()  # the locks are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
