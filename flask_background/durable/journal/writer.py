"""The one writer of a process: all waiting steps are written in one transaction, with one sync.

A step is a function of the connection. The step of a view has to be on disk before the view goes on, or fail.
The outcome of a run must not be lost, so such a step is tried again until it is written.
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
from flask_background.durable.journal.callbacks import Callbacks
from flask_background.durable.journal.database import Mode
from flask_background.durable.journal.failure import RemovedError
from flask_background.durable.journal.group_commit import GroupCommit, Step, Write
from flask_background.errors import JournalError

T = TypeVar("T")

# How many steps one transaction carries at most.
_MOST = 2_000
# How long the thread waits for callers that are expected to return, in seconds.
_LINGER = 0.001
# How long the thread holds back steps that no caller waits for, so that one sync serves many, in seconds.
_COMPANY = 0.003
# How long a caller waits until the transaction of its step begins, in seconds. SQLite may take 2 s more.
_PATIENCE = 3.0
# How long the thread waits after a failed transaction, in seconds.
_BACKOFF = 0.5

# Writers that may have their file open. Only their own threads may close it, while they have the write lock.
_open: set[Writer] = set()


class Writer:
    """Writes to one journal for one process. ``power``: acknowledged steps survive a power cut."""

    def __init__(self, folder: Path, *, power: bool, mode: Mode = "wal") -> None:
        self.folder = folder
        #: The number of transactions so far.
        self.transactions = 0
        self._group_commit = GroupCommit(folder, power=power, mode=mode)
        self.failure = self._group_commit.failure
        self.pause = self._group_commit.pause
        self.go_on = self._group_commit.go_on
        self._lock = native.new_lock()
        # The waiting steps. The thread is woken when as many wait as it wants: once for each transaction,
        # because waking a thread costs more than the thread's work.
        self._writes: deque[Write] = deque()
        self._wanted: float = 1
        self._lingers = False
        self._signal = native.new_lock()
        self._signal.acquire()
        self._writing = native.new_lock()
        self._closing = True
        self._users = 0
        self._callbacks = Callbacks()
        self._running = False
        # How many callers waited for the last transaction: they may return at once, so the thread waits a
        # moment for them.
        self._expected = 0

    def write(self, step: Step[T], *, sync: bool = True, undo: Step[None] | None = None) -> T:
        """Write a step, and return its return value. Raises JournalError if the step cannot be written.

        ``sync``: whether the step has to survive a power cut, at durability "power". ``undo``: a step to
        write if a signal or gevent's Timeout interrupts the wait too late to withdraw the first one.
        """
        write = Write(step, sync)
        try:
            if not self._write_alone(write):
                self._wait_for(write)
        except JournalError:
            raise
        except BaseException:
            if undo is not None and not self._withdraw(write):
                self.write_later(undo)
            raise
        if write.error is not None:
            raise write.error
        value: T = write.value
        return value

    def write_later(
        self, step: Step[T], then: Callable[[T], object] | None = None, *, sync: bool = True
    ) -> None:
        """Write a step as soon as possible, however long the disk fails; then call ``then`` with its value.

        A special thread calls one ``then`` after the other; ``then`` must not raise.
        """
        write = Write(step, sync)
        write.then = then
        self._put(write)
        self.resume()

    def resume(self) -> None:
        """Write the steps for which no thread could be started before. To be called now and then."""
        if self._writes:
            with suppress(RuntimeError):  # the steps wait for the next call
                self._have_thread()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all steps so far and their callbacks are done; return False after timeout seconds."""
        latch = native.Latch()
        self.write_later(lambda _: None, lambda _: latch.open(), sync=False)
        return latch.wait(timeout)

    def read(self, query: Step[T]) -> T:
        """Return the query's return value. In WAL mode, never waits for a writer. Raises JournalError."""
        if not self._users:  # no file may stay open
            return self.write(query, sync=False)
        for _ in range(2):
            found = self._group_commit.read(query)
            if found is not None:
                return found[0]
            self.write(lambda _: None, sync=False)  # this opens the file
        raise self.failure(TimeoutError("the file was closed again and again"))

    def take_trouble(self) -> Exception | None:
        """Return an error that no step was told of, or None; each error is returned once.

        RemovedError: the journal was opened anew, because its files had been removed or replaced. Any other
        error: the WAL could not be copied back, which harms no step, and is tried again.
        """
        error, self._group_commit.trouble = self._group_commit.trouble, None
        return error

    def open(self) -> None:
        """Keep the file open from now on. Raises JournalError if it cannot be opened."""
        with self._lock:
            self._users += 1
            self._closing = False
            _open.add(self)
        try:
            self.write(lambda _: None, sync=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Undo one ``open``: the last call ends the threads, and closes the file when all is written.

        A later step is also written, and opens the file for that moment.
        """
        with self._lock:
            self._users -= 1
            self._closing = not self._users
        self._wake_thread()
        if self._closing:
            with suppress(RuntimeError):  # the file stays open
                self._have_thread()

    def _write_alone(self, write: Write) -> bool:
        """Write a step here and now, without waking a thread, if no other step waits or is being written."""
        if self._expected > 1 or self._writes or not self._users or not self._writing.acquire(blocking=False):
            return False
        try:
            database = self._group_commit.open()
            if not database.write_lock.try_acquire():
                return False
            try:
                self._group_commit.write(database, [write])
                self._group_commit.checkpoint(database)
            finally:
                database.write_lock.release()
        except RemovedError as error:  # the thread opens the files anew
            self._group_commit.trouble = error
            return False
        except (sqlite3.Error, OSError) as error:
            write.error = self.failure(error)
        finally:
            self._writing.release()
        self.transactions += 1
        return True

    def _wait_for(self, write: Write) -> None:
        latch = write.latch = native.Latch()
        self._put(write)
        why: Exception = TimeoutError(f"another process has been writing for {_PATIENCE:g} s")
        try:
            self._have_thread()
        except RuntimeError as error:
            why, written = error, False
        else:
            written = latch.wait(_PATIENCE)
        if not written:
            if self._withdraw(write):
                raise self.failure(why)
            latch.wait()  # the transaction of the step has just begun

    def _withdraw(self, write: Write) -> bool:
        try:
            self._writes.remove(write)
        except ValueError:
            return False
        return True

    def _put(self, write: Write) -> None:
        self._writes.append(write)
        if len(self._writes) >= self._wanted or (self._lingers and write.latch is not None):
            self._wake_thread()

    def _have_thread(self) -> None:
        """Start the thread if none runs. Raises RuntimeError if the process cannot start one now."""
        with self._lock:
            if self._running:
                return
            self._running = True
        try:
            native.start_thread(self._run, "background-journal")
        except RuntimeError:
            self._running = False
            raise

    def _run(self) -> None:
        """Write one transaction after the other, until the file has to be closed and no step is left."""
        left: list[Write] = []
        can_call_back = True
        try:
            while True:
                if left or not can_call_back:
                    self._wait(_BACKOFF)
                else:
                    self._gather()
                left = self._write_group(left)
                can_call_back = self._callbacks.have_thread()
                with self._lock:
                    if self._closing and can_call_back and not left and not self._writes:
                        self._running = False
                        self._callbacks.end_thread()
                        with self._writing:
                            self._group_commit.close()
                        _open.discard(self)
                        return
        except BaseException:  # the next thread goes on with these steps
            self._writes.extendleft(reversed(left))
            self._running = False
            raise

    def _gather(self) -> None:
        """Wait until there is a step to write, and a moment longer for callers expected to return."""
        self._wanted = 1
        if not self._writes and not self._closing:
            self._wait(-1)
        if 0 < len(self._writes) < self._expected:
            self._wanted = self._expected
            if len(self._writes) < self._expected:
                self._wait(_LINGER)
        self._wanted = math.inf
        if self._writes and not self._closing and all(write.latch is None for write in tuple(self._writes)):
            self._lingers = True
            self._wait(_COMPANY)
            self._lingers = False

    def _wait(self, timeout: float) -> None:
        self._signal.acquire(timeout=timeout)

    def _wake_thread(self) -> None:
        try:
            self._signal.release()
        except RuntimeError:
            pass  # the thread is awake already

    def _write_group(self, left: list[Write]) -> list[Write]:
        """Write all waiting steps in one transaction. Return the steps that have to be tried again."""
        writes = left
        try:
            try:
                self._write_waiting(writes)
            except RemovedError as error:
                self._group_commit.trouble = error
                self._write_waiting(writes)  # into files that are opened anew
        except Exception as error:
            writes += self._take_waiting()
            for write in writes:
                write.error = self.failure(error)
        left = []
        self.transactions += 1
        self._expected = sum(write.latch is not None for write in writes)
        for write in writes:
            if write.latch is not None:
                write.latch.open()
            elif write.error is None or not isinstance(write.error, JournalError):
                self._callbacks.put(write)
            else:
                write.error = None
                left.append(write)
        return left

    def _write_waiting(self, writes: list[Write]) -> None:
        with self._writing:
            database = self._group_commit.open()
            with database.write_lock:  # this may take a while: steps that come meanwhile are included
                writes += self._take_waiting()
                if writes:
                    self._group_commit.write(database, writes)
                    self._group_commit.checkpoint(database)

    def _take_waiting(self) -> list[Write]:
        """Return the steps that wait by now, for this transaction."""
        found: list[Write] = []
        while self._writes and len(found) < _MOST:
            try:
                found.append(self._writes.popleft())
            except IndexError:  # a caller has just withdrawn its step
                break
        return found
