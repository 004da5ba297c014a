"""The queries of the journal, as functions on a connection.

None scans the table, which may have millions of rows: views ask some of these questions, and all questions
of a process share one connection. An index has few different tasks and executors, so a query finds these
first, each by one step into the index, and then takes the rows of each.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from flask_background.core.status import Status
from flask_background.durable.journal.row import COLUMNS, ItemRow

ALL = ", ".join(COLUMNS)
#: The condition of the index of free items.
FREE = "status = 'queued' and owner is null"
_STATUSES = {str(status): status for status in Status}
_STATUS = COLUMNS.index("status")
# How many rows of one task that no process can run are looked at.
_MOST_UNKNOWN = 100


def get(db: sqlite3.Connection, item_id: str) -> ItemRow | None:
    """Return the item with this id, or None."""
    return next(iter(select(db, "where id = ?", (item_id,))), None)


def rows(
    db: sqlite3.Connection, status: Status | None = None, task: str | None = None, limit: int = 1_000
) -> list[ItemRow]:
    """Return the items entered last, oldest first."""
    if status is None and task is None:
        found = select(db, "order by number desc limit ?", (limit,))
    else:
        statuses = list(Status) if status is None else [status]
        with_kinds, values = listed(statuses, task)
        found = select(
            db,
            f"where number in ({with_kinds} select item.number from kind cross join item"
            "  where item.number in (select number from item indexed by item_listed"
            "   where task = kind.task and status = kind.status order by number desc limit :limit)"
            " ) order by number desc limit :limit",
            {**values, "limit": limit},
        )
    found.reverse()
    return sorted(found, key=lambda row: row.enqueued)


def listed(statuses: Collection[Status], task: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return SQL for a table ``kind`` of all tasks, or one, with each of these statuses; and its values."""
    names = {f"status_{number}": str(status) for number, status in enumerate(statuses)}
    tasks = (
        "select min(task) from item union all"
        " select (select min(task) from item where task > named.task) from named where task is not null"
    )
    return (
        f"with recursive named (task) as ({tasks if task is None else 'values (:task)'}),"
        f" wanted (status) as (values {', '.join(f'(:{name})' for name in names)}),"
        " kind (task, status) as (select task, status from named, wanted where task is not null)",
        {**names, "task": task},
    )


def stats(db: sqlite3.Connection) -> dict[Status, int]:
    """Return the numbers of items, by status."""
    counts: Counter[Status] = Counter()
    for status, count in db.execute("select status, count(*) from item group by task, status"):
        counts[Status(status)] += count
    return counts


def cancels(db: sqlite3.Connection, owner: str) -> list[str]:
    """Return the ids of the owner's items whose end was requested."""
    return [item_id for (item_id,) in db.execute("select id from item where owner = ? and cancel", (owner,))]


def next_due(
    db: sqlite3.Connection, now: float, executors: Collection[str], periodic: Collection[str]
) -> float | None:
    """Return when the next free item of these executors, or periodic task of these, is due after now."""
    names = ", ".join("?" * len(periodic))
    (task_due,) = db.execute(
        f"select min(next) from schedule where next > ? and name in ({names})", (now, *periodic)
    ).fetchone()
    item_due = None
    if executors:
        (item_due,) = db.execute(
            f"{kinds(executors)} select min((select min(due) from item indexed by item_free where {FREE}"
            " and executor = kind.executor and task = kind.task and due > ?)) from kind",
            (*executors, now),
        ).fetchone()
    return min((due for due in (task_due, item_due) if due is not None), default=None)


def kinds(executors: Collection[str]) -> str:
    """Return SQL for a table ``kind`` of the executors, and the tasks of which each has free items.

    The statement's first values are the executors.
    """
    first = f"select min(task) from item indexed by item_free where {FREE} and executor = "
    return (
        f"with recursive named (executor) as (values {', '.join(['(?)'] * len(executors))}),"
        " kind (executor, task) as ("
        f"select executor, ({first} named.executor) from named union all"
        f" select executor, ({first} kind.executor and task > kind.task) from kind where task is not null)"
    )


def free_executors(db: sqlite3.Connection) -> list[str]:
    """Return the executors of all free items."""
    named = db.execute(
        "with recursive named (executor) as ("
        f"select min(executor) from item indexed by item_free where {FREE} union all"
        f" select (select min(executor) from item indexed by item_free where {FREE}"
        " and executor > named.executor) from named where executor is not null)"
        " select executor from named where executor is not null"
    )
    return [executor for (executor,) in named]


def owners(db: sqlite3.Connection) -> list[str]:
    """Return all processes that have claimed items or rows of the outbox."""
    found = db.execute(
        "select owner from item where owner is not null"
        " union select owner from outbox where owner is not null"
    )
    return [owner for (owner,) in found]


def is_free(db: sqlite3.Connection, tasks: Collection[str], now: float, executors: Collection[str]) -> bool:
    """Return whether there is an item to claim, of one of these tasks, for one of these executors."""
    if not executors:
        return False
    known = ", ".join("?" * len(tasks))
    found = db.execute(
        f"{kinds(executors)} select 1 from kind where task in ({known}) and (select min(due) from item"
        f" indexed by item_free where {FREE} and executor = kind.executor and task = kind.task) <= ? limit 1",
        (*executors, *tasks, now),
    )
    return found.fetchone() is not None


def unknown(
    db: sqlite3.Connection, tasks: Collection[str], executors: Collection[str], now: float
) -> list[ItemRow]:
    """Return free items that are due, of tasks other than these, or for executors other than these.

    Of each such task some items are returned, first those that have waited longest.
    """
    found: list[ItemRow] = []
    for executor in free_executors(db):
        all_tasks = db.execute(
            f"{kinds((executor,))} select task from kind where task is not null", (executor,)
        )
        for (task,) in all_tasks.fetchall():
            if task not in tasks or executor not in executors:
                found += select(
                    db,
                    f"indexed by item_free where {FREE} and executor = ? and task = ? and due <= ?"
                    " order by due limit ?",
                    (executor, task, now, _MOST_UNKNOWN),
                )
    return found


def enqueued_later(
    db: sqlite3.Connection, now: float, after: str, limit: int
) -> tuple[list[str], str | None]:
    """Return free items without a delay that were enqueued after now, when the clock was ahead.

    Looks at ``limit`` items with higher ids than ``after``; also returns the last id, or None at the end.
    """
    found = db.execute(
        f"select id, {FREE} and due > ? and due <= enqueued from item where id > ? order by id limit ?",
        (now, after, limit),
    ).fetchall()
    ids = [item_id for item_id, is_ahead in found if is_ahead]
    return ids, found[-1][0] if len(found) == limit else None


def planned(db: sqlite3.Connection, now: float) -> dict[str, float]:
    """Return the periodic tasks that are due, with their planned times."""
    return dict(db.execute("select name, next from schedule where next <= ?", (now,)).fetchall())


def select(db: sqlite3.Connection, where: str, values: Any) -> list[ItemRow]:
    """Return the items that fulfil this SQL clause."""
    return [to_row(row) for row in db.execute(f"select {ALL} from item {where}", values).fetchall()]


def to_row(row: Sequence[Any]) -> ItemRow:
    """Return an ItemRow from the values of all columns, in their order."""
    return ItemRow._make((*row[:_STATUS], _STATUSES[row[_STATUS]], *row[_STATUS + 1 :]))
