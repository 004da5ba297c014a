"""The items that fulfil some conditions, found part by part, for actions on many items."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.outbox import OUTBOX
from flask_background.durable.journal.queries import listed
from flask_background.payload.outcomes import error_line

if TYPE_CHECKING:
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.journal.writer import Writer

# How many rows of one task one query looks at.
_MOST = 500


class Conditions(NamedTuple):
    """Conditions that all have to hold; None: none. Times are ``time.time()``.

    ``task``: a name or a pattern such as "mail.*". ``text``: a part of the description or the error, in any
    case.
    """

    task: str | None = None
    executor: str | None = None
    key: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None

    def names(self, task: str) -> bool:
        """Return whether a task fulfils the condition."""
        return self.task is None or task == self.task or fnmatchcase(task, self.task)

    @property
    def looks_into_rows(self) -> bool:
        """Whether there is a condition besides that of the task, which no index knows."""
        return any(condition is not None for condition in self[1:])

    def select(self, row: ItemRow) -> bool:
        """Return whether a row fulfils all conditions but that of the task."""
        return (
            (self.executor is None or row.executor == self.executor)
            and (self.key is None or row.key == self.key)
            and (self.since is None or row.enqueued >= self.since)
            and (self.until is None or row.enqueued <= self.until)
            and (self.text is None or self.mentions(row.description, row.reason, _error_of(row.error)))
        )

    def mentions(self, *parts: str | None) -> bool:
        """Return whether a part of an item has the text, in any case."""
        text = (self.text or "").casefold()
        return any(part is not None and text in part.casefold() for part in parts)


def _error_of(text: str | None) -> str | None:
    return None if text is None else error_line(text)


_TIMES = "(:since is null or enqueued >= :since) and (:until is null or enqueued <= :until)"
_OTHERS = f"(:executor is null or executor = :executor) and (:key is null or key = :key) and {_TIMES}"


def select_ids(
    writer: Writer, statuses: Collection[Status], conditions: Conditions, now: float
) -> Iterator[list[str]]:
    """Return parts of the items that have one of these statuses, and that were enqueued by now.

    An item that gets another one of these statuses meanwhile may be returned again. Raises JournalError.
    """
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
        if matches and (conditions.text is None or conditions.mentions(*texts))
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
    texts = "null, null, null" if conditions.text is None else "description, reason, error"
    found = db.execute(
        f"select number, id, {texts}, enqueued <= :now and {_OTHERS} from item indexed by item_listed"
        " where task = :task and status = :status and number > :after and number <= :top"
        " order by number limit :limit",
        {**values, "limit": _MOST},
    ).fetchall()
    ids = [
        item_id
        for _, item_id, description, reason, error, matches in found
        if matches and (conditions.text is None or conditions.mentions(description, reason, _error_of(error)))
    ]
    return ids, found[-1][0] if len(found) == _MOST else None
