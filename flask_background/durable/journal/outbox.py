"""The table of items that wait to be forwarded to another backend, as functions on a connection.

As in statements.py, each function works within a transaction that its caller opens. A cancelled row stays
until the backend knows of the cancellation, because a message of the item may have arrived there. A forwarded
row is deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.row import ItemRow

#: Stands for the executor of such an item in lists of items.
OUTBOX = "outbox"


class OutboxRow(NamedTuple):
    """One row. Times are ``time.time()``. The journal does not read ``payload``, ``options``, ``state``."""

    id: str
    task: str
    payload: str
    options: str
    state: str | None
    #: The time before which the item must not start; None: at once.
    due: float | None
    enqueued: float
    status: Status = Status.QUEUED
    #: The process that is forwarding the item, and how many processes have claimed it so far.
    owner: str | None = None
    fence: int = 0
    #: How often the backend has refused the item.
    attempts: int = 0
    #: Whether the item's end was requested while it is being forwarded.
    cancel: bool = False
    finished: float | None = None
    #: Why the item has failed.
    reason: str | None = None
    description: str | None = None

    def as_item(self) -> ItemRow:
        """Return the row as an ItemRow, for lists of items."""
        return ItemRow(
            id=self.id,
            task=self.task,
            executor=OUTBOX,
            options=self.options,
            payload=self.payload,
            state=self.state,
            status=self.status,
            max_crashes=0,
            due=self.enqueued if self.due is None else self.due,
            enqueued=self.enqueued,
            owner=self.owner,
            finished=self.finished,
            reason=self.reason,
            description=self.description,
        )


_ALL = ", ".join(OutboxRow._fields)
# The condition of the index.
_WAITS = "status in ('queued', 'cancelled') and owner is null"


def insert(db: sqlite3.Connection, row: OutboxRow) -> None:
    """Add a waiting item."""
    db.execute(f"insert into outbox ({_ALL}) values ({', '.join('?' * len(row))})", row)


def get(db: sqlite3.Connection, item_id: str) -> OutboxRow | None:
    """Return the item with this id, if it waits or has ended here."""
    return next(iter(_select(db, "where id = ?", (item_id,))), None)


def rows(
    db: sqlite3.Connection, status: Status | None = None, task: str | None = None, limit: int = 1_000
) -> list[OutboxRow]:
    """Return the items enqueued last, oldest first."""
    found = _select(
        db,
        "where (:status is null or status = :status) and (:task is null or task = :task)"
        " order by number desc limit :limit",
        {"status": None if status is None else str(status), "task": task, "limit": limit},
    )
    return found[::-1]


def stats(db: sqlite3.Connection) -> dict[Status, int]:
    """Return the numbers of items, by status."""
    found = db.execute("select status, count(*) from outbox group by 1")
    return {Status(status): count for status, count in found}


def is_waiting(db: sqlite3.Connection) -> bool:
    """Return whether there is a row to forward that no process has claimed."""
    return db.execute(f"select 1 from outbox where {_WAITS} limit 1").fetchone() is not None


def count_waiting(db: sqlite3.Connection) -> int:
    """Return how many rows wait to be forwarded."""
    (count,) = db.execute(f"select count(*) from outbox indexed by outbox_waiting where {_WAITS}").fetchone()
    return int(count)


def claim(db: sqlite3.Connection, owner: str, limit: int) -> list[OutboxRow]:
    """Claim some rows, due or not: first those that were never refused, in the order of their arrival."""
    found = db.execute(
        "update outbox set owner = ?, fence = fence + 1 where number in"
        f" (select number from outbox where {_WAITS} order by attempts, number limit ?) returning {_ALL}",
        (owner, limit),
    ).fetchall()
    return sorted(map(_to_row, found), key=lambda row: (row.attempts, row.enqueued))


def settle(
    db: sqlite3.Connection, owner: str, claimed: Sequence[OutboxRow], forwarded: Collection[str], now: float
) -> list[OutboxRow]:
    """Delete the forwarded rows, given by id, and let any process claim the others.

    A row whose end was requested meanwhile is cancelled, and returned. If the backend has its item, the row
    stays, because the backend still has to learn of the cancellation.
    """
    ended = []
    for row in claimed:
        values = {"id": row.id, "fence": row.fence, "cancel": row.cancel, "now": now}
        if row.id in forwarded:
            db.execute("delete from outbox where id = :id and fence = :fence and cancel = :cancel", values)
        elif not row.cancel:
            db.execute(
                "update outbox set status = 'cancelled', finished = :now, cancel = 0"
                " where id = :id and fence = :fence and cancel and status = 'queued'",
                values,
            )
            ended += _select(db, "where id = :id and finished = :now", values)
    recover(db, owner)
    return ended


def refuse(db: sqlite3.Connection, row: OutboxRow, reason: str, attempts: int, now: float) -> bool:
    """Count a refusal of an item by the backend; return whether that was the last attempt."""
    values = {"id": row.id, "fence": row.fence, "reason": reason, "now": now}
    if row.attempts + 1 < attempts:
        db.execute("update outbox set attempts = attempts + 1 where id = :id and fence = :fence", values)
        return False
    done = db.execute(
        "update outbox set status = 'failed', reason = :reason, finished = :now, owner = null"
        " where id = :id and fence = :fence and status = 'queued'",
        values,
    )
    return bool(done.rowcount)


def request_cancel(db: sqlite3.Connection, item_id: str, now: float) -> Literal["cancelled", "asked"] | None:
    """Cancel a waiting row, or mark one that is being forwarded; return None if none is queued."""
    done = db.execute(
        "update outbox set status = 'cancelled', finished = ?"
        " where id = ? and status = 'queued' and owner is null",
        (now, item_id),
    )
    if done.rowcount:
        return "cancelled"
    asked = db.execute("update outbox set cancel = 1 where id = ? and status = 'queued'", (item_id,))
    return "asked" if asked.rowcount else None


def recover(db: sqlite3.Connection, owner: str) -> int:
    """Free the rows that a process had claimed, unchanged, for none has run. Return their number."""
    return db.execute("update outbox set owner = null where owner = ?", (owner,)).rowcount


def retry(db: sqlite3.Connection, item_id: str) -> bool:
    """Let an item that has failed or was cancelled wait again, as if it were new."""
    done = db.execute(
        "update outbox set status = 'queued', attempts = 0, cancel = 0, finished = null, reason = null"
        " where id = ? and status in ('failed', 'cancelled')",
        (item_id,),
    )
    return bool(done.rowcount)


def delete(db: sqlite3.Connection, item_ids: Collection[str]) -> list[str]:
    """Delete those of these items that have failed; return their ids.

    A cancelled row is kept until the backend knows of the cancellation.
    """
    marks = ", ".join("?" * len(item_ids))
    gone = db.execute(
        f"delete from outbox where id in ({marks}) and status = 'failed' returning id", tuple(item_ids)
    ).fetchall()
    return [item_id for (item_id,) in gone]


def prune(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Delete rows that ended before this time; return their number."""
    return db.execute(
        "delete from outbox where number in (select number from outbox where finished < ? limit ?)",
        (before, limit),
    ).rowcount


def purge(db: sqlite3.Connection, statuses: Collection[Status]) -> int:
    """Delete all rows that ended with these statuses; return their number."""
    marks = ", ".join("?" * len(statuses))
    return db.execute(
        f"delete from outbox where status in ({marks}) and finished is not null", tuple(map(str, statuses))
    ).rowcount


def _select(db: sqlite3.Connection, where: str, values: Any) -> list[OutboxRow]:
    return [_to_row(row) for row in db.execute(f"select {_ALL} from outbox {where}", values).fetchall()]


def _to_row(columns: Sequence[Any]) -> OutboxRow:
    row = OutboxRow._make(columns)
    return row._replace(status=Status(row.status), cancel=bool(row.cancel))
