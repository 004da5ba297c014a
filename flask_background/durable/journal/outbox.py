"""The outbox: rows that wait here until Celery can be reached, as functions on a connection, as in store.py.

They are rows as any others, of an executor that no process has. One that is cancelled stays until that is
known in the cluster as well, where a message of it may have arrived. What was handed over is deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from flask_background.core.settings import OUTBOX
from flask_background.durable.journal.queries import ALL, select, to_entry
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.statements import park

# As the index has it.
_WAITS = f"executor = '{OUTBOX}' and status in ('queued', 'cancelled') and owner is null"


def is_waiting(db: sqlite3.Connection) -> bool:
    """Whether there is something to hand over that no process has claimed."""
    return db.execute(f"select 1 from item where {_WAITS} limit 1").fetchone() is not None


def claim(db: sqlite3.Connection, owner: str, limit: int) -> list[ItemRow]:
    """Take some, whether they are due or not; last those that could not be handed over before."""
    rows = db.execute(
        f"update item set owner = ?, fence = fence + 1 where number in"
        f" (select number from item where {_WAITS} order by attempt, number limit ?) returning {ALL}",
        (owner, limit),
    ).fetchall()
    return sorted(map(to_entry, rows), key=lambda entry: (entry.attempt, entry.enqueued))


def settle(
    db: sqlite3.Connection, owner: str, claimed: Sequence[ItemRow], handed_over: Collection[str], now: float
) -> list[ItemRow]:
    """Let go of those that Celery has now, by their ids, and let any process claim the rest.

    What somebody has wanted to end meanwhile has been cancelled, and is returned; unless Celery has it now:
    then it stays, for that is to be told.
    """
    ended = []
    for entry in claimed:
        values = {"id": entry.id, "fence": entry.fence, "cancel": entry.cancel, "now": now}
        if entry.id in handed_over:
            db.execute("delete from item where id = :id and fence = :fence and cancel = :cancel", values)
        elif not entry.cancel:
            db.execute(
                "update item set status = 'cancelled', finished = :now, cancel = 0"
                " where id = :id and fence = :fence and cancel and status = 'queued'",
                values,
            )
            ended += select(db, "where id = :id and finished = :now", values)
    db.execute("update item set owner = null where owner = ? and executor = ?", (owner, OUTBOX))
    return ended


def refuse(db: sqlite3.Connection, entry: ItemRow, reason: str, attempts: int, now: float) -> bool:
    """It could not be handed over, for a reason of its own; says whether that was the last attempt."""
    if entry.attempt + 1 < attempts:
        db.execute(
            "update item set attempt = attempt + 1 where id = ? and fence = ?", (entry.id, entry.fence)
        )
        return False
    return park(db, entry.id, entry.fence, reason, now)
