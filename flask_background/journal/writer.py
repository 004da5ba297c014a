"""The one writer of a process: everything that waits is written in one transaction, with one sync.

Each step is a function of the connection. A view's step has to be on disk before it goes on, or fail; what a
run has come to must not be lost, so such a step is tried until it succeeds.
"""

from __future__ import annotations

import os
import sqlite3
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from .. import native
from ..errors import JournalError
from .database import Database, Mode
from .entry import Entry
from .store import insert_all

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

# How many steps one transaction carries at most.
_ROUND = 2_000
# How long to wait for those who come again, in seconds.
_LINGER = 0.0005
# How long to wait after a failed round, in seconds.
_BACKOFF = 0.5

# Nothing is wrong with the connection then.
_HARMLESS = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
_OWN_FAULT = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)


@dataclass(frozen=True, slots=True)
class Insert:
    """The step that enters an item without a key: all of a round are written together."""

    entry: Entry

    def __call__(self, connection: sqlite3.Connection) -> Entry | None:
        insert_all(connection, [self.entry])
        return None


class _Order:
    """A step, and what becomes of it."""

    __slots__ = ("error", "gate", "step", "sync", "then", "value")

    def __init__(self, step: Step[Any], sync: bool) -> None:
        self.step = step
        self.sync = sync
        self.gate: native.Gate | None = None
        self.then: Callable[[Any], object] | None = None
        self.value: Any = None
        self.error: BaseException | None = None


