"""The tally: how many items ended in each minute, and how long they waited and ran.

A trigger of the journal counts durable items, in the transaction that ends them. Processes add the items of
their memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

#: How long the tally is kept, in minutes.
KEPT_MINUTES = 2 * 24 * 60
#: The length of the steps, in minutes, in which older parts of the tally are kept, and much older ones.
STEP, COARSE_STEP = 5, 30
# How old a minute is when it becomes a part of a step, and how old a step is when it becomes one of a coarse
# step, in minutes; each time that far back rows are looked at.
_FINE, _FINER = 15, 200
_BACK = 90
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


def read(db: sqlite3.Connection, first: int, last: int, step: int) -> list[TallyRow]:
    """Return the items that ended in these minutes, as rows of steps of so many minutes.

    The minute of a row is the first one of its step. A step may have several rows for the same items.
    """
    minute = "minute - (minute - :first) % :step"
    # Most rows are those of a step anyway, and SQLite takes longer to group them than the caller to add them.
    grouped = (
        f"select {minute} as at, task, status, waited, ran, sum(items), sum(wait_seconds), sum(run_seconds)"
        " from tally where minute between :first and :last group by at, task, status, waited, ran"
    )
    plain = (
        f"select {minute}, task, status, waited, ran, items, wait_seconds, run_seconds"
        " from tally where minute between :first and :last"
    )
    found = db.execute(
        plain if step <= STEP else grouped, {"first": first, "last": last, "step": step}
    ).fetchall()
    return [TallyRow._make(row) for row in found]


def condense(db: sqlite3.Connection, now: float) -> bool:
    """Make older rows coarser, and delete very old ones; return whether there may be more to do."""
    minute = int(now // 60)
    gone = db.execute(
        "delete from tally where (minute, task, status, waited, ran) in"
        " (select minute, task, status, waited, ran from tally where minute < ? limit ?)",
        (minute - KEPT_MINUTES, _MOST),
    ).rowcount
    counts = [gone, _merge(db, minute - _FINE, STEP), _merge(db, minute - _FINER, COARSE_STEP)]
    return _MOST in counts


def _merge(db: sqlite3.Connection, until: int, step: int) -> int:
    """Make rows before a minute parts of steps; return how many rows that were."""
    until -= until % step
    found = db.execute(
        f"select {_ALL} from tally where minute between ? and ? and minute % ? != 0 limit ?",
        (until - _BACK, until - 1, step, _MOST),
    ).fetchall()
    rows = [TallyRow._make(row) for row in found]
    db.executemany(
        "delete from tally where minute = ? and task = ? and status = ? and waited = ? and ran = ?",
        [row[:5] for row in rows],
    )
    add(db, [row._replace(minute=row.minute - row.minute % step) for row in rows])
    return len(rows)
