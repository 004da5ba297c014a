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

# Up to so many items are counted for a count that may prove useless.
_FEW = 1_000


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
    free = _free(db)
    claimed = dict(
        db.execute(
            "select task, count(*) from item indexed by item_owned"
            " where owner is not null and status = 'queued' group by task"
        ).fetchall()
    )
    result = {}
    for task, items in found.items():
        due = min((due for _, due in free.get(task, ())), default=None)
        executors = [executor for executor, _ in free.get(task, ())]
        waiting = items.get(Status.QUEUED, 0) - claimed.get(task, 0)
        late = _count_late(db, task, executors, waiting, late_before)
        result[task] = TaskCounts(items, late, due if due is not None and due <= now else None)
    return result


def _free(db: sqlite3.Connection) -> dict[str, list[tuple[str, float]]]:
    """Return the executors for which free items of each task wait, and the least due times."""
    found: dict[str, list[tuple[str, float]]] = {}
    for executor in free_executors(db):
        for task, due in db.execute(
            f"{kinds((executor,))} select task, (select min(due) from item indexed by item_free where {FREE}"
            "  and executor = kind.executor and task = kind.task) from kind where task is not null",
            (executor,),
        ).fetchall():
            found.setdefault(task, []).append((executor, due))
    return found


def _count_late(
    db: sqlite3.Connection, task: str, executors: Collection[str], waiting: int, late_before: float
) -> int:
    """Return how many of the waiting items of a task were due before a time."""
    select = f"select 1 from item indexed by item_free where {FREE} and executor = ? and task = ? and due"
    on_time: list[int] = []
    for executor in executors:
        found = db.execute(
            f"select count(*) from ({select} >= ? limit {_FEW})", (executor, task, late_before)
        ).fetchone()
        on_time.append(found[0])
    if all(count < _FEW for count in on_time):  # of a long queue either few items are on time, or few late
        return max(0, waiting - sum(on_time))
    late = 0
    for executor in executors:
        (count,) = db.execute(
            f"select count(*) from ({select} < ?)", (executor, task, late_before)
        ).fetchone()
        late += int(count)
    return late


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
