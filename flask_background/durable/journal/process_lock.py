"""A process as the owner of items: known to be alive by a record lock, and to have run what its file says.

``owners/<pid>-<random>`` is locked as long as its process lives; the kernel frees it at once when that dies,
however it dies, and not while it is merely stopped or starved. No clock has a part in this. The file says
which tasks and executors it has, and then, a line each, which runs began and ended, and whether the host was
about to kill. A line is in the system's cache before the run begins, where kill -9 does not reach it.

When the file has become long, another one takes its place that says what runs now, whole and locked before
it has the name. So the name always leads to a file that tells the truth and is locked as long as the process
lives; who has opened the old one, and gets its lock, sees that it is not the one of that name any more.
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
from flask_background.durable.journal.wakeups import ring

# The file is begun anew when it has become so long, in bytes, or twice as long as what it has to say.
_LONG = 100_000

# So long nobody removes a file that has not got its name yet, in seconds.
_NEW = 60.0

# The files of this process's owners: to open one of them and close it would free its lock.
_own: set[str] = set()


class ProcessLock:
    """This process and app, as the others see it."""

    def __init__(self, folder: Path, tasks: Collection[str], executors: Collection[str]) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.id = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._lock = native.new_lock()
        self._header = json.dumps([sorted(tasks), sorted(executors)]).encode() + b"\n"
        self._running: set[str] = set()
        self._spared = False
        self._closed = False
        self._path = folder / self.id
        # A file has another name until it is locked, or it would look like a dead process's.
        self._new_path = self._path.with_suffix(".new")
        _own.update((self._path.name, self._new_path.name))
        self.bell_path = self._path.with_suffix(".bell")
        try:
            self._file, self._size = self._make_file()
            self._longest = max(_LONG, 2 * self._size)
            try:
                os.mkfifo(self.bell_path, 0o600)
                self.bell = os.open(self.bell_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._new_path.rename(self._path)
            except BaseException:
                self._drop(self._file)
                raise
        except BaseException:
            _own.difference_update((self._path.name, self._new_path.name))
            self.bell_path.unlink(missing_ok=True)
            raise
        ring(folder)  # the others are to watch over this one

    def begin(self, item_id: str) -> None:
        """A run is about to begin. Raises OSError if that cannot be written."""
        with self._lock:
            self._running.add(item_id)
            if not self._closed:
                self._size += os.write(self._file, f"+{item_id}\n".encode())

    def end(self, item_id: str) -> None:
        """It has ended, and the journal knows."""
        with self._lock:
            if self._closed or item_id not in self._running:
                return
            self._running.discard(item_id)
            with suppress(OSError):  # worth a crash too many for this item, should the process die now
                self._size += os.write(self._file, f"-{item_id}\n".encode())
                if self._size > self._longest:
                    self._renew()

    def expect_kill(self) -> None:
        """The host may kill from now on: that is not the running items' fault."""
        with self._lock, suppress(OSError):
            self._spared = True
            if not self._closed:
                os.write(self._file, b"!\n")

    def close(self) -> None:
        """Leave. Nothing may be owned any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # the descriptors are soon those of other files
            for suffix in ("", ".bell"):
                self._path.with_suffix(suffix).unlink(missing_ok=True)
            _own.difference_update((self._path.name, self._new_path.name))
            os.close(self._file)
            os.close(self.bell)

    def _make_file(self) -> tuple[int, int]:
        """A new file, locked, that says how things are now, and its length; it has its name yet to get."""
        lines = [self._header, *(f"+{item_id}\n".encode() for item_id in self._running)]
        content = b"".join(lines) + b"!\n" * self._spared
        file = os.open(self._new_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            self._drop(file)
            raise
        return file, len(content)

    def _renew(self) -> None:
        """Go on with a new file."""
        self._longest = self._size + _LONG  # if it fails, which does no harm, it is tried again then
        new, size = self._make_file()
        try:
            self._new_path.rename(self._path)
        except BaseException:
            self._drop(new)
            raise
        old, self._file = self._file, new
        self._size, self._longest = size, max(_LONG, 2 * size)
        os.close(old)  # which frees its lock, and it has no name any more

    def _drop(self, file: int) -> None:
        os.close(file)
        self._new_path.unlink(missing_ok=True)


class Takeover:
    """A dead owner, held so that nobody else recovers its items at the same time."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        lines = _lines(file)[1:]  # nothing at all after a power cut
        self.charged = b"!" not in lines
        running: set[str] = set()
        for line in lines:
            if line[:1] == b"+":
                running.add(line[1:].decode("ascii", "replace"))
            else:
                running.discard(line[1:].decode("ascii", "replace"))
        #: The ids of the items that were running.
        self.running = frozenset(running)

    def done(self) -> None:
        """It owns nothing any more: remove its files."""
        self._path.with_suffix(".bell").unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def take_over(folder: Path, owner_id: str) -> Takeover | None:
    """Take over from an owner that is dead; None if it is alive, or this is another process's to do."""
    if owner_id in _own:
        return None
    path = folder / owner_id
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), path.stat()):  # else somebody was faster, or it has another one
            return Takeover(path, file)
    except OSError:
        pass
    os.close(file)
    return None


def is_dead(folder: Path, owner_id: str) -> bool:
    """Whether an owner's process is gone, and its items are still to be recovered."""
    takeover = take_over(folder, owner_id)
    if takeover is None:
        return False
    with takeover:
        return True


def others(folder: Path) -> list[str]:
    """The owners that are not of this process."""
    return [name for name in os.listdir(folder) if "." not in name and name not in _own]


def exists(folder: Path, owner_id: str) -> bool:
    """Whether an owner is there at all, alive or not."""
    return owner_id in _own or (folder / owner_id).exists()


def sweep(folder: Path) -> None:
    """Remove what a process has left that died while it became an owner."""
    for name in os.listdir(folder):
        path = folder / name
        if path.suffix == ".new" and _is_old(path) and is_dead(folder, name):
            path.unlink(missing_ok=True)
        elif path.suffix == ".bell":
            new, owner = path.with_suffix(".new"), path.with_suffix("")
            if not new.exists() and not owner.exists():  # in this order: the one becomes the other
                path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    # A file is not locked at the very moment when it is made: it is not a dead process's then.
    try:
        return abs(time.time() - path.stat().st_mtime) > _NEW
    except FileNotFoundError:
        return False


def knows(folder: Path, owner_id: str, task: str, executor: str | None = None) -> bool:
    """Whether the process of an owner has a task of this name, and the executor."""
    try:
        with open(folder / owner_id, "rb") as file:
            tasks, executors = json.loads(file.readline())
            return task in tasks and (executor is None or executor in executors)
    except (OSError, ValueError):
        return False


def _lines(file: int) -> list[bytes]:
    # By no other descriptor: to close that would free the lock.
    content = b""
    while more := os.pread(file, 1 << 20, len(content)):
        content += more
    return content.splitlines()


def _after_fork() -> None:
    _own.clear()  # the locks are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
