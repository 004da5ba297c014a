"""The queries of the journal, as functions on a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from flask_background.core.status import Status
from flask_background.durable.journal.row import COLUMNS, ItemRow

ALL = ", ".join(COLUMNS)


def get(db: sqlite3.Connection, item_id: str) -> ItemRow | None:
    """Return the item with this id, or None."""
    return next(iter(select(db, "where id = ?", (item_id,))), None)


def rows(
    db: sqlite3.Connection, status: Status | None = None, task: str | None = None, limit: int = 1_000
) -> list[ItemRow]:
    """Return the items enqueued last, oldest first."""
    found = select(
        db,
        "where (:status is null or status = :status) and (:task is null or task = :task)"
        " order by enqueued desc limit :limit",
        {"status": None if status is None else str(status), "task": task, "limit": limit},
    )
    return found[::-1]


def stats(db: sqlite3.Connection) -> dict[Status, int]:
    """Return the numbers of items, by status."""
    return {
        Status(status): count for status, count in db.execute("select status, count(*) from item group by 1")
    }


def cancels(db: sqlite3.Connection, owner: str) -> list[str]:
    """Return the ids of the owner's items whose end was requested."""
    return [item_id for (item_id,) in db.execute("select id from item where owner = ? and cancel", (owner,))]


def next_due(
    db: sqlite3.Connection, now: float, executors: Collection[str], periodic: Collection[str]
) -> float | None:
    """Return when the next free item of these executors, or periodic task of these, is due after now."""
    free = "select min(due) from item where executor = ? and status = 'queued' and owner is null and due > ?"
    names = ", ".join("?" * len(periodic))
    found = db.execute(
        f"{f'{free} union all ' * len(executors)}"  # one index look-up for each
        f"select min(next) from schedule where next > ? and name in ({names})",
        (*(value for name in executors for value in (name, now)), now, *periodic),
    )
    return min((due for (due,) in found if due is not None), default=None)


def owners(db: sqlite3.Connection) -> list[str]:
    """Return all processes that have claimed items or rows of the outbox."""
    found = db.execute(
        "select owner from item where owner is not null"
        " union select owner from outbox where owner is not null"
    )
    return [owner for (owner,) in found]


def is_free(db: sqlite3.Connection, tasks: Collection[str], now: float, executors: Collection[str]) -> bool:
    """Return whether there is an item to claim, of one of these tasks, for one of these executors."""
    known, named = ", ".join("?" * len(tasks)), ", ".join("?" * len(executors))
    found = db.execute(
        f"select 1 from item where status = 'queued' and owner is null and due <= ? and task in ({known})"
        f" and executor in ({named}) limit 1",
        (now, *tasks, *executors),
    )
    return found.fetchone() is not None


def unknown(
    db: sqlite3.Connection, tasks: Collection[str], executors: Collection[str], now: float
) -> list[ItemRow]:
    """Return free items that are due, of tasks other than these, or for executors other than these."""
    known, named = ", ".join("?" * len(tasks)), ", ".join("?" * len(executors))
    return select(
        db,
        "where status = 'queued' and owner is null and due <= ?"
        f" and (task not in ({known}) or executor not in ({named})) limit 100",
        (now, *tasks, *executors),
    )


def planned(db: sqlite3.Connection, now: float) -> dict[str, float]:
    """Return the periodic tasks that are due, with their planned times."""
    return dict(db.execute("select name, next from schedule where next <= ?", (now,)).fetchall())


def select(db: sqlite3.Connection, where: str, values: Any) -> list[ItemRow]:
    """Return the items that fulfil this SQL clause."""
    return [to_row(row) for row in db.execute(f"select {ALL} from item {where}", values).fetchall()]


def to_row(row: Sequence[Any]) -> ItemRow:
    """Return an ItemRow from the values of all columns, in their order."""
    row = ItemRow._make(row)
    return row._replace(status=Status(row.status))
