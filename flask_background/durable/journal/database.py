"""The SQLite file: how it is opened, written in one transaction, checkpointed and closed.

SQLite before 3.51.3 can corrupt a database in WAL mode when one connection commits while another one resets
the WAL after a checkpoint (sqlite.org: "WAL-reset bug"). Here no commit ever meets a checkpoint: a process
holds the write lock (write_lock.py) to write, checkpoint, open or close, and SQLite makes no checkpoint by
itself (``wal_autocheckpoint=0``). That holds among the app's processes; other programs should only read the
file.

On a file system without WAL (which needs shared memory), the rollback journal is used, which does not have
that bug.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from random import getrandbits
from typing import Literal

from flask_background.durable.journal import migrations
from flask_background.durable.journal.folder import check_file
from flask_background.durable.journal.write_lock import WriteLock, place_of

Mode = Literal["wal", "truncate"]

FILE_NAME = "journal.sqlite3"

# The size of a new file's pages, in bytes. A commit writes whole pages, of each of which one item changes a
# little: with SQLite's usual 4,096 bytes, entering an item takes SQLite a tenth longer (but arguments of
# 200 kB are then entered faster by as much).
_PAGE = 2_048
# How long SQLite waits for another program that holds a lock, in seconds.
_BUSY = 2.0
# The WAL is copied back and begun anew after this many commits, or when it has this length in bytes.
_COMMITS = 250
_LONG = 16_000_000
# If a reader or a disk failure prevents a checkpoint, the next try is after this many commits, or bytes.
_AGAIN = 25
# The WAL's length is checked only after this many commits: after a stat of a file its next sync takes a third
# longer (measured on Linux 6.18), perhaps because the next write then has to change its time.
_LOOK = 8


class Database:
    """The file ``journal.sqlite3`` in a folder.

    All but reading is for one thread, which holds the write lock.
    """

    def __init__(self, folder: Path, mode: Mode = "wal") -> None:
        self.path = folder / FILE_NAME
        self._name = str(self.path)  # for every transaction: the stat of a Path takes 1 µs more
        self.mode = mode
        self._wal = folder / f"{FILE_NAME}-wal"
        self._commits = 0
        self._long = _LONG
        self._full: bool | None = None
        self._nonce = 0
        self._place: tuple[int, int] | None = None
        self._version = 0
        self.writer: sqlite3.Connection | None = None
        self.reader: sqlite3.Connection | None = None
        self.write_lock = WriteLock(folder / "turn")

    def open(self) -> sqlite3.Connection:
        """Return the connection that writes; open both connections if there are none.

        The caller has the write lock. Migrates an older journal. Raises JournalError, and changes nothing, if
        the file is too new or not a journal.
        """
        if self.writer is None:
            if not os.path.lexists(
                self.path
            ):  # makes the file private whatever the umask; SQLite's other files follow it
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)
            check_file(self.path)
            connection = self._connect()
            try:
                self._place = place_of(os.stat(self.path))
                version = migrations.check_journal(connection, self.path)
                connection.execute(f"pragma page_size = {_PAGE}")
                (mode,) = connection.execute(f"pragma journal_mode = {self.mode}").fetchone()
                if mode != "wal":
                    self.mode = "truncate"
                    connection.execute("pragma journal_mode = truncate")
                connection.execute("pragma wal_autocheckpoint = 0")
                connection.execute(f"pragma journal_size_limit = {_LONG}")
                self._version = migrations.migrate(connection, version)
                reader = self._connect()
                try:
                    reader.execute("pragma query_only = 1")
                except BaseException:
                    reader.close()
                    raise
            except BaseException:
                connection.close()
                raise
            self.writer, self.reader, self._full = connection, reader, None
        return self.writer

    def begin(self, *, full: bool) -> sqlite3.Connection:
        """Begin a transaction. Full: once committed, it survives a power cut.

        Raises JournalError if another process has migrated the journal to a version that shuts out this code.
        """
        connection = self.open()
        if full is not self._full:
            connection.execute(f"pragma synchronous = {'full' if full else 'normal'}")
            self._full = full
        connection.execute("begin immediate")
        try:
            if migrations.read_version(connection) != self._version:
                self._version = migrations.check_version(connection, self.path)
            if self.mode != "wal":  # see ``commit``
                self._nonce = getrandbits(31)
                connection.execute("insert or replace into meta values ('nonce', ?)", (self._nonce,))
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        return connection

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the open file, which may have been removed or replaced."""
        try:
            return self._place is None or self._place == place_of(os.stat(self._name))
        except OSError:
            return False

    def is_as_known(self, connection: sqlite3.Connection) -> bool:
        """Return whether this process may read: the journal still has the version that it last saw."""
        return migrations.read_version(connection) == self._version

    def commit(self) -> None:
        """Commit the transaction. If this raises, the transaction is gone, even after a reopening."""
        connection = self.open()
        try:
            connection.execute("commit")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("rollback")
            is_there = self.mode != "wal" and self._read_nonce() == self._nonce
            with suppress(sqlite3.Error):  # in this case the disk takes nothing at all
                # The frames of the transaction may be whole in the WAL, but not synced. A process that reads
                # the WAL from its beginning, as after a kill, would find them. So a harmless transaction is
                # written over them. If only the end of a rollback journal was not synced, the transaction has
                # happened; this syncs it.
                self._write_nothing(full=is_there)
            if not is_there:
                raise
        self._commits += 1

    def _write_nothing(self, *, full: bool) -> None:
        connection = self.begin(full=full)
        # This writes a page, though nothing changes.
        connection.execute(f"pragma user_version = {self._version}")
        connection.execute("commit")

    def _read_nonce(self) -> int | None:
        found = self.open().execute("select value from meta where name = 'nonce'").fetchone()
        return None if found is None else int(found[0])

    def checkpoint(self) -> None:
        """Copy the WAL back to the database if much has been written. The caller has the write lock.

        This waits for no reader: pages that are still read are copied the next time.
        """
        if self.mode != "wal" or self.writer is None:
            return
        if self._commits < _COMMITS and self._commits % _LOOK:
            return
        # Of all processes' commits, because the WAL is cut when it begins anew.
        size = self._wal.stat().st_size
        if self._commits < _COMMITS and size <= self._long:
            return
        self._commits, self._long = _COMMITS - _AGAIN, size + _LONG
        self.writer.execute("pragma busy_timeout = 0")
        try:
            # Not truncated: writing over an existing part of the file takes half the time of letting it grow.
            (busy, *_) = self.writer.execute("pragma wal_checkpoint(restart)").fetchone()
        finally:
            self.writer.execute(f"pragma busy_timeout = {1000 * _BUSY:.0f}")
        if not busy:
            self._commits, self._long = 0, _LONG

    def close(self) -> None:
        """Close both connections. The caller has the write lock: the last close makes a checkpoint."""
        for connection in (self.reader, self.writer):
            if connection is not None:
                connection.close()
        self.reader = self.writer = self._place = None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=64
        )


def sync_folder(path: Path) -> None:
    """Sync a folder, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
