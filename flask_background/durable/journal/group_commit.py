"""One round: all that waits, in one transaction with one sync; what spoils it fails alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flask_background.concurrency import native
from flask_background.durable.journal.database import FILE_NAME, Database, Mode
from flask_background.durable.journal.failure import explain_failure
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.statements import insert_all
from flask_background.errors import JournalError

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

# Nothing is wrong with the connection then.
_HARMLESS = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    # What could not be synced may be in the WAL: to open it anew would bring back what was refused.
    sqlite3.SQLITE_IOERR,
)
_OWN_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)


@dataclass(slots=True)
class Insert:
    """The step that enters an item without a key: all of a round are written together."""

    entry: ItemRow

    def __call__(self, connection: sqlite3.Connection) -> ItemRow | None:
        insert_all(connection, [self.entry])
        return None


class Order:
    """A step, and what becomes of it."""

    __slots__ = ("error", "gate", "step", "sync", "then", "value")

    def __init__(self, step: Step[Any], sync: bool) -> None:
        self.step = step
        self.sync = sync
        self.gate: native.Latch | None = None
        self.then: Callable[[Any], object] | None = None
        self.value: Any = None
        self.error: BaseException | None = None


class Rounds:
    """Writes rounds of orders to one journal, and reads it. All but reading is for one thread."""

    def __init__(self, folder: Path, *, power: bool, mode: Mode) -> None:
        self.folder = folder
        self._power = power
        self._mode = mode
        self._database: Database | None = None
        self._reading = native.new_lock()
        #: Why the WAL could not be copied back.
        self.trouble: Exception | None = None

    def open(self) -> Database:
        """The database, whose turn the caller has to take."""
        if self._database is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = Database(self.folder, self._mode)
        return self._database

    def write(self, database: Database, orders: list[Order]) -> None:
        """Write all together, or, if one of them raises, each by itself. The caller has the turn.

        Raises only if nothing could be written.
        """
        try:
            self._transact(database, orders)
        except _Spoiled as spoiled:
            if len(orders) == 1:
                orders[0].error = spoiled.__cause__
                return
            for order in orders:
                try:
                    self.write(database, [order])
                except Exception as error:  # those before it are written
                    order.error = self.failure(error)

    def tidy(self, database: Database) -> None:
        """Copy the WAL back, if it is time. The caller has the turn.

        An error here is not that of any order: what they wrote is written. The next rounds try again.
        """
        try:
            database.checkpoint()
        except (sqlite3.Error, OSError) as error:
            self.trouble = error

    def read(self, query: Step[T]) -> tuple[T] | None:
        """What query returns; None if the database is not open, or was migrated: the next write sees to that.

        Raises JournalError.
        """
        with self._reading:
            database = self._database
            if database is None or database.reader is None:
                return None
            try:
                if not database.is_as_known(database.reader):
                    return None
                return (query(database.reader),)
            except sqlite3.Error as error:
                raise self.failure(error) from error

    def close(self) -> None:
        """Close the files; they are opened again when something is to be written."""
        if self._database is not None:
            with self._database.turn, self._reading:
                self._database.close()
            self._database.turn.close()
            self._database = None

    def failure(self, error: Exception) -> JournalError:
        """The error for a caller whose use of the journal failed with this error."""
        return explain_failure(error, self.folder / FILE_NAME)

    def _transact(self, database: Database, orders: list[Order]) -> None:
        entries = []
        others = []
        sync = database.mode != "wal"
        for order in orders:  # the one loop that there is for every item
            sync = sync or order.sync
            if type(order.step) is Insert:
                entries.append(order.step.entry)
            else:
                others.append(order)
        connection = database.begin(full=self._power and sync)
        try:
            _take(entries, others, connection)
            database.commit()
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("rollback")
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in _HARMLESS:
                with self._reading:
                    database.close()  # and open it anew for the next round
            raise


def _take(entries: list[ItemRow], orders: list[Order], connection: sqlite3.Connection) -> None:
    """Enter the new items, then let every other step do its part of the transaction."""
    try:
        insert_all(connection, entries)
        for order in orders:
            order.value = order.step(connection)
    except sqlite3.Error as error:
        if isinstance(error, _OWN_FAULT):
            raise _Spoiled from error
        raise
    except BaseException as error:
        raise _Spoiled from error


class _Spoiled(Exception):
    """A step raised something that is not the disk's fault."""
