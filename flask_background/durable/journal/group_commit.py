"""Group commit: all waiting steps are written in one transaction with one sync; a bad step fails alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flask_background.concurrency import native
from flask_background.durable.journal.database import FILE_NAME, Database, Mode
from flask_background.durable.journal.failure import RemovedError, explain_failure
from flask_background.durable.journal.folder import make_folder
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.statements import insert_all
from flask_background.errors import JournalError

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

# Errors after which the connection is as good as before.
_HARMLESS = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    # A transaction that could not be synced may be in the WAL: opening the file anew would bring it back.
    sqlite3.SQLITE_IOERR,
)
# Errors caused by the step that raised them.
_OWN_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)


@dataclass(slots=True)
class Insert:
    """The step that enters an item without a key. All such steps of one transaction are written together."""

    row: ItemRow

    def __call__(self, connection: sqlite3.Connection) -> ItemRow | None:
        insert_all(connection, [self.row])
        return None


class Write:
    """A step that waits to be written, and its outcome."""

    __slots__ = ("error", "latch", "step", "sync", "then", "value")

    def __init__(self, step: Step[Any], sync: bool) -> None:
        self.step = step
        self.sync = sync
        #: Opened when the step is written or has failed, for a caller that waits.
        self.latch: native.Latch | None = None
        #: Called with the step's value when the step is written, if no caller waits.
        self.then: Callable[[Any], object] | None = None
        self.value: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """Writes groups of steps to one journal, and reads it. Everything but reading is for one thread."""

    def __init__(self, folder: Path, *, power: bool, mode: Mode) -> None:
        self.folder = folder
        self._power = power
        self._mode = mode
        self._database: Database | None = None
        self._is_removed = False
        # Held while the files are written, checkpointed, read or closed.
        self._using = native.new_lock()
        self._reading = native.new_lock()
        #: An error of which no step is told: the checkpoint failed, or the files had been removed.
        self.trouble: Exception | None = None

    def open(self) -> Database:
        """Return the database; the caller takes its write lock before anything else."""
        if self._is_removed:
            self.close()
            self._is_removed = False
        if self._database is None:
            make_folder(self.folder)
            self._database = Database(self.folder, self._mode)
        return self._database

    def write(self, database: Database, writes: list[Write]) -> None:
        """Write all steps together, or, if one of them raises, each by itself. The caller has the write lock.

        Raises only if nothing could be written.
        """
        try:
            self._transact(database, writes)
        except _StepError as step_error:
            if len(writes) == 1:
                writes[0].error = step_error.__cause__
                return
            for write in writes:
                try:
                    self.write(database, [write])
                except Exception as error:  # the steps before this one are written
                    write.error = self.failure(error)

    def checkpoint(self, database: Database) -> None:
        """Copy the WAL back, if it is time. The caller has the write lock.

        An error is stored in ``trouble`` and fails no step, because the steps are written. A later call tries
        again.
        """
        try:
            with self._using:
                database.checkpoint()
        except (sqlite3.Error, OSError) as error:
            self.trouble = error

    def read(self, query: Step[T]) -> tuple[T] | None:
        """Return the query's result in a tuple; None if the database is not open, or was migrated.

        The next write opens the database. Raises JournalError.
        """
        with self._reading:
            database = self._database
            if database is None or database.reader is None:
                return None
            try:
                if not database.is_as_known(database.reader) or not database.is_in_place():
                    return None
                return (query(database.reader),)
            except sqlite3.Error as error:
                raise self.failure(error) from error

    def close(self) -> None:
        """Close the files. The next write opens them again."""
        if self._database is not None:
            with self._database.write_lock, self._using, self._reading:
                self._database.close()  # SQLite leaves alone files that have replaced its own
            self._database.write_lock.close()
            self._database = None

    def pause(self, timeout: float) -> bool:
        """Keep the files unused until ``go_on``; return False if they are in use after timeout seconds."""
        if not self._using.acquire(timeout=timeout):
            return False
        if not self._reading.acquire(timeout=timeout):
            self._using.release()
            return False
        return True

    def go_on(self) -> None:
        """Let the files be used again after ``pause``."""
        self._reading.release()
        self._using.release()

    def failure(self, error: Exception) -> JournalError:
        """Return the error for a caller whose use of the journal failed with this error."""
        return explain_failure(error, self.folder / FILE_NAME)

    def _transact(self, database: Database, writes: list[Write]) -> None:
        rows = []
        others = []
        sync = database.mode != "wal"
        for write in writes:  # the one loop over every item
            sync = sync or write.sync
            if type(write.step) is Insert:
                rows.append(write.step.row)
            else:
                others.append(write)
        with self._using:
            connection = database.begin(full=self._power and sync)
            try:
                _take_steps(rows, others, connection)
                database.commit()
                if not database.is_in_place():
                    self._is_removed = True
                    raise RemovedError(f"{database.path} was removed or replaced")
                if not database.write_lock.is_in_place():  # no process shares this lock any more
                    self._is_removed = True
                    self.trouble = RemovedError(f"the write lock of {database.path} was removed or replaced")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("rollback")
                if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in _HARMLESS:
                    with self._reading:
                        database.close()  # the next group opens it anew
                raise


def _take_steps(rows: list[ItemRow], writes: list[Write], connection: sqlite3.Connection) -> None:
    """Enter the new items, then let every other step do its part of the transaction."""
    try:
        insert_all(connection, rows)
        for write in writes:
            write.value = write.step(connection)
    except sqlite3.Error as error:
        if isinstance(error, _OWN_FAULT):
            raise _StepError from error
        raise
    except BaseException as error:
        raise _StepError from error


class _StepError(Exception):
    """A step raised an error that is not the disk's fault."""
