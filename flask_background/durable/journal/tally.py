"""The tally: how many items ended in each minute, and how long they waited and ran.

A trigger of the journal counts durable items, in the transaction that ends them. Processes add the items of
their memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

#: How long the tally is kept, and for how long minute by minute; after that, in steps of so many minutes.
KEPT_MINUTES = 2 * 24 * 60
_FINE_MINUTES = 120
COARSE_STEP = 10
# Rows that are older by so many minutes are coarse already, unless no process of the app ran meanwhile.
_LATEST_MINUTES = 120
# How many rows one transaction makes coarser or deletes.
_MOST = 2_000


class TallyRow(NamedTuple):
    """Items of one task that ended in one minute (``time.time() // 60``) with one status.

    ``waited`` and ``ran`` are the numbers of buckets; ``ran`` is NO_RUN for items that did not run. The sums
    are in seconds.
    """

    minute: int
    task: str
    status: str
    waited: int
    ran: int
    items: int
    wait_seconds: float
    run_seconds: float


_ALL = ", ".join(TallyRow._fields)
_ADD = (
    " on conflict do update set items = items + excluded.items,"
    " wait_seconds = wait_seconds + excluded.wait_seconds, run_seconds = run_seconds + excluded.run_seconds"
)


def add(db: sqlite3.Connection, rows: Iterable[TallyRow]) -> None:
    """Add these items to the tally."""
    db.executemany(f"insert into tally ({_ALL}) values (?, ?, ?, ?, ?, ?, ?, ?){_ADD}", rows)


def read(db: sqlite3.Connection, first: int, last: int, step: int | None = None) -> list[TallyRow]:
    """Return the items that ended in these minutes, together for each step of so many minutes, or for all.

    The minute of a row is the first one of its step.
    """
    grouped = ":first" if step is None else "minute - (minute - :first) % :step"
    found = db.execute(
        f"select {grouped} as at, task, status, waited, ran, sum(items), sum(wait_seconds), sum(run_seconds)"
        " from tally where minute between :first and :last group by at, task, status, waited, ran",
        {"first": first, "last": last, "step": step},
    ).fetchall()
    return [TallyRow._make(row) for row in found]


def condense(db: sqlite3.Connection, now: float) -> bool:
    """Make old rows coarser, and delete very old ones; return whether there may be more to do."""
    minute = int(now // 60)
    gone = db.execute(
        "delete from tally where (minute, task, status, waited, ran) in"
        " (select minute, task, status, waited, ran from tally where minute < ? limit ?)",
        (minute - KEPT_MINUTES, _MOST),
    ).rowcount
    until = (minute - _FINE_MINUTES) // COARSE_STEP * COARSE_STEP
    found = db.execute(
        f"select {_ALL} from tally where minute between ? and ? and minute % ? != 0 limit ?",
        (until - _LATEST_MINUTES, until - 1, COARSE_STEP, _MOST),
    ).fetchall()
    rows = [TallyRow._make(row) for row in found]
    db.executemany(
        "delete from tally where minute = ? and task = ? and status = ? and waited = ? and ran = ?",
        [row[:5] for row in rows],
    )
    add(db, [row._replace(minute=row.minute // COARSE_STEP * COARSE_STEP) for row in rows])
    return _MOST in (gone, len(rows))
