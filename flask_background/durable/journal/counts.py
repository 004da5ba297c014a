"""How many items the journal has, as functions on a connection.

Triggers of the journal count the items that have ended. Items in flight are counted in the index, because a
count in each transaction that enqueues or starts an item would cost more than a look now and then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.queries import FREE, free_executors, kinds, listed, select
from flask_background.durable.journal.row import ItemRow


class TaskCounts(NamedTuple):
    """The items of one task in the journal.

    ``late`` items wait although they were due before the given time; ``oldest`` is the least due time of an
    item that waits and is due, or None.
    """

    items: dict[Status, int]
    late: int = 0
    oldest: float | None = None


def task_counts(db: sqlite3.Connection, now: float, late_before: float) -> dict[str, TaskCounts]:
    """Return the counts of each task that has items."""
    found: dict[str, dict[Status, int]] = {}
    with_kinds, values = listed((Status.QUEUED, Status.RUNNING))
    in_flight = db.execute(
        f"{with_kinds} select task, status, (select count(*) from item indexed by item_listed"
        "  where task = kind.task and status = kind.status) from kind",
        values,
    ).fetchall()
    for task, status, count in [*in_flight, *db.execute("select task, status, items from ended").fetchall()]:
        if count > 0:
            found.setdefault(task, {})[Status(status)] = count
    waiting = []
    for executor in free_executors(db):
        waiting += db.execute(
            f"{kinds((executor,))} select task, (select min(due) from item indexed by item_free"
            f"   where {FREE} and executor = kind.executor and task = kind.task),"
            " (select count(*) from item indexed by item_free"
            f"   where {FREE} and executor = kind.executor and task = kind.task and due < ?)"
            " from kind where task is not null",
            (executor, late_before),
        ).fetchall()
    late: dict[str, int] = {}
    oldest: dict[str, float] = {}
    for task, due, count in waiting:
        late[task] = late.get(task, 0) + count
        if due <= now:
            oldest[task] = min(due, oldest.get(task, due))
    return {task: TaskCounts(items, late.get(task, 0), oldest.get(task)) for task, items in found.items()}


def last_failed(db: sqlite3.Connection, tasks: Collection[str]) -> list[ItemRow]:
    """Return the failed item of each of these tasks that was entered last."""
    rows: list[ItemRow] = []
    for task in tasks:
        rows += select(
            db,
            "indexed by item_listed where task = ? and status = 'failed' order by number desc limit 1",
            (task,),
        )
    return rows
