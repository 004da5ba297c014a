"""Actions on many items of the journal, some at a time: other steps are written in between."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from flask_background.concurrency import native
from flask_background.core.status import Status
from flask_background.durable.journal import outbox, queries, statements
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.selection import select_ids, select_waiting_ids
from flask_background.durable.removal import BREATH

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from flask_background.durable.handles import Handles
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.runs import Runs
    from flask_background.durable.session import JournalSession

# How many items one transaction changes.
_MOST = 100

_LIVE = (Status.QUEUED, Status.RUNNING)
_RETRIED = (Status.FAILED, Status.CANCELLED)
_ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class BulkActions:
    """Cancels, retries and deletes items. Every method raises JournalError.

    ``items`` are ids, or conditions and perhaps a status; of these, only items that exist already count.
    """

    def __init__(self, session: JournalSession, handles: Handles, runs: Runs) -> None:
        self._session = session
        self._writer = session.writer
        self._handles = handles
        self._runs = runs

    def cancel(self, items: Sequence[str] | Conditions, status: Status | None = None) -> int:
        """Cancel queued items, and ask running ones to end; return how many. Leaves the outbox alone."""
        return sum(map(self._cancel_some, self._parts(items, status, _LIVE)))

    def waiting(self, conditions: Conditions) -> list[str]:
        """Return the ids of the items that wait in the outbox."""
        found = select_waiting_ids(self._writer, [Status.QUEUED], conditions, time.time())
        return [item_id for ids in found for item_id in ids]

    def cancel_waiting(self, item_ids: Sequence[str]) -> int:
        """Cancel items that wait in the outbox, of an app that has no other backend; return how many."""
        count = 0
        for ids in self._parts(item_ids, None, _LIVE):
            answers = self._writer.write(partial(_request_cancels_of_waiting, ids=ids, now=time.time()))
            count += len(answers)
        return count

    def retry(self, items: Sequence[str] | Conditions, status: Status | None = None) -> int:
        """Let items run again that have failed or were cancelled; return how many.

        An item whose key another item in flight has is left out.
        """
        count = 0
        for ids in self._parts(items, status, _RETRIED):
            retried = self._writer.write(partial(_retry, ids=ids, now=time.time()))
            if retried:
                self._session.wake_all()
            for handle in filter(None, map(self._handles.known, retried)):
                self._handles.get(handle.id)  # the handle doubts the end that it has seen
            count += len(retried)
        return count

    def delete(self, items: Sequence[str] | Conditions, status: Status | None = None) -> int:
        """Delete items that have ended, and their uploads; return how many."""
        count = 0
        for ids in self._parts(items, status, _ENDED):
            gone = self._writer.write(partial(_delete, ids=ids))
            for item_id in gone:
                self._session.uploads.forget(item_id)
            count += len(gone)
        return count

    def _parts(
        self, items: Sequence[str] | Conditions, status: Status | None, allowed: tuple[Status, ...]
    ) -> Iterator[list[str]]:
        """Return the ids in parts, each for one transaction, with a pause in between."""
        found: Iterable[list[str]]
        if isinstance(items, Conditions):
            statuses = [each for each in allowed if status in (None, each)]
            found = self._select(statuses, items) if statuses else ()
        else:
            found = [list(items)]
        is_first = True
        for ids in found:
            for start in range(0, len(ids), _MOST):
                if not is_first:
                    native.Latch().wait(BREATH)  # gevent's hub goes on meanwhile
                is_first = False
                yield ids[start : start + _MOST]

    def _select(self, statuses: list[Status], conditions: Conditions) -> Iterator[list[str]]:
        now = time.time()
        yield from select_ids(self._writer, statuses, conditions, now)
        yield from select_waiting_ids(self._writer, statuses, conditions, now)

    def _cancel_some(self, ids: list[str]) -> int:
        answers = self._writer.write(partial(_request_cancels, ids=ids, now=time.time()))
        asked = False
        for row, answer in answers:
            item = self._handles.known(row.id)
            if item is not None and item.here:
                self._runs.cancel_here(item)
            elif answer == "cancelled":
                self._handles.announce_end(row)
            else:
                asked = True
        if asked:
            self._session.wake_all()
        return len(answers)


def _request_cancels_of_waiting(db: sqlite3.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Cancel rows of the outbox, and return the ids of those that waited."""
    return [each for each in ids if outbox.request_cancel(db, each, now) is not None]


def _retry(db: sqlite3.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Let items run again, or wait in the outbox again; return the ids of those that do."""
    return [each for each in ids if statements.retry(db, each, now) or outbox.retry(db, each)]


def _delete(db: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Delete items that have ended, and return their ids."""
    return statements.delete(db, ids) + outbox.delete(db, ids)


def _request_cancels(db: sqlite3.Connection, ids: Sequence[str], now: float) -> list[tuple[ItemRow, str]]:
    """Cancel items, or request their ends; return their rows, and how each was answered."""
    answers: list[tuple[ItemRow, str]] = []
    for item_id in ids:
        answer = statements.request_cancel(db, item_id, now)
        if answer is not None and (row := queries.get(db, item_id)) is not None:
            answers.append((row, answer))
    return answers
