"""What the journal can do, as functions on a connection: each within a transaction that its caller opens.

A claim gives an item to one process and raises its fence. Whoever writes later names the fence of his own
claim, so one who comes too late, after another claim, changes nothing, and learns it from the answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from ..status import Status
from .entry import COLUMNS, Entry

_ALL = ", ".join(COLUMNS)
_ROW = f"({', '.join('?' * len(COLUMNS))})"
_values = attrgetter(*COLUMNS)
# Rows in one statement; SQLite takes 32,766 values.
_MOST = 256
_LIVE = "status in ('queued', 'running')"
_MINE = f"where id = :id and fence = :fence and owner is not null and {_LIVE}"


class Recovered(NamedTuple):
    """What became of a dead process's items: how many are free again, and which have ended."""

    released: int
    ended: list[Entry]


def insert(db: sqlite3.Connection, entry: Entry) -> Entry | None:
    """Enter an item; or return the one in flight that has its key, and enter nothing."""
    if entry.key is not None:
        for other in _select(db, f"where task = ? and key = ? and {_LIVE}", (entry.task, entry.key)):
            return other
    insert_all(db, [entry])
    return None


def insert_all(db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Enter items that have no keys.

    Each statement gives up the GIL, and gets it back late where other threads compute; so few statements, and
    of few sizes, so that SQLite knows them already.
    """
    start = 0
    while start < len(entries):
        count = min(_MOST, 1 << (len(entries) - start).bit_length() - 1)
        values = chain.from_iterable(map(_values, entries[start : start + count]))
        db.execute(f"insert into item ({_ALL}) values {', '.join([_ROW] * count)}", tuple(values))
        start += count


def claim(
    db: sqlite3.Connection, owner: str, room: Mapping[str, int], tasks: Collection[str], now: float
) -> list[Entry]:
    """Take free items that are due, those that are due longest first, as many as each executor has room for."""
    claimed = []
    known = ", ".join("?" * len(tasks))
    for executor, count in room.items():
        rows = db.execute(
            f"update item set owner = ?, fence = fence + 1 where id in ("
            f" select id from item indexed by item_free where executor = ? and status = 'queued'"
            f" and owner is null and due <= ? and task in ({known}) order by due limit ?"
            f") returning {_ALL}",
            (owner, executor, now, *tasks, count),
        ).fetchall()
        claimed += [_entry(row) for row in rows]
    return sorted(claimed, key=lambda entry: entry.due)


def start(db: sqlite3.Connection, id: str, fence: int, now: float) -> bool:
    """Its run begins, and counts as an attempt."""
    return _change(
        db,
        f"update item set status = 'running', attempt = attempt + 1, started = :now {_MINE}",
        id,
        fence,
        now=now,
    )


def report(db: sqlite3.Connection, id: str, fence: int, progress: str) -> bool:
    """How far its run is."""
    return _change(db, f"update item set progress = :progress {_MINE}", id, fence, progress=progress)


def finish(
    db: sqlite3.Connection,
    id: str,
    fence: int,
    status: Status,
    now: float,
    result: str | None = None,
    error: str | None = None,
) -> bool:
    """It has ended."""
    return _change(
        db,
        "update item set status = :status, finished = :now, result = :result, error = :error, owner = null,"
        f" cancel = 0 {_MINE}",
        id,
        fence,
        status=str(status),
        now=now,
        result=result,
        error=error,
    )


def release(
    db: sqlite3.Connection,
    id: str,
    fence: int,
    due: float | None = None,
    charged: bool = True,
    error: str | None = None,
) -> bool:
    """Let any process claim it, at once or when it is due. Not charged: its last run does not count."""
    return _change(
        db,
        "update item set status = 'queued', owner = null, due = coalesce(:due, due),"
        " attempt = attempt - (not :charged and status = 'running'), error = coalesce(:error, error)"
        f" {_MINE}",
        id,
        fence,
        due=due,
        charged=charged,
        error=error,
    )


def park(db: sqlite3.Connection, id: str, fence: int, reason: str, now: float) -> bool:
    """It cannot be run: it has failed, until somebody has it retried."""
    return _change(
        db,
        "update item set status = 'failed', reason = :reason, finished = :now, owner = null where id = :id"
        f" and fence = :fence and {_LIVE}",
        id,
        fence,
        reason=reason,
        now=now,
    )


def recover(
    db: sqlite3.Connection, owner: str, running: Collection[str], now: float, charged: bool = True
) -> Recovered:
    """Free the items of a dead process. Those that were running have crashed, unless that is not charged.

    What has crashed as often as it may is parked. What somebody wanted to end has been cancelled.
    """
    ended = []
    released = 0
    for entry in _select(db, "where owner = ?", (owner,)):
        ran = entry.id in running
        crashes = entry.crashes + (ran and charged)
        if entry.cancel:
            finish(db, entry.id, entry.fence, Status.CANCELLED, now)
            ended += _select(db, "where id = ?", (entry.id,))
        elif crashes >= entry.max_crashes:
            db.execute("update item set crashes = ? where id = ?", (crashes, entry.id))
            park(db, entry.id, entry.fence, f"its process died in {crashes} of its runs", now)
            ended += _select(db, "where id = ?", (entry.id,))
        else:
            attempt = entry.attempt
            if ran and charged and entry.status is Status.QUEUED:
                attempt += 1  # it was too fast for the journal
            elif not charged and entry.status is Status.RUNNING:
                attempt -= 1
            db.execute(
                "update item set status = 'queued', owner = null, crashes = ?, attempt = ? where id = ?",
                (crashes, attempt, entry.id),
            )
            released += 1
    return Recovered(released, ended)


def request_cancel(db: sqlite3.Connection, id: str, now: float) -> Literal["cancelled", "asked"] | None:
    """Cancel a free item; ask the owner of another one to; None if it has ended."""
    done = db.execute(
        "update item set status = 'cancelled', finished = ? where id = ? and status = 'queued' and owner is null",
        (now, id),
    )
    if done.rowcount:
        return "cancelled"
    asked = db.execute(f"update item set cancel = 1 where id = ? and {_LIVE}", (id,))
    return "asked" if asked.rowcount else None


def retry(db: sqlite3.Connection, id: str, now: float) -> bool:
    """Let an item that has failed or was cancelled run again, as if it were new."""
    done = db.execute(
        "update or ignore item set status = 'queued', due = ?, attempt = 0, crashes = 0, cancel = 0, started = null,"
        " finished = null, progress = null, error = null, reason = null"
        " where id = ? and status in ('failed', 'cancelled')",
        (now, id),
    )
    return bool(done.rowcount)


def prune(db: sqlite3.Connection, before: float, limit: int) -> list[str]:
    """Let go of items that ended before then; returns the ids of those that have uploads."""
    rows = db.execute(
        "delete from item where id in (select id from item where finished < ? limit ?) returning id",
        (before, limit),
    ).fetchall()
    return [id for (id,) in rows]


def purge(db: sqlite3.Connection, statuses: Collection[Status]) -> list[str]:
    """Let go of all items that have ended so; returns their ids."""
    marks = ", ".join("?" * len(statuses))
    rows = db.execute(
        f"delete from item where status in ({marks}) and finished is not null returning id",
        tuple(map(str, statuses)),
    ).fetchall()
    return [id for (id,) in rows]


def get(db: sqlite3.Connection, id: str) -> Entry | None:
    """The item with this id."""
    return next(iter(_select(db, "where id = ?", (id,))), None)


def entries(
    db: sqlite3.Connection, status: Status | None = None, task: str | None = None, limit: int = 1_000
) -> list[Entry]:
    """The items that were enqueued last, oldest first."""
    found = _select(
        db,
        "where (:status is null or status = :status) and (:task is null or task = :task)"
        " order by enqueued desc limit :limit",
        {"status": None if status is None else str(status), "task": task, "limit": limit},
    )
    return found[::-1]


def stats(db: sqlite3.Connection) -> dict[Status, int]:
    """How many items there are, by status."""
    return {
        Status(status): count for status, count in db.execute("select status, count(*) from item group by 1")
    }


def cancels(db: sqlite3.Connection, owner: str) -> list[str]:
    """The ids of the owner's items that somebody wants to end."""
    return [id for (id,) in db.execute("select id from item where owner = ? and cancel", (owner,))]


def next_due(db: sqlite3.Connection, now: float, periodic: Collection[str]) -> float | None:
    """When the next free item, or one of these periodic tasks, is due, if that is after now."""
    names = ", ".join("?" * len(periodic))
    (due,) = db.execute(
        "select min(due) from ("
        "select min(due) as due from item where status = 'queued' and owner is null and due > ?"
        f" union all select next from schedule where next > ? and name in ({names}))",
        (now, now, *periodic),
    ).fetchone()
    return None if due is None else float(due)


def owners(db: sqlite3.Connection) -> list[str]:
    """All processes that have items."""
    return [owner for (owner,) in db.execute("select distinct owner from item where owner is not null")]


def is_free(db: sqlite3.Connection, tasks: Collection[str], now: float, executors: Collection[str]) -> bool:
    """Whether there is an item to claim, of one of these tasks, for one of these executors."""
    known, named = ", ".join("?" * len(tasks)), ", ".join("?" * len(executors))
    found = db.execute(
        f"select 1 from item where status = 'queued' and owner is null and due <= ? and task in ({known})"
        f" and executor in ({named}) limit 1",
        (now, *tasks, *executors),
    )
    return found.fetchone() is not None


def unknown(db: sqlite3.Connection, tasks: Collection[str], now: float) -> list[Entry]:
    """Free items that are due, of tasks other than these."""
    known = ", ".join("?" * len(tasks))
    return _select(
        db,
        f"where status = 'queued' and owner is null and due <= ? and task not in ({known}) limit 100",
        (now, *tasks),
    )


def schedule(db: sqlite3.Connection, name: str, spec: str, first: float) -> float:
    """Know a periodic task; returns its next time, which stays as it is unless its spec has changed."""
    db.execute(
        "insert into schedule (name, spec, next) values (?, ?, ?) on conflict (name)"
        " do update set spec = excluded.spec, next = excluded.next where spec != excluded.spec",
        (name, spec, first),
    )
    return float(db.execute("select next from schedule where name = ?", (name,)).fetchone()[0])


def planned(db: sqlite3.Connection, now: float) -> dict[str, float]:
    """The periodic tasks that are due, and when they were planned."""
    return dict(db.execute("select name, next from schedule where next <= ?", (now,)).fetchall())


def fire(db: sqlite3.Connection, name: str, planned: float, following: float, entry: Entry) -> bool:
    """Enqueue a periodic task that was planned then, unless another process has."""
    done = db.execute("update schedule set next = ? where name = ? and next = ?", (following, name, planned))
    if not done.rowcount:
        return False
    insert(db, entry)
    return True


def _select(db: sqlite3.Connection, where: str, values: Any) -> list[Entry]:
    return [_entry(row) for row in db.execute(f"select {_ALL} from item {where}", values).fetchall()]


def _entry(row: Sequence[Any]) -> Entry:
    values = dict(zip(COLUMNS, row, strict=True))
    values["status"] = Status(values["status"])
    return Entry(**values)


def _change(db: sqlite3.Connection, sql: str, id: str, fence: int, **values: Any) -> bool:
    return bool(db.execute(sql, {"id": id, "fence": fence, **values}).rowcount)
