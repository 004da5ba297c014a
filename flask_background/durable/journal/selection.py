"""The items that fulfil some conditions, found part by part, for actions on many items."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING

from flask_background.core.status import Status
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.outbox import OUTBOX
from flask_background.durable.journal.queries import listed

if TYPE_CHECKING:
    from flask_background.durable.journal.writer import Writer

# How many rows of one task one query looks at.
_MOST = 500


_TIMES = (
    "(:since is null or enqueued >= :since) and (:until is null or enqueued <= :until)"
    " and (:ended_before is null or coalesce(finished < :ended_before, false))"
)
_OTHERS = f"(:executor is null or executor = :executor) and (:key is null or key = :key) and {_TIMES}"


def select_ids(
    writer: Writer, statuses: Collection[Status], conditions: Conditions, now: float
) -> Iterator[list[str]]:
    """Return parts of the items that have one of these statuses, and that were enqueued by now.

    An item that gets another one of these statuses meanwhile may be returned again. Raises JournalError.
    """
    if conditions.ended_before is not None:
        yield from _select_ended(writer, statuses, conditions, now)
        return
    kinds, top = writer.read(partial(_kinds, statuses=statuses))
    for task, status in kinds:
        if not conditions.names(task):
            continue
        after: int | None = 0
        while after is not None:
            values = {
                **conditions._asdict(),
                "task": task,
                "status": status,
                "after": after,
                "top": top,
                "now": now,
            }
            ids, after = writer.read(partial(_part, conditions=conditions, values=values))
            if ids:
                yield ids


def _select_ended(
    writer: Writer, statuses: Collection[Status], conditions: Conditions, now: float
) -> Iterator[list[str]]:
    """Return parts of the items that ended before a time, those that ended first first."""
    after: tuple[float, int] | None = (float("-inf"), 0)
    while after is not None:
        ids, after = writer.read(
            partial(_part_of_ended, statuses=statuses, conditions=conditions, now=now, after=after)
        )
        if ids:
            yield ids


def select_waiting_ids(
    writer: Writer, statuses: Collection[Status], conditions: Conditions, now: float
) -> Iterator[list[str]]:
    """Return parts of the rows of the outbox, as ``select_ids`` does for items."""
    if conditions.key is not None or conditions.executor not in (None, OUTBOX):
        return  # no row of the outbox has a key, or an executor
    top = writer.read(_last_of_outbox)
    after: int | None = 0
    while after is not None:
        values = {**conditions._asdict(), "after": after, "top": top, "now": now}
        rows, after = writer.read(partial(_part_of_outbox, conditions=conditions, values=values))
        ids = [item_id for item_id, task, status in rows if status in statuses and conditions.names(task)]
        if ids:
            yield ids


def _last_of_outbox(db: sqlite3.Connection) -> int:
    return db.execute("select max(number) from outbox").fetchone()[0] or 0


def _part_of_outbox(
    db: sqlite3.Connection, conditions: Conditions, values: dict[str, object]
) -> tuple[list[tuple[str, str, str]], int | None]:
    found = db.execute(
        f"select number, id, task, status, description, reason, enqueued <= :now and {_TIMES} from outbox"
        " where number > :after and number <= :top order by number limit :limit",
        {**values, "limit": _MOST},
    ).fetchall()
    rows = [
        (item_id, task, status)
        for _, item_id, task, status, *texts, matches in found
        if matches and conditions.mentions(*texts)
    ]
    return rows, found[-1][0] if len(found) == _MOST else None


def _kinds(db: sqlite3.Connection, statuses: Collection[Status]) -> tuple[list[tuple[str, str]], int]:
    """Return the tasks and statuses of which there are items, and the number of the latest item."""
    with_kinds, values = listed(statuses)
    found = db.execute(f"{with_kinds} select task, status from kind", values).fetchall()
    (top,) = db.execute("select max(number) from item").fetchone()
    return found, top or 0


def _part(
    db: sqlite3.Connection, conditions: Conditions, values: dict[str, object]
) -> tuple[list[str], int | None]:
    """Return the matching ones of the next rows, and the number of the last row; None at the end."""
    found = db.execute(
        f"select number, id, {_texts(conditions)}, enqueued <= :now and {_OTHERS} from item"
        " indexed by item_listed where task = :task and status = :status and number > :after"
        " and number <= :top order by number limit :limit",
        {**values, "limit": _MOST},
    ).fetchall()
    ids = [
        item_id
        for _, item_id, description, reason, error, matches in found
        if matches and conditions.mentioned(description, reason, error)
    ]
    return ids, found[-1][0] if len(found) == _MOST else None


def _part_of_ended(
    db: sqlite3.Connection,
    statuses: Collection[Status],
    conditions: Conditions,
    now: float,
    after: tuple[float, int],
) -> tuple[list[str], tuple[float, int] | None]:
    """Return the matching ones of the next ended rows, and the place of the last row; None at the end."""
    finished, number = after
    found = db.execute(
        f"select finished, number, id, task, status, {_texts(conditions)}, enqueued <= :now and {_OTHERS}"
        " from item indexed by item_finished where finished is not null and finished < :ended_before"
        " and (finished, number) > (:finished, :number) order by finished, number limit :limit",
        {**conditions._asdict(), "now": now, "finished": finished, "number": number, "limit": _MOST},
    ).fetchall()
    ids = [
        item_id
        for _, _, item_id, task, status, *texts, matches in found
        if matches and status in statuses and conditions.names(task) and conditions.mentioned(*texts)
    ]
    return ids, found[-1][:2] if len(found) == _MOST else None


def _texts(conditions: Conditions) -> str:
    return "null, null, null" if conditions.text is None else "description, reason, error"
