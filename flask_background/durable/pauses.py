"""The pauses of tasks and executors, as one process knows them: their durable items wait.

No process claims an item of a paused task or executor, and no run of one begins: not even of an item that a
process had claimed before. The process looks for changes before each run, so a pause holds everywhere as soon
as ``pause`` has returned.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from flask_background.durable.journal import pauses
from flask_background.durable.journal.pauses import KINDS, PauseMark, PauseRow
from flask_background.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask_background.durable.session import JournalSession

# How often the pauses are read if no change was told, in seconds.
_NET = 5.0


class _Known(NamedTuple):
    """The pauses that were read last, and the content of the mark before that."""

    mark: bytes
    rows: frozenset[PauseRow]
    tasks: frozenset[str]
    executors: frozenset[str]


class Pauses:
    """The pauses of one app. Raises JournalError if the journal's folder cannot be used."""

    def __init__(self, session: JournalSession) -> None:
        self._session = session
        self._writer = session.writer
        try:
            self._mark = PauseMark(self._writer.folder)
        except OSError as error:
            raise self._writer.failure(error) from error
        # One attribute, because several threads may read the pauses at the same time. No mark is like this
        # one, so the pauses are read before the first run.
        self._known = _Known(b"none", frozenset(), frozenset(), frozenset())
        self._read_at = 0.0
        self._told = self._own = self._known.rows

    @property
    def any(self) -> bool:
        """Whether this process knows of a pause."""
        return bool(self._known.rows)

    def holds(self, task: str, executor: str) -> bool:
        """Return whether an item has to wait at this moment. Looks at one small file."""
        if self._mark.read() != self._known.mark:
            try:
                self.refresh()
            except JournalError:  # the maintenance thread logs it; what was known holds until then
                self._session.wake_self()
        known = self._known
        return task in known.tasks or executor in known.executors

    def refresh(self) -> None:
        """Read the pauses from the journal. Raises JournalError."""
        mark = self._mark.read()  # before the pauses: a change in between is then seen at the next look
        rows = self.rows()
        tasks, executors = (frozenset(row.name for row in rows if row.kind == kind) for kind in KINDS)
        self._known, self._read_at = _Known(mark, frozenset(rows), tasks, executors), monotonic()

    def take_new(self) -> frozenset[PauseRow]:
        """Return the pauses that other processes made, and that no earlier call has returned; for the log."""
        before, self._told = self._told, self._known.rows
        return self._told - before - self._own

    def look(self) -> None:
        """Read the pauses if they may have changed; called now and then. Raises JournalError or OSError."""
        self._mark.restore()
        is_old = monotonic() - self._read_at >= _NET  # the process that made the change may have died
        if is_old or self._mark.read() != self._known.mark:
            self.refresh()

    def close(self) -> None:
        """Look at the mark no more: no run begins any more in this process."""
        self._mark.close()

    def rows(self) -> list[PauseRow]:
        """Return all pauses. Raises JournalError."""
        return self._writer.read(pauses.pauses)

    def add(self, kind: str, name: str, by: str | None) -> bool:
        """Pause a task or an executor; return False if it was paused already. Raises JournalError."""
        row = PauseRow(kind, name, time.time(), by)
        self._own |= {row}  # before the journal has it, because the maintenance thread may read it at once
        return self._change(self._writer.write(partial(pauses.pause, row=row)))

    def remove(self, kind: str, name: str) -> bool:
        """End a pause; return False if there was none. Raises JournalError."""
        return self._change(self._writer.write(partial(pauses.resume, kind=kind, name=name)))

    def free_tasks(self, names: Iterable[str]) -> list[str]:
        """Return those of these tasks that are not paused."""
        return [name for name in list(names) if name not in self._known.tasks]

    def free_executors(self, names: Iterable[str]) -> list[str]:
        """Return those of these executors that are not paused."""
        return [name for name in names if name not in self._known.executors]

    def _change(self, changed: bool) -> bool:
        with suppress(OSError):  # the other processes then learn of the change when they are woken
            self._mark.change()
        self.refresh()
        self._session.wake_all()
        return changed
