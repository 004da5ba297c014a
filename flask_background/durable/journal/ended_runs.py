"""The runs of items that were not their last, as functions on a connection.

The last run of an item is in the item's own row. When an operator retries the item, a trigger of the journal
makes that run one of the earlier ones; another trigger deletes the runs with their item.
"""

from __future__ import annotations

import sqlite3
from typing import Literal, NamedTuple


class EndedRun(NamedTuple):
    """One run. Times are ``time.time()``; ``error`` and ``reason`` are as in ItemRow."""

    attempt: int
    started: float | None
    finished: float
    how: str
    error: str | None
    reason: str | None


_ALL = ", ".join(EndedRun._fields)


def record(
    db: sqlite3.Connection,
    item_id: str,
    fence: int,
    how: Literal["failed", "crashed", "interrupted"],
    now: float,
    error: str | None = None,
) -> None:
    """Record the end of the run that the item's row is of, unless another process has claimed the item."""
    db.execute(
        f"insert into ended_run (id, {_ALL}) select id, attempt, started, ?, ?, ?, null from item"
        " where id = ? and fence = ? and status = 'running'",
        (now, how, error, item_id, fence),
    )


def record_unknown(db: sqlite3.Connection, item_id: str, attempt: int, now: float) -> None:
    """Record a run whose process died before the journal knew that the run had begun."""
    db.execute(
        f"insert into ended_run (id, {_ALL}) values (?, ?, null, ?, 'crashed', null, null)",
        (item_id, attempt, now),
    )


def ended_runs(db: sqlite3.Connection, item_id: str) -> list[EndedRun]:
    """Return the earlier runs of an item, the oldest first."""
    found = db.execute(f"select {_ALL} from ended_run where id = ? order by number", (item_id,)).fetchall()
    return [EndedRun._make(row) for row in found]
