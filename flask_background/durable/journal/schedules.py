"""The schedules of periodic tasks, as functions on a connection; one process of all fires each."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.statements import insert

#: How the keys of periodic items begin: one of a task waits at most.
PERIODIC = "flask_background.periodic"


def schedule(db: sqlite3.Connection, name: str, spec: str, first: float) -> float:
    """Add a periodic task; return its next time, which is kept unless the spec has changed."""
    db.execute(
        "insert into schedule (name, spec, next) values (?, ?, ?) on conflict (name)"
        " do update set spec = excluded.spec, next = excluded.next where spec != excluded.spec",
        (name, spec, first),
    )
    return float(db.execute("select next from schedule where name = ?", (name,)).fetchone()[0])


def fire(db: sqlite3.Connection, name: str, planned: float, following: float, row: ItemRow) -> bool:
    """Enqueue a periodic task planned for this time, unless another process has.

    The time is left out if an item in flight has the row's key, or another periodic item of the task waits.
    """
    done = db.execute("update schedule set next = ? where name = ? and next = ?", (following, name, planned))
    if not done.rowcount:
        return False
    return enqueue(db, row)


def enqueue(db: sqlite3.Connection, row: ItemRow) -> bool:
    """Enter an item of a periodic task, unless another one waits, or an item in flight has the row's key."""
    waiting = db.execute(
        "select 1 from item indexed by item_key where task = ? and key between ? and ?"
        " and key is not null and status in ('queued', 'running')"  # the condition of the index
        " and status = 'queued' and (attempt = 0 or key = ?)",
        (row.task, PERIODIC, PERIODIC + "~", row.key),
    )
    if waiting.fetchone() is not None or insert(db, row) is not None:
        return False
    db.execute("update schedule set last = ?, last_id = ? where name = ?", (row.enqueued, row.id, row.task))
    return True


def reschedule(db: sqlite3.Connection, name: str, planned: float, following: float) -> None:
    """Change the planned time of a periodic task, if it is still ``planned``."""
    db.execute("update schedule set next = ? where name = ? and next = ?", (following, name, planned))


class ScheduleRow(NamedTuple):
    """One periodic task. ``last``: when an item of the task was enqueued last, and ``last_id`` that item."""

    name: str
    spec: str
    next: float
    last: float | None
    last_id: str | None


def schedules(db: sqlite3.Connection) -> list[ScheduleRow]:
    """Return all periodic tasks that any process has had."""
    found = db.execute("select name, spec, next, last, last_id from schedule").fetchall()
    return [ScheduleRow._make(row) for row in found]
