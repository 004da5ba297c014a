"""The pauses, as functions on a connection, and the mark that tells all processes of a change at once."""

from __future__ import annotations

import os
import sqlite3
import weakref
from pathlib import Path
from typing import NamedTuple

from flask_background.durable.journal.write_lock import place_of

#: What can be paused.
KINDS = "task", "executor"

_SIZE = 16


class PauseRow(NamedTuple):
    """A task or an executor whose items wait. ``since`` is ``time.time()``."""

    kind: str
    name: str
    since: float
    by: str | None = None


def pause(db: sqlite3.Connection, row: PauseRow) -> bool:
    """Enter a pause; return False, and change nothing, if there is one of this kind and name."""
    done = db.execute("insert or ignore into pause (kind, name, since, by) values (?, ?, ?, ?)", row)
    return bool(done.rowcount)


def resume(db: sqlite3.Connection, kind: str, name: str) -> bool:
    """Remove a pause; return False if there is none."""
    return bool(db.execute("delete from pause where kind = ? and name = ?", (kind, name)).rowcount)


def pauses(db: sqlite3.Connection) -> list[PauseRow]:
    """Return all pauses."""
    found = db.execute("select kind, name, since, by from pause order by kind, name")
    return [PauseRow._make(row) for row in found.fetchall()]


class PauseMark:
    """The file ``paused``, which has another content after each change of the pauses.

    A process reads the file before each run, which takes less than a microsecond; a read of the journal would
    take ten times as long.
    """

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "paused")
        self._file = self._open()
        self._place = place_of(os.fstat(self._file))
        self._close = weakref.finalize(self, os.close, self._file)
        self._close.atexit = False  # a run may begin while its process ends

    def read(self) -> bytes:
        """Return the content of the file; nothing once the file is closed."""
        file = self._file
        return b"" if file < 0 else os.pread(file, _SIZE, 0)

    def change(self) -> None:
        """Give the file another content. Raises OSError."""
        file = self._open()
        try:
            os.pwrite(file, os.urandom(_SIZE), 0)
        finally:
            os.close(file)

    def restore(self) -> None:
        """Use the file of this name, if it was removed or replaced. Raises OSError."""
        if self._file < 0:
            return
        try:
            is_there = place_of(os.stat(self._path)) == self._place
        except FileNotFoundError:
            is_there = False
        if not is_there:
            file = self._open()
            self._place = place_of(os.fstat(file))
            os.dup2(file, self._file, inheritable=False)  # other threads may be reading this descriptor
            os.close(file)

    def close(self) -> None:
        """Close the file: no run begins any more in this process."""
        self._file = -1
        self._close()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
