"""Journals of a few lines, right ones and wrong ones: they show that the tools find what is wrong."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .child import Broken, EnqueueError

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS item (
        id TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'queued', owner TEXT, begun REAL, filler TEXT
    )
"""


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """The result of a query on a journal that a crash left behind; raises Broken if it is not sound."""
    path = folder / "journal.sqlite3"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            # Waiting for the disk here would prove nothing.
            connection.execute("PRAGMA synchronous = OFF")
            answer = connection.execute("PRAGMA integrity_check").fetchall()
            if answer != [("ok",)]:
                raise Broken(f"integrity check: {answer[:3]}")
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchall():
                return []
            return connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            raise Broken(f"{type(error).__name__}: {error}") from error


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    os.fsync(number)
    os.close(number)


class ProcessLock:
    """A process that lives as long as it holds the lock on a file of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.id = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._file = (folder / self.id).open("a")
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def is_dead(self, other: str) -> bool:
        """Whether another process is dead."""
        if other == self.id:
            return False
        with (self._folder / other).open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return True

    def close(self) -> None:
        """Give up the lock."""
        self._file.close()


class Plain:
    """One table, one transaction for each change; an owner is alive while its lock is held."""

    #: What becomes of a row before its item runs, and when that is done.
    BEFORE = "UPDATE item SET status = 'running', owner = ?, begun = ? WHERE id = ?"
    AFTER = "UPDATE item SET status = 'succeeded', owner = NULL WHERE id = ?"

    def __init__(
        self,
        folder: Path,
        run: Callable[[str], None],
        done: Callable[[str], None],
        *,
        mode: str = "wal",
        synchronous: str = "FULL",
        careful: bool = True,
    ) -> None:
        self.run, self.done = run, done
        folder.mkdir(exist_ok=True)
        if careful:
            _sync(folder.parent)
        self._turn = (folder / "turn").open("a")
        self._lock = threading.Lock()
        self._owner = ProcessLock(folder / "owners")
        with self._alone():
            self._connection = sqlite3.connect(
                folder / "journal.sqlite3", isolation_level=None, check_same_thread=False
            )
            self._connection.execute(f"PRAGMA journal_mode = {mode}")
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._connection.execute(_SCHEMA)

    def enqueue(self, item: str) -> list[str]:
        """Insert a row."""
        try:
            with self._alone():
                self._connection.execute("INSERT INTO item (id, filler) VALUES (?, ?)", (item, "x" * 500))
        except sqlite3.OperationalError as error:
            raise EnqueueError(str(error)) from error
        return [item]

    def work(self, stop: threading.Event, idle: bool) -> None:
        """Claim, run and finish, one after the other."""
        while not stop.is_set():
            with self._alone():
                self._recover()
                item = self._claim()
            if item is None:
                if idle:
                    return
                stop.wait(0.005)
                continue
            self.run(item)
            with self._alone():
                self._connection.execute(self.AFTER, (item,))
            self.done(item)

    def _claim(self) -> str | None:
        found = self._connection.execute(
            "SELECT id FROM item WHERE status = 'queued' ORDER BY rowid LIMIT 1"
        ).fetchone()
        if found is None:
            return None
        values = (self._owner.id, time.monotonic(), found[0])[-self.BEFORE.count("?") :]
        self._connection.execute(self.BEFORE, values)
        return str(found[0])

    def _recover(self) -> None:
        owners = self._connection.execute(
            "SELECT DISTINCT owner FROM item WHERE status = 'running'"
        ).fetchall()
        for (owner,) in owners:
            if self._owner.is_dead(owner):
                self._connection.execute("UPDATE item SET status = 'queued' WHERE owner = ?", (owner,))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close what is open."""
        with self._alone():
            self._connection.close()
        self._turn.close()
        self._owner.close()

    @classmethod
    def look(cls, folder: Path) -> set[str]:
        """All items, and those that have succeeded."""
        found = rows(folder, "SELECT id, status FROM item")
        return {item for item, _ in found} | {f"{item}={status}" for item, status in found}


class Deleting(Plain):
    """Takes the row out before the item runs."""

    BEFORE = "DELETE FROM item WHERE id = ?"
    AFTER = "INSERT INTO item (id, status) VALUES (?, 'succeeded')"


class Leasing(Plain):
    """Takes an owner for dead when its item takes long."""

    def _recover(self) -> None:
        self._connection.execute(
            "UPDATE item SET status = 'queued' WHERE status = 'running' AND begun < ?",
            (time.monotonic() - 0.1,),
        )


class Forgetting(Plain):
    """Tells that an item is done before that is on record."""

    def __init__(
        self, folder: Path, run: Callable[[str], None], done: Callable[[str], None], **options: Any
    ) -> None:
        def hasty(item: str) -> None:
            run(item)
            done(item)
            time.sleep(0.1)

        super().__init__(folder, hasty, lambda item: None, **options)


class Swallowing(Plain):
    """Says that it took an item which the disk had no room for."""

    def enqueue(self, item: str) -> list[str]:
        """Ignore what goes wrong."""
        try:
            return super().enqueue(item)
        except EnqueueError:
            return [item]
