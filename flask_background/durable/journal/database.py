"""The SQLite file: how it is opened, written in one transaction, checkpointed and closed.

SQLite before 3.51.3 can corrupt a database in WAL mode when one connection commits while another one resets
the WAL after a checkpoint (sqlite.org: "WAL-reset bug"). That cannot happen here: whoever writes,
checkpoints, opens or closes holds the turn (turn.py), and SQLite makes no checkpoint by itself
(``wal_autocheckpoint=0``). So no commit ever meets a checkpoint, among the app's processes; other programs
should only read the file.

Where the file system cannot do WAL (it needs shared memory), the rollback journal is used, which does not
have that bug.
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
from flask_background.durable.journal.write_lock import WriteLock

Mode = Literal["wal", "truncate"]

FILE_NAME = "journal.sqlite3"

# How long SQLite waits for another program that holds a lock, in seconds.
_BUSY = 2.0
# After so many commits, or when it has become so long in bytes, the WAL is copied back, and begun anew.
_COMMITS = 250
_LONG = 16_000_000
# Where somebody reads it, or the disk fails, that is tried again after so many commits, or as many bytes.
_AGAIN = 25
# Its length is looked at after so many commits: after a stat of a file its next sync takes a third longer
# (measured on Linux 6.18), perhaps because the next write's time has to be another one then.
_LOOK = 8


class Database:
    """The file ``journal.sqlite3`` in a folder. All but reading is for one thread, which holds the turn."""

    def __init__(self, folder: Path, mode: Mode = "wal") -> None:
        self.path = folder / FILE_NAME
        self.mode = mode
        self._wal = folder / f"{FILE_NAME}-wal"
        self._commits = 0
        self._long = _LONG
        self._full: bool | None = None
        self._nonce = 0
        self._file: os.stat_result | None = None
        self._version = 0
        self.writer: sqlite3.Connection | None = None
        self.reader: sqlite3.Connection | None = None
        self.write_lock = WriteLock(folder / "turn")

    def open(self) -> sqlite3.Connection:
        """The connection that writes; both are opened if there are none. The caller has the turn.

        Migrates an older journal. Raises JournalError, and changes nothing, if it is too new or no journal.
        """
        if self.writer is None:
            if not os.path.lexists(
                self.path
            ):  # so that it is private whatever the umask; SQLite's others follow it
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)
            check_file(self.path)
            connection = self._connect()
            self._file = os.stat(self.path)
            try:
                version = migrations.check_journal(connection, self.path)
                (mode,) = connection.execute(f"pragma journal_mode = {self.mode}").fetchone()
                if mode != "wal":
                    self.mode = "truncate"
                    connection.execute("pragma journal_mode = truncate")
                connection.execute("pragma wal_autocheckpoint = 0")
                connection.execute(f"pragma journal_size_limit = {_LONG}")
                self._version = migrations.migrate(connection, version)
            except BaseException:
                connection.close()
                raise
            self.writer, self._full = connection, None
            self.reader = self._connect()
            self.reader.execute("pragma query_only = 1")
        return self.writer

    def begin(self, *, full: bool) -> sqlite3.Connection:
        """Begin a transaction. Full: when it is committed it has to be on disk, and survive a power cut.

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
        """Whether the path still leads to the open file, which may have been removed or replaced."""
        try:
            return self._file is None or os.path.samestat(os.stat(self.path), self._file)
        except OSError:
            return False

    def is_as_known(self, connection: sqlite3.Connection) -> bool:
        """Whether the journal still has the version that this process last saw, so that it may read."""
        return migrations.read_version(connection) == self._version

    def commit(self) -> None:
        """Commit the transaction. If this raises, it does not come back when the file is opened anew."""
        connection = self.open()
        try:
            connection.execute("commit")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("rollback")
            is_there = self.mode != "wal" and self._read_nonce() == self._nonce
            with suppress(sqlite3.Error):  # then the disk takes nothing at all
                # In the WAL its frames may be whole, but not synced: whoever reads that from its beginning,
                # after a kill too, would find them. So something harmless is written over them. And where a
                # rollback journal's end is all that was not synced, it has happened: this syncs that.
                self._write_nothing(full=is_there)
            if not is_there:
                raise
        self._commits += 1

    def _write_nothing(self, *, full: bool) -> None:
        connection = self.begin(full=full)
        # Writes a page, though nothing changes.
        connection.execute(f"pragma user_version = {self._version}")
        connection.execute("commit")

    def _read_nonce(self) -> int | None:
        found = self.open().execute("select value from meta where name = 'nonce'").fetchone()
        return None if found is None else int(found[0])

    def checkpoint(self) -> None:
        """Copy the WAL back to the database if much has been written. The caller has the turn.

        This waits for nobody: what somebody still reads is copied the next time.
        """
        if self.mode != "wal" or self.writer is None:
            return
        if self._commits < _COMMITS and self._commits % _LOOK:
            return
        size = self._wal.stat().st_size  # of all processes' commits, since it is cut when it begins anew
        if self._commits < _COMMITS and size <= self._long:
            return
        self._commits, self._long = _COMMITS - _AGAIN, size + _LONG
        self.writer.execute("pragma busy_timeout = 0")
        try:
            # Not truncated: to write where the file has been before takes half the time of letting it grow.
            (busy, *_) = self.writer.execute("pragma wal_checkpoint(restart)").fetchone()
        finally:
            self.writer.execute(f"pragma busy_timeout = {1000 * _BUSY:.0f}")
        if not busy:
            self._commits, self._long = 0, _LONG

    def close(self) -> None:
        """Close both connections; the caller has the turn, for the last one to close makes a checkpoint."""
        for connection in (self.reader, self.writer):
            if connection is not None:
                connection.close()
        self.reader = self.writer = self._file = None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=64
        )


def sync_folder(path: Path) -> None:
    """Let the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
