"""The statements that change the journal, as functions on a connection, in the caller's transaction.

A claim gives an item to one process and raises its fence. Every later write names the fence of its claim. A
write that comes too late, after another claim, changes nothing, and its result says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal, NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal import ended_runs, outbox
from flask_background.durable.journal.queries import ALL, FREE, kinds, listed, select, to_row
from flask_background.durable.journal.row import COLUMNS, ItemRow

_ROW = f"({', '.join('?' * len(COLUMNS))})"
# Rows in one statement; SQLite takes 32,766 values.
_MOST = 256
_LIVE = "status in ('queued', 'running')"
_MINE = f"where id = :id and fence = :fence and owner is not null and {_LIVE}"


class Recovered(NamedTuple):
    """The fate of a dead process's items: the number of free ones, and the items that have ended."""

    released: int
    ended: list[ItemRow]


def insert(db: sqlite3.Connection, row: ItemRow) -> ItemRow | None:
    """Enter an item; or return the item in flight with the same key, and enter nothing."""
    if row.key is not None:
        where = f"indexed by item_key where task = ? and key = ? and {_LIVE}"
        for other in select(db, where, (row.task, row.key)):
            return other
    insert_all(db, [row])
    return None


def insert_each(db: sqlite3.Connection, rows: Sequence[ItemRow]) -> list[ItemRow | None]:
    """Enter items; return None for each, or the item in flight with the same key: then nothing was entered.

    If one of them raises an error, the caller undoes the transaction.
    """
    if all(row.key is None for row in rows):
        insert_all(db, rows)
        return [None] * len(rows)
    return [insert(db, row) for row in rows]


def insert_all(db: sqlite3.Connection, rows: Sequence[ItemRow]) -> None:
    """Enter items that have no keys.

    Each statement gives up the GIL, and regains it late while other threads compute. So there are few
    statements, and of few sizes, so that SQLite has them in its cache.
    """
    start = 0
    while start < len(rows):
        count = min(_MOST, 1 << (len(rows) - start).bit_length() - 1)
        db.execute(_insert_of(count), tuple(chain.from_iterable(rows[start : start + count])))
        start += count


@cache
def _insert_of(count: int) -> str:
    return f"insert into item ({ALL}) values {', '.join([_ROW] * count)}"


def claim(
    db: sqlite3.Connection,
    owner: str,
    room: Mapping[str, int],
    tasks: Collection[str],
    now: float,
    wanted: Collection[str] = (),
) -> list[ItemRow]:
    """Claim free items that are due, the oldest first, as many as each executor has room for.

    ``wanted``: the ids of items to claim even if their executor's room is 0.
    """
    claimed = []
    known = ", ".join("?" * len(tasks))
    named = ", ".join("?" * len(room))
    for item_id in wanted:
        rows = db.execute(
            f"update item set owner = ?, fence = fence + 1 where id = ? and status = 'queued'"
            f" and owner is null and due <= ? and task in ({known}) and executor in ({named})"
            f" returning {ALL}",
            (owner, item_id, now, *tasks, *room),
        ).fetchall()
        claimed += [to_row(row) for row in rows]
    for executor, count in room.items():
        if not count:
            continue
        # The oldest items of each task, and the oldest of those: items of other tasks are not even read.
        rows = db.execute(
            "update item set owner = ?, fence = fence + 1 where number in ("
            f"{kinds((executor,))} select item.number from kind cross join item where item.number in ("
            f" select number from item indexed by item_free where {FREE} and executor = kind.executor"
            "  and task = kind.task and due <= ? order by due limit ?"
            f") and kind.task in ({known}) order by item.due limit ?) returning {ALL}",
            (owner, executor, now, count, *tasks, count),
        ).fetchall()
        claimed += [to_row(row) for row in rows]
    return sorted(claimed, key=lambda row: row.due)


def start(db: sqlite3.Connection, item_id: str, fence: int, now: float) -> bool:
    """Record that the item's run begins, and count it as an attempt."""
    return _change(
        db,
        f"update item set status = 'running', attempt = attempt + 1, started = :now, progress = null {_MINE}",
        item_id,
        fence,
        now=now,
    )


def report(db: sqlite3.Connection, item_id: str, fence: int, progress: str) -> bool:
    """Record the progress of the item's run."""
    return _change(db, f"update item set progress = :progress {_MINE}", item_id, fence, progress=progress)


def finish(
    db: sqlite3.Connection,
    item_id: str,
    fence: int,
    status: Status,
    now: float,
    result: str | None = None,
    error: str | None = None,
) -> bool:
    """Record the item's end."""
    return _change(
        db,
        "update item set status = :status, finished = :now, result = :result, error = :error, owner = null,"
        f" cancel = 0 {_MINE}",
        item_id,
        fence,
        status=str(status),
        now=now,
        result=result,
        error=error,
    )


def release(
    db: sqlite3.Connection,
    item_id: str,
    fence: int,
    now: float,
    due: float | None = None,
    charged: bool = True,
    error: str | None = None,
) -> ItemRow | None:
    """Let any process claim the item, at once or when it is due. Not charged: its last run does not count.

    An item whose end was requested is cancelled instead, and returned.
    """
    ended = "update item set status = 'cancelled', finished = :now, owner = null, cancel = 0"
    if _change(db, f"{ended} {_MINE} and cancel", item_id, fence, now=now):
        return next(iter(select(db, "where id = ?", (item_id,))))
    if error is not None:
        ended_runs.record(db, item_id, fence, "failed", now, error)
    elif not charged:
        ended_runs.record(db, item_id, fence, "interrupted", now)
    _change(
        db,
        "update item set status = 'queued', owner = null, due = coalesce(:due, due),"
        " attempt = attempt - (not :charged and status = 'running'), error = coalesce(:error, error)"
        f" {_MINE}",
        item_id,
        fence,
        due=due,
        charged=charged,
        error=error,
    )
    return None


