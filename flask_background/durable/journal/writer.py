"""The one writer of a process: all waiting steps are written in one transaction, with one sync.

A step is a function of the connection. The step of a view has to be on disk before the view goes on, or fail.
The outcome of a run must not be lost, so such a step is tried again until it is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from flask_background.concurrency import native
from flask_background.durable.journal.callbacks import Callbacks
from flask_background.durable.journal.database import Mode
from flask_background.durable.journal.failure import RemovedError
from flask_background.durable.journal.group_commit import GroupCommit, Step, Write
from flask_background.durable.journal.waiting_steps import WaitingSteps
from flask_background.errors import JournalError

T = TypeVar("T")

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
        self._steps = WaitingSteps()
        self._writing = native.new_lock()
        self._closing = True
        self._users = 0
        self._callbacks = Callbacks()
        self._running = False

    def write(
        self,
        step: Step[T],
        *,
        sync: bool = True,
        undo: Step[None] | None = None,
        patience: float = _PATIENCE,
    ) -> T:
        """Write a step, and return its return value. Raises JournalError if the step cannot be written.

        ``sync``: whether the step has to survive a power cut, at durability "power". ``undo``: a step to
        write if a signal or gevent's Timeout interrupts the wait too late to withdraw the first one.
        ``patience``: how long the step waits until its transaction begins, in seconds.
        """
        write = Write(step, sync)
        try:
            if not self._write_alone(write):
                self._wait_for(write, patience)
        except JournalError:
            raise
        except BaseException:
            if undo is not None and not self._steps.withdraw(write):
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
        self._steps.put(write)
        self.resume()

    def resume(self) -> None:
        """Write the steps for which no thread could be started before. To be called now and then."""
        if self._steps:
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
            self._closing = self._steps.hurries = False
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
            self._closing = self._steps.hurries = not self._users
        self._steps.wake_thread()
        if self._closing:
            with suppress(RuntimeError):  # the file stays open
                self._have_thread()

    def _write_alone(self, write: Write) -> bool:
        """Write a step here and now, without waking a thread, if no other step waits or is being written."""
        steps = self._steps
        if steps.expected > 1 or steps or not self._users or not self._writing.acquire(blocking=False):
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

    def _wait_for(self, write: Write, patience: float) -> None:
        latch = write.latch = native.Latch()
        self._steps.put(write)
        why: Exception = TimeoutError(f"another process has been writing for {patience:g} s")
        try:
            self._have_thread()
        except RuntimeError as error:
            why, written = error, False
        else:
            written = latch.wait(patience)
        if not written:
            if self._steps.withdraw(write):
                raise self.failure(why)
            latch.wait()  # the transaction of the step has just begun

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
                    self._steps.wait(_BACKOFF)
                else:
                    self._steps.gather()
                left = self._write_group(left)
                can_call_back = self._callbacks.have_thread()
                with self._lock:
                    if self._closing and can_call_back and not left and not self._steps:
                        self._running = False
                        self._callbacks.end_thread()
                        with self._writing:
                            self._group_commit.close()
                        _open.discard(self)
                        return
        except BaseException:  # the next thread goes on with these steps
            self._steps.put_back(left)
            self._running = False
            raise

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
            writes += self._steps.take()
            for write in writes:
                write.error = self.failure(error)
        left = []
        self.transactions += 1
        self._steps.expected = sum(write.latch is not None for write in writes)
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
                writes += self._steps.take()
                if writes:
                    self._group_commit.write(database, writes)
                    self._group_commit.checkpoint(database)
