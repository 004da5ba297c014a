"""Queries about items that wait or run for long, as functions on a connection. None scans the table."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.queries import FREE, free_executors, kinds, listed

#: The highest number of waiting items of one task that is counted.
MOST = 10_000
# How many running items of one task are looked at, those enqueued first.
_MOST_RUNNING = 1_000


class Waiting(NamedTuple):
    """The items of one task and executor that are due and wait; ``oldest`` is the least due time.

    ``items`` and ``late`` are at most MOST.
    """

    task: str
    executor: str
    oldest: float
    items: int
    late: int


class Running(NamedTuple):
    """One item that runs. ``started`` is ``time.time()``; ``options`` is JSON."""

    id: str
    task: str
    options: str
    owner: str
    started: float


def waiting(db: sqlite3.Connection, now: float, late_before: float) -> list[Waiting]:
    """Return what waits, in the journal or in the processes that have claimed it.

    ``late_before``: items that were due before this time are late.
    """
    found: list[Waiting] = []
    for executor in free_executors(db):
        rows = db.execute(
            f"{kinds((executor,))} select task, executor,"
            f" (select min(due) from item indexed by item_free where {FREE}"
            "   and executor = kind.executor and task = kind.task),"
            f" (select count(*) from (select 1 from item indexed by item_free where {FREE}"
            "   and executor = kind.executor and task = kind.task and due <= ? limit ?)),"
            f" (select count(*) from (select 1 from item indexed by item_free where {FREE}"
            "   and executor = kind.executor and task = kind.task and due < ? limit ?))"
            " from kind where task is not null",
            (executor, now, MOST, late_before, MOST),
        )
        found += [Waiting._make(row) for row in rows if row[2] <= now]
    claimed = db.execute(
        "select task, executor, min(due), count(*), sum(due < ?) from item indexed by item_owned"
        " where owner is not null and status = 'queued' and due <= ? group by task, executor",
        (late_before, now),
    )
    found += [Waiting._make(row) for row in claimed]
    return _together(found)


def _together(found: list[Waiting]) -> list[Waiting]:
    """Return one entry for each task and executor."""
    parts: defaultdict[tuple[str, str], list[Waiting]] = defaultdict(list)
    for entry in found:
        parts[entry.task, entry.executor].append(entry)
    return [
        Waiting(
            task,
            executor,
            min(entry.oldest for entry in entries),
            min(MOST, sum(entry.items for entry in entries)),
            min(MOST, sum(entry.late for entry in entries)),
        )
        for (task, executor), entries in sorted(parts.items())
    ]


def running(db: sqlite3.Connection) -> list[Running]:
    """Return the items that run."""
    with_kinds, values = listed([Status.RUNNING])
    found = db.execute(
        f"{with_kinds} select id, item.task, options, owner, started from kind cross join item"
        " where item.number in (select number from item indexed by item_listed"
        "  where task = kind.task and status = kind.status order by number limit :limit)"
        " and owner is not null and started is not null",
        {**values, "limit": _MOST_RUNNING},
    )
    return [Running._make(row) for row in found.fetchall()]


def outbox_oldest(db: sqlite3.Connection) -> float | None:
    """Return when the item was enqueued that has waited longest in the outbox; None if none waits."""
    found = db.execute(
        "select enqueued from outbox indexed by outbox_waiting"
        " where status in ('queued', 'cancelled') and owner is null order by attempts, number limit 1"
    ).fetchone()
    return None if found is None else float(found[0])