def park(db: sqlite3.Connection, item_id: str, fence: int, reason: str, now: float) -> bool:
    """Record that the item cannot be run: it has failed, until an operator retries it."""
    return _change(
        db,
        "update item set status = 'failed', reason = :reason, finished = :now, owner = null where id = :id"
        f" and fence = :fence and {_LIVE}",
        item_id,
        fence,
        reason=reason,
        now=now,
    )


def recover(
    db: sqlite3.Connection,
    owner: str,
    running: Collection[str],
    now: float,
    charged: bool = True,
    limit: int = 200,
) -> Recovered:
    """Free some items of a dead process. Running items have crashed, unless the death is not charged.

    An item that has crashed too often is parked. An item whose end was requested is cancelled.
    """
    ended = []
    released = outbox.recover(db, owner)
    for row in select(db, "where owner = ? limit ?", (owner, limit)):
        ran = row.id in running
        crashes = row.crashes + (ran and charged)
        if row.cancel:
            finish(db, row.id, row.fence, Status.CANCELLED, now)
            ended += select(db, "where id = ?", (row.id,))
        elif crashes >= row.max_crashes:
            db.execute("update item set crashes = ? where id = ?", (crashes, row.id))
            park(db, row.id, row.fence, f"its process died in {crashes} of its runs", now)
            ended += select(db, "where id = ?", (row.id,))
        else:
            attempt = row.attempt
            if row.status is Status.RUNNING:
                ended_runs.record(db, row.id, row.fence, "crashed" if charged else "interrupted", now)
                attempt -= not charged
            elif ran and charged:
                attempt += 1  # the process died before the journal had the run
                ended_runs.record_unknown(db, row.id, attempt, now)
            db.execute(
                "update item set status = 'queued', owner = null, crashes = ?, attempt = ? where id = ?",
                (crashes, attempt, row.id),
            )
            released += 1
    return Recovered(released, ended)


def make_due(db: sqlite3.Connection, item_ids: Collection[str], now: float) -> None:
    """Make free items due that are not due yet."""
    marks = ", ".join("?" * len(item_ids))
    db.execute(f"update item set due = ? where id in ({marks}) and {FREE} and due > ?", (now, *item_ids, now))


def request_cancel(db: sqlite3.Connection, item_id: str, now: float) -> Literal["cancelled", "asked"] | None:
    """Cancel a free item, or request a claimed item's end; return None if the item has ended."""
    done = db.execute(
        "update item set status = 'cancelled', finished = ?"
        " where id = ? and status = 'queued' and owner is null",
        (now, item_id),
    )
    if done.rowcount:
        return "cancelled"
    asked = db.execute(f"update item set cancel = 1 where id = ? and {_LIVE}", (item_id,))
    return "asked" if asked.rowcount else None


def abandon(db: sqlite3.Connection, item_id: str, now: float) -> None:
    """Cancel an item whose caller was interrupted before it learned that the item was entered."""
    db.execute(
        "update item set status = 'cancelled', finished = ?, owner = null where id = ? and status = 'queued'",
        (now, item_id),
    )


def retry(db: sqlite3.Connection, item_id: str, now: float) -> bool:
    """Let an item that has failed or was cancelled run again, as if it were new."""
    done = db.execute(
        "update or ignore item set status = 'queued', due = ?, attempt = 0, crashes = 0, cancel = 0,"
        " started = null, finished = null, progress = null, error = null, reason = null"
        " where id = ? and status in ('failed', 'cancelled')",
        (now, item_id),
    )
    return bool(done.rowcount)


def delete(db: sqlite3.Connection, item_ids: Collection[str]) -> list[str]:
    """Delete those of these items that have ended; return their ids."""
    marks = ", ".join("?" * len(item_ids))
    rows = db.execute(
        f"delete from item where id in ({marks}) and finished is not null returning id", tuple(item_ids)
    ).fetchall()
    return [item_id for (item_id,) in rows]


def prune(db: sqlite3.Connection, before: float, limit: int) -> list[str]:
    """Delete items that ended before this time; return their ids."""
    rows = db.execute(
        "delete from item where id in (select id from item where finished < ? limit ?) returning id",
        (before, limit),
    ).fetchall()
    return [item_id for (item_id,) in rows]


def purge(db: sqlite3.Connection, statuses: Collection[Status], limit: int) -> list[str]:
    """Delete some items that ended with these statuses; return their ids."""
    with_kinds, values = listed([status for status in statuses if status.is_final])
    rows = db.execute(
        f"delete from item where number in ({with_kinds} select item.number from kind cross join item"
        " where item.number in (select number from item indexed by item_listed"
        "  where task = kind.task and status = kind.status limit :limit) limit :limit) returning id",
        {**values, "limit": limit},
    ).fetchall()
    return [item_id for (item_id,) in rows]


def _change(db: sqlite3.Connection, sql: str, item_id: str, fence: int, **values: Any) -> bool:
    return bool(db.execute(sql, {"id": item_id, "fence": fence, **values}).rowcount)
