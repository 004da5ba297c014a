"""No queue at all: what the disk takes, and what SQLite takes if every item is a transaction."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from uuid import uuid4

from .base import Durable, Place

_PAGE = b"x" * 4096


class Appending(Durable):
    """One page is added to a file and synced: a log that grows."""

    name = "fdatasync, appending"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._file = os.open(place.folder / type(self).__name__, os.O_RDWR | os.O_CREAT)

    def enqueue(self, argument: str) -> None:
        os.write(self._file, _PAGE)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class InPlace(Appending):
    """One page of a file that stays as long as it is: the least that a sync takes."""

    name = "fdatasync, in place"

    def enqueue(self, argument: str) -> None:
        os.lseek(self._file, 0, os.SEEK_SET)
        super().enqueue(argument)


class CommitEach(Durable):
    """A table, a connection, a lock: the threads take turns, which SQLite's own wait does worse."""

    name = "sqlite3, a commit each"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            place.folder / "each.sqlite3", isolation_level=None, check_same_thread=False
        )
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        self._connection.execute("create table item (id text primary key, payload text) without rowid")

    def enqueue(self, argument: str) -> None:
        row = (uuid4().hex, json.dumps([argument]))
        with self._lock:
            self._connection.execute("insert into item values (?, ?)", row)

    def close(self) -> None:
        self._connection.close()
