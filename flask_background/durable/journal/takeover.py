"""The files of other processes: who is dead, what a dead process ran, and the takeover of its items.

A process is dead if its lock is released, and the kernel does not know better. The kernel knows by the pid
and its start time, where this process is in the same pid namespace, and by the reader of the FIFO, which
only the process itself has open.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from flask_background.durable.journal import loads, process_identity, wakeups
from flask_background.durable.journal.process_lock import About, is_own

# How long a file that is not yet renamed into place is left alone, in seconds.
_NEW = 60.0


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
        loads.forget(self._path.parent, self._path.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def take_over(folder: Path, process_id: str) -> Takeover | None:
    """Take over from a dead process; return None if it is alive, or another process is taking over."""
    if is_own(process_id):
        return None
    path = folder / process_id
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # the file is gone, or another user's
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Otherwise the file was removed or replaced meanwhile.
        if os.path.samestat(os.fstat(file), path.stat()) and not lives(folder, process_id):
            return Takeover(path, file)
    except OSError:
        pass
    os.close(file)
    return None


def lives(folder: Path, process_id: str) -> bool | None:
    """Return whether a process lives, whatever became of its file; None if the kernel does not tell."""
    has_reader = wakeups.has_reader((folder / process_id).with_suffix(".bell"))
    runs = process_identity.is_running(process_id)
    if runs is None:
        return has_reader
    # A process without its FIFO has replaced itself by another program (execve): its items are nobody's.
    return runs and has_reader is not False


def is_dead(folder: Path, process_id: str) -> bool:
    """Return whether a process is dead, and its items still have to be recovered."""
    takeover = take_over(folder, process_id)
    if takeover is None:
        return False
    with takeover:
        return True


def others(folder: Path) -> list[str]:
    """Return the ids of all other processes."""
    return [name for name in os.listdir(folder) if "." not in name and not is_own(name)]


def other_users(folder: Path) -> dict[str, int]:
    """Return the processes that run as other users, and the ids of these users."""
    users = {}
    for name in others(folder):
        with suppress(FileNotFoundError):
            users[name] = (folder / name).stat().st_uid
    return {name: user for name, user in users.items() if user != os.geteuid()}


def exists(folder: Path, process_id: str) -> bool:
    """Return whether a process has a file, dead or alive."""
    return is_own(process_id) or (folder / process_id).exists()


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
    loads.sweep(folder)


def living(folder: Path) -> list[str]:
    """Return the ids of all other processes that live."""
    return [name for name in others(folder) if not is_dead(folder, name)]


def about(folder: Path, process_id: str) -> About | None:
    """Return the description of another process; None if its file is gone."""
    path = folder / process_id
    try:
        with open(path, "rb") as file:
            file.readline()
            line, began = file.readline(), os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    try:
        found = About(**json.loads(line.removeprefix(b"=")))
        return found._replace(runs=tuple(found.runs))
    except (TypeError, ValueError):  # the process has another version of this package
        pid = process_identity.short_name(process_id)
        return About("", int(pid) if pid.isdigit() else 0, "process", began, ())


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
