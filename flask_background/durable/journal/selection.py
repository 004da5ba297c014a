"""The items that fulfil some conditions, found part by part, for actions on many items."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.queries import listed

if TYPE_CHECKING:
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


_WHERE = (
    "(:executor is null or executor = :executor) and (:key is null or key = :key)"
    " and (:since is null or enqueued >= :since) and (:until is null or enqueued <= :until)"
    " and (:text is null or instr(lower(coalesce(description, '')), lower(:text))"
    " or instr(lower(coalesce(error, '')), lower(:text)) or instr(lower(coalesce(reason, '')), lower(:text)))"
)


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
            ids, after = writer.read(partial(_part, values=values))
            if ids:
                yield ids


def _kinds(db: sqlite3.Connection, statuses: Collection[Status]) -> tuple[list[tuple[str, str]], int]:
    """Return the tasks and statuses of which there are items, and the number of the latest item."""
    with_kinds, values = listed(statuses)
    found = db.execute(f"{with_kinds} select task, status from kind", values).fetchall()
    (top,) = db.execute("select max(number) from item").fetchone()
    return found, top or 0


def _part(db: sqlite3.Connection, values: dict[str, object]) -> tuple[list[str], int | None]:
    """Return the matching ones of the next rows, and the number of the last row; None at the end."""
    found = db.execute(
        f"select number, id, enqueued <= :now and {_WHERE} from item indexed by item_listed"
        f" where task = :task and status = :status and number > :after and number <= :top"
        " order by number limit :limit",
        {**values, "limit": _MOST},
    ).fetchall()
    ids = [item_id for _, item_id, matches in found if matches]
    return ids, found[-1][0] if len(found) == _MOST else None