class Writer:
    """Writes to one journal for one process; ``power``: what is acknowledged survives a power cut."""

    def __init__(self, folder: Path, *, power: bool, mode: Mode = "wal") -> None:
        self.folder = folder
        self._power = power
        self._mode = mode
        self._database: Database | None = None
        self._lock = native.new_lock()
        self._orders: native.SimpleQueue[_Order | None] = native.SimpleQueue()
        self._told: native.SimpleQueue[_Order | None] = native.SimpleQueue()
        self._running = False
        # How many waited for the last round: they may well come again, and are worth a moment.
        self._expected = 0
        self._reading = native.new_lock()

    def do(self, step: Step[T], *, sync: bool = True) -> T:
        """Take a step, and return what it returned when it is written. Raises JournalError if it cannot be.

        ``sync``: at level "power", whether it has to survive a power cut.
        """
        order = _Order(step, sync)
        order.gate = native.Gate()
        self._give(order)
        order.gate.wait()
        if order.error is not None:
            raise order.error
        value: T = order.value
        return value

    def later(self, step: Step[T], then: Callable[[T], object] | None = None, *, sync: bool = True) -> None:
        """Take a step as soon as possible, however long the disk fails; then call ``then`` with its value.

        ``then`` is called on a thread for that, one after the other; it must not raise.
        """
        order = _Order(step, sync)
        order.then = then
        self._give(order)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all steps up to now are written, and their callers told; False after timeout seconds."""
        gate = native.Gate()
        self.later(lambda _: None, lambda _: gate.open(), sync=False)
        return gate.wait(timeout)

    def read(self, query: Step[T]) -> T:
        """Return what query returns. Never waits for a writer, in WAL mode. Raises JournalError."""
        for _ in range(2):
            with self._reading:
                database = self._database
                if database is not None and database.reader is not None:
                    try:
                        return query(database.reader)
                    except sqlite3.Error as error:
                        raise _failure(self.folder, error) from error
            self.do(lambda _: None, sync=False)  # opens it
        raise _failure(self.folder, TimeoutError("it is closed again and again"))

    def close(self) -> None:
        """End the threads and close the file, once all is written. What comes later opens it again."""
        self._orders.put(None)

    def _give(self, order: _Order) -> None:
        with self._lock:
            self._orders.put(order)
            if self._running:
                return
            self._running = True
        try:
            native.start_thread(self._write, "background-journal")
        except RuntimeError:
            self._running = False
            raise

    def _write(self) -> None:
        """The thread: rounds until it is told to end, and nothing is left."""
        native.start_thread(self._tell, "background-journal-told")
        left: list[_Order] = []
        closing = False
        while True:
            orders, told_to_close = self._next(left, wait=not closing)
            closing = closing or told_to_close
            left = self._round(orders) if orders else []
            with self._lock:
                if closing and not left and self._orders.empty():
                    self._running = False
                    self._told.put(None)
                    self._close()
                    return

    def _next(self, left: list[_Order], wait: bool) -> tuple[list[_Order], bool]:
        """What the next round has to write: what is left of the last one, and what has come."""
        orders, closing = left, False
        try:
            if left:
                order = self._orders.get(timeout=_BACKOFF)
            else:
                order = self._orders.get(block=wait)
            linger_until = monotonic() + _LINGER
            while True:
                if order is None:
                    closing = True
                else:
                    orders.append(order)
                if len(orders) >= _ROUND:
                    break
                if len(orders) < self._expected and (time := linger_until - monotonic()) > 0:
                    order = self._orders.get(timeout=time)
                else:
                    order = self._orders.get_nowait()
        except native.Empty:
            pass
        return orders, closing

    def _round(self, orders: list[_Order]) -> list[_Order]:
        """Write all of them in one transaction. Returns those that have to be tried again."""
        try:
            self._transact(orders)
        except _Spoiled:
            for order in orders:  # one of them raised: each by itself
                try:
                    self._transact([order])
                except _Spoiled as spoiled:
                    order.error = spoiled.__cause__
                except (sqlite3.Error, OSError) as error:
                    self._fail(order, error)
        except (sqlite3.Error, OSError) as error:
            for order in orders:
                self._fail(order, error)
        left = []
        self._expected = sum(order.gate is not None for order in orders)
        for order in orders:
            if order.gate is not None:
                order.gate.open()
            elif order.error is None or not isinstance(order.error, JournalError):
                self._told.put(order)
            else:
                order.error = None
                left.append(order)
        return left

    def _transact(self, orders: list[_Order]) -> None:
        with self._reading:
            if self._database is None:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._database = Database(self.folder, self._mode)
        database = self._database
        with database.turn:
            full = self._power and (database.mode != "wal" or any(order.sync for order in orders))
            connection = database.begin(full=full)
            try:
                _take(orders, connection)
                connection.execute("commit")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("rollback")
                if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in _HARMLESS:
                    with self._reading:
                        database.close()  # and open it anew for the next round
                raise
            database.checkpoint()

    def _fail(self, order: _Order, error: Exception) -> None:
        order.error = _failure(self.folder, error)

    def _tell(self) -> None:
        """The other thread: call those who want to know."""
        while (order := self._told.get()) is not None:
            try:
                if order.error is not None:
                    raise order.error
                if order.then is not None:
                    order.then(order.value)
            except Exception:
                traceback.print_exc()
            order = None  # or an idle thread would keep it

    def _close(self) -> None:
        database = self._database
        if database is not None:
            try:
                with database.turn, self._reading:
                    database.close()
            except TimeoutError:
                pass  # better open than closed out of turn


_writers: dict[Path, Writer] = {}
_inherited: list[object] = []
_lock = native.new_lock()


def writer_at(folder: Path, *, power: bool) -> Writer:
    """The writer of this process for a journal: there must be only one, as record locks are a process's."""
    folder = folder.resolve()
    with _lock:
        writer = _writers.get(folder)
        if writer is None:
            writer = _writers[folder] = Writer(folder, power=power)
        return writer


def _after_fork() -> None:
    global _lock
    _lock = native.new_lock()
    # Neither used nor closed, which would touch the parent's files: kept for ever.
    _inherited.append(dict(_writers))
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _take(orders: list[_Order], connection: sqlite3.Connection) -> None:
    """Let every step do its part of the transaction."""
    try:
        entries = [order.step.entry for order in orders if isinstance(order.step, Insert)]
        insert_all(connection, entries)
        for order in orders:
            if not isinstance(order.step, Insert):
                order.value = order.step(connection)
    except sqlite3.Error as error:
        if isinstance(error, _OWN_FAULT):
            raise _Spoiled from error
        raise
    except BaseException as error:
        raise _Spoiled from error


class _Spoiled(Exception):
    """A step raised something that is not the disk's fault."""


def _failure(folder: Path, error: Exception) -> JournalError:
    return JournalError(
        f"the journal in {folder} cannot be used ({error}): nothing was enqueued. Is the disk full, is the folder"
        " writable for this process, does another program hold a lock on journal.sqlite3?"
    )
