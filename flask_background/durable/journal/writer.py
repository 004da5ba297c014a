"""The one writer of a process: everything that waits is written in one transaction, with one sync.

Each step is a function of the connection. A view's step has to be on disk before it goes on, or fail; what a
run has come to must not be lost, so such a step is tried until it succeeds.
"""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from flask_background.concurrency import native
from flask_background.durable.journal.callbacks import Teller
from flask_background.durable.journal.database import Mode
from flask_background.durable.journal.group_commit import Order, Rounds, Step
from flask_background.errors import JournalError

T = TypeVar("T")

# How many steps one transaction carries at most.
_ROUND = 2_000
# How long to wait for those who come again, in seconds.
_LINGER = 0.001
# And how long what nobody waits for is kept back, so that one sync does for many.
_COMPANY = 0.003
# How long a view waits until its step's transaction begins, in seconds; SQLite itself may take 2 s more.
_PATIENCE = 3.0
# How long to wait after a failed round, in seconds.
_BACKOFF = 0.5

# Those that may have a file open, which is to be closed by nobody but their own threads, in their turn.
_open: set[Writer] = set()


class Writer:
    """Writes to one journal for one process; ``power``: what is acknowledged survives a power cut."""

    def __init__(self, folder: Path, *, power: bool, mode: Mode = "wal") -> None:
        self.folder = folder
        #: How many transactions there have been.
        self.rounds = 0
        self._rounds = Rounds(folder, power=power, mode=mode)
        self.failure = self._rounds.failure
        self._lock = native.new_lock()
        # Orders wait here, and the bell is rung when there are as many as the thread wants: once for a round,
        # for each time that a thread is woken costs more than what it then does.
        self._orders: deque[Order] = deque()
        self._bell = native.new_lock()
        self._bell.acquire()
        self._wanted: float = 1
        self._idles = False
        self._writing = native.new_lock()
        self._closing = True
        self._users = 0
        self._teller = Teller()
        self._running = False
        # How many waited for the last round: they may well come again, and are worth a moment.
        self._expected = 0

    def do(self, step: Step[T], *, sync: bool = True, undo: Step[None] | None = None) -> T:
        """Take a step, and return what it returned when it is written. Raises JournalError if it cannot be.

        ``sync``: at level "power", whether it has to survive a power cut. ``undo``: taken when something else
        breaks the wait off (a signal, gevent's Timeout) and it is too late to withdraw the step.
        """
        order = Order(step, sync)
        try:
            if not self._write_alone(order):
                self._wait_for(order)
        except JournalError:
            raise
        except BaseException:
            if undo is not None and not self._withdraw(order):
                self.later(undo)
            raise
        if order.error is not None:
            raise order.error
        value: T = order.value
        return value

    def _wait_for(self, order: Order) -> None:
        gate = order.gate = native.Latch()
        self._give(order)
        why: Exception = TimeoutError(f"somebody has been writing for {_PATIENCE:g} s")
        try:
            self._have_thread()
        except RuntimeError as error:
            why, written = error, False
        else:
            written = gate.wait(_PATIENCE)
        if not written:
            if self._withdraw(order):
                raise self._rounds.failure(why)
            gate.wait()  # it is being written just now

    def _withdraw(self, order: Order) -> bool:
        try:
            self._orders.remove(order)
        except ValueError:
            return False
        return True

    def later(self, step: Step[T], then: Callable[[T], object] | None = None, *, sync: bool = True) -> None:
        """Take a step as soon as possible, however long the disk fails; then call ``then`` with its value.

        ``then`` is called on a thread for that, one after the other; it must not raise.
        """
        order = Order(step, sync)
        order.then = then
        self._give(order)
        self.go_on()

    def go_on(self) -> None:
        """Have what waits written, if there could be no thread for it before. Called now and then."""
        if self._orders:
            with suppress(RuntimeError):  # then it waits for the next call
                self._have_thread()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all steps up to now are written, and their callers told; False after timeout seconds."""
        gate = native.Latch()
        self.later(lambda _: None, lambda _: gate.open(), sync=False)
        return gate.wait(timeout)

    def read(self, query: Step[T]) -> T:
        """Return what query returns. Never waits for a writer, in WAL mode. Raises JournalError."""
        if not self._users:  # nothing is to stay open
            return self.do(query, sync=False)
        for _ in range(2):
            found = self._rounds.read(query)
            if found is not None:
                return found[0]
            self.do(lambda _: None, sync=False)  # opens it
        raise self._rounds.failure(TimeoutError("it is closed again and again"))

    def take_trouble(self) -> Exception | None:
        """Why the WAL could not be copied back, told once. It hurt no step, and is tried again."""
        trouble, self._rounds.trouble = self._rounds.trouble, None
        return trouble

    def open(self) -> None:
        """Keep the file open from now on; raises JournalError if it cannot be opened."""
        with self._lock:
            self._users += 1
            self._closing = False
            _open.add(self)
        try:
            self.do(lambda _: None, sync=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The counterpart: the last one ends the threads and closes the file, once all is written.

        What comes later is done all the same, and opens it for the moment.
        """
        with self._lock:
            self._users -= 1
            self._closing = not self._users
        self._ring()
        if self._closing:
            with suppress(RuntimeError):  # then it stays open
                self._have_thread()

    def _write_alone(self, order: Order) -> bool:
        """Write an order here and now, without waking a thread, if nobody else writes or waits to."""
        if self._expected > 1 or self._orders or not self._users or not self._writing.acquire(blocking=False):
            return False
        try:
            database = self._rounds.open()
            if not database.turn.take():
                return False
            try:
                self._rounds.write(database, [order])
                self._rounds.tidy(database)
            finally:
                database.turn.give_back()
        except (sqlite3.Error, OSError) as error:
            order.error = self._rounds.failure(error)
        finally:
            self._writing.release()
        self.rounds += 1
        return True

    def _give(self, order: Order) -> None:
        self._orders.append(order)
        if len(self._orders) >= self._wanted or (self._idles and order.gate is not None):
            self._ring()

    def _have_thread(self) -> None:
        """Raises RuntimeError if there can be none now."""
        with self._lock:
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
        left: list[Order] = []
        told = True
        try:
            while True:
                if left or not told:
                    self._wait(_BACKOFF)
                else:
                    self._gather()
                left = self._round(left)
                told = self._teller.start()
                with self._lock:
                    if self._closing and told and not left and not self._orders:
                        self._running = False
                        self._teller.end()
                        with self._writing:
                            self._rounds.close()
                        _open.discard(self)
                        return
        except BaseException:  # the next thread goes on with them
            self._orders.extendleft(reversed(left))
            self._running = False
            raise

    def _gather(self) -> None:
        """Wait until there is something to write, and a moment for those who come again."""
        self._wanted = 1
        if not self._orders and not self._closing:
            self._wait(-1)
        if 0 < len(self._orders) < self._expected:
            self._wanted = self._expected
            if len(self._orders) < self._expected:
                self._wait(_LINGER)
        self._wanted = math.inf
        if self._orders and not self._closing and all(order.gate is None for order in tuple(self._orders)):
            self._idles = True
            self._wait(_COMPANY)
            self._idles = False

    def _wait(self, timeout: float) -> None:
        self._bell.acquire(timeout=timeout)

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it rings already

    def _round(self, left: list[Order]) -> list[Order]:
        """Write all that wait in one transaction. Returns those that have to be tried again."""
        orders = left
        try:
            with self._writing:
                database = self._rounds.open()
                with database.turn:  # it may take a while: whoever comes meanwhile is taken along
                    orders += self._waiting()
                    if orders:
                        self._rounds.write(database, orders)
                        self._rounds.tidy(database)
        except Exception as error:
            orders += self._waiting()
            for order in orders:
                order.error = self._rounds.failure(error)
        left = []
        self.rounds += 1
        self._expected = sum(order.gate is not None for order in orders)
        for order in orders:
            if order.gate is not None:
                order.gate.open()
            elif order.error is None or not isinstance(order.error, JournalError):
                self._teller.tell(order)
            else:
                order.error = None
                left.append(order)
        return left

    def _waiting(self) -> list[Order]:
        """What waits by now, for this round."""
        found: list[Order] = []
        while self._orders and len(found) < _ROUND:
            try:
                found.append(self._orders.popleft())
            except IndexError:  # it has just lost its patience
                break
        return found
