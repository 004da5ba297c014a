"""A table of the runs in all processes of a worker, in memory that they share.

The worker's main process looks after the runs of its children by it: a run lives as long as its process does,
also where that computes in C and lets none of its threads run. The process of a run holds a record lock on
the run's row, which the kernel frees when the process dies, however that comes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flask_background.celery.records.base import RunId
from flask_background.concurrency import native

_ROWS = 4096
# Whether something runs; whether somebody wants its end; the app's number; the process; the item's id and the
# run's token.
_ROW = struct.Struct("BBHI24s16s")
_SIZE = 48


class Row(NamedTuple):
    """One run in a process of this worker."""

    number: int
    run: RunId
    home: str
    pid: int


class RunTable:
    """Made in the main process, before its children are forked."""

    def __init__(self, homes: Sequence[str]) -> None:
        """``homes``: the names of the apps whose items run here."""
        self._homes = list(homes)
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        # In the place of the first row: when the grace period ends, and when it began; 0 while nothing stops.
        os.truncate(self._file, _SIZE * (_ROWS + 1))
        self._memory = mmap.mmap(self._file, 0)
        self._main = os.getpid()
        self._lock = native.new_lock()

    @property
    def is_childs(self) -> bool:
        """Whether this process is one of the children."""
        return os.getpid() != self._main

    def close(self) -> None:
        """Nothing runs any more."""
        os.close(self._file)

    # The stop.

    def stop_in(self, seconds: float) -> None:
        """The stop has begun, and items have so many seconds; fewer than before, if so. For handlers, too."""
        now = time.monotonic()
        before = self.stops_at()
        if before is None:
            struct.pack_into("d", self._memory, 8, now)
        if before is None or now + seconds < before:
            struct.pack_into("d", self._memory, 0, now + seconds)

    def stops_at(self) -> float | None:
        """When the grace period ends (``time.monotonic()``); None while nothing stops."""
        (end,) = struct.unpack_from("d", self._memory, 0)
        return end or None

    def stop_began(self) -> float:
        """When the stop has begun (``time.monotonic()``); 0 while nothing stops."""
        return float(struct.unpack_from("d", self._memory, 8)[0])

    # For the process of a run.

    def begin(self, run: RunId, home: str) -> int:
        """Enter a run of this process; returns the number of its row."""
        values = self._homes.index(home), os.getpid(), run.item_id.encode(), run.token.encode()
        with self._lock:  # threads of one process do not keep each other out of a row
            for number, is_used in enumerate(self._used(), 1):
                if not is_used and self._try_lock(number):
                    _ROW.pack_into(self._memory, number * _SIZE, 0, 0, *values)
                    self._memory[number * _SIZE] = 1  # from here on the main process reads the rest
                    return number
        raise RuntimeError(f"more than {_ROWS} items run in this worker")

    def end(self, number: int) -> None:
        """The run is over."""
        self._memory[number * _SIZE] = 0
        self._unlock(number)

    def is_wanted(self, number: int) -> bool:
        """Whether somebody wants the run's end."""
        return bool(self._memory[number * _SIZE + 1])

    # For the main process.

    def rows(self) -> Iterator[Row]:
        """The runs of all processes, also of those that have died."""
        for number, is_used in enumerate(self._used(), 1):
            if is_used and (row := self.row(number)):
                yield row

    def row(self, number: int) -> Row | None:
        """The run in a row, if there is one."""
        is_used, _, home, pid, item_id, token = _ROW.unpack_from(self._memory, number * _SIZE)
        run = RunId(item_id.decode(), token.decode())
        return Row(number, run, self._homes[home], pid) if is_used else None

    def want(self, number: int) -> None:
        """Somebody wants the end of this row's run."""
        self._memory[number * _SIZE + 1] = 1

    def is_dead(self, row: Row) -> bool:
        """Whether the row's process has died; then the row is free, and this is said once."""
        if row.pid == os.getpid() or not self._try_lock(row.number):
            return False
        is_same = self.row(row.number) == row
        if is_same:
            self._memory[row.number * _SIZE] = 0
        self._unlock(row.number)
        return is_same

    def _used(self) -> bytes:
        """The first byte of each row: whether something runs."""
        return self._memory[_SIZE::_SIZE]

    def _try_lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def _unlock(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
