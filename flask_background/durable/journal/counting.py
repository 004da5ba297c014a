"""Counts of items that fulfil some conditions, some rows at a time, as functions on a connection.

A count takes a part of the rows from an index, without a look at the rows, where its conditions allow that.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator
from typing import Protocol

from flask_background.core.status import Status
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.queries import listed
from flask_background.durable.journal.search import LATE, MOST, Walk, first_number

# How many entries of an index one statement counts.
_MOST_ENTRIES = 20_000
# The statuses of rows that have ended.
_ENDED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
# Conditions on times alone.
_TIMES = frozenset({"since", "until"})


class _Part(Protocol):
    """A part of a count."""

    @property
    def is_over(self) -> bool:
        """Whether all of it is counted."""
        ...

    def step(self, db: sqlite3.Connection) -> int:
        """Count some more rows; return how many of them fulfil the conditions."""
        ...


class Counting:
    """A count of the items with one of some statuses, which goes on with each call of ``look``."""

    def __init__(self, conditions: Conditions, statuses: Collection[Status]) -> None:
        self.count = 0
        #: How many steps were made, each of which has counted some rows.
        self.steps = 0
        self._conditions = conditions
        self._statuses = statuses
        self._parts: Iterator[_Part] | None = None
        self._part: _Part | None = None

    def look(self, db: sqlite3.Connection, seconds: float) -> bool:
        """Make a step, and go on for that long; return whether all items are counted."""
        end = time.monotonic() + seconds
        if self._parts is None:
            self._parts = iter(_parts(db, self._conditions, self._statuses))
            self._part = next(self._parts, None)
        while self._part is not None:
            self.count += self._part.step(db)
            self.steps += 1
            if self._part.is_over:
                self._part = next(self._parts, None)
            if time.monotonic() >= end:
                break
        return self._part is None


def _parts(db: sqlite3.Connection, conditions: Conditions, statuses: Collection[Status]) -> list[_Part]:
    """Return the parts of which a count consists: none has a row that another one has."""
    given = {name for name, value in conditions._asdict().items() if value is not None}
    if given == {"ended_before"} and _ENDED.issubset(statuses):
        return [_Ended(conditions)]
    if given - {"task"} and given - {"task"} <= _TIMES:
        return _parts_of_times(db, conditions, statuses)
    return [_Rows(conditions, statuses)]


def _parts_of_times(
    db: sqlite3.Connection, conditions: Conditions, statuses: Collection[Status]
) -> list[_Part]:
    """Return parts with the rows about both ends of a time, and one with those in between.

    Rows are nearly in the order of their enqueue times, so those in between need no look.
    """
    since, until = conditions.since, conditions.until
    first = second = 0
    if since is not None:
        first, second = first_number(db, since - LATE), first_number(db, since + LATE)
    (top,) = db.execute("select max(number) from item").fetchone()
    third = last = (top or 0) + 1
    if until is not None:
        third, last = first_number(db, until - LATE), first_number(db, until + LATE)
    if third <= second:
        return [_Rows(conditions, statuses, first, last)]
    with_kinds, values = listed(statuses)
    kinds = [
        (task, status)
        for task, status in db.execute(f"{with_kinds} select task, status from kind", values)
        if conditions.names(task)
    ]
    return [
        _Rows(conditions, statuses, third, last),
        *(_Entries(kind, second, third) for kind in kinds),
        _Rows(conditions, statuses, first, second),
    ]


class _Rows:
    """Looks at rows, whose numbers are from ``floor`` and below ``below``, if these are given."""

    def __init__(
        self,
        conditions: Conditions,
        statuses: Collection[Status],
        floor: int | None = None,
        below: int | None = None,
    ) -> None:
        self._conditions = conditions
        self._walk = Walk(conditions, statuses, below, floor)
        self._columns = "null, null, null" if conditions.text is None else "description, reason, error"

    @property
    def is_over(self) -> bool:
        """See ``_Part``."""
        return self._walk.is_over

    def step(self, db: sqlite3.Connection) -> int:
        """See ``_Part``."""
        found = self._walk.rows(db, self._columns, MOST)
        return sum(self._conditions.mentioned(*texts) for texts in found)


class _Entries:
    """Counts the entries of the index that are of one task and status, and between two numbers."""

    def __init__(self, kind: tuple[str, str], low: int, high: int) -> None:
        self.is_over = False
        self._kind = kind
        self._low, self._high = low, high

    def step(self, db: sqlite3.Connection) -> int:
        """See ``_Part``."""
        count, last = db.execute(
            "select count(*), max(number) from (select number from item indexed by item_listed"
            " where task = ? and status = ? and number >= ? and number < ? order by number limit ?)",
            (*self._kind, self._low, self._high, _MOST_ENTRIES),
        ).fetchone()
        self.is_over = count < _MOST_ENTRIES
        self._low = 0 if last is None else last + 1
        return int(count)


class _Ended:
    """Counts the entries of the index of times at which items ended, before a time."""

    def __init__(self, conditions: Conditions) -> None:
        self.is_over = False
        self._before = conditions.ended_before
        self._after: tuple[float, int] = (float("-inf"), 0)

    def step(self, db: sqlite3.Connection) -> int:
        """See ``_Part``."""
        numbers = db.execute(
            "select finished, number from item indexed by item_finished where finished is not null"
            " and finished < ? and (finished, number) > (?, ?) order by finished, number limit ?",
            (self._before, *self._after, _MOST_ENTRIES),
        ).fetchall()
        self.is_over = len(numbers) < _MOST_ENTRIES
        if numbers:
            self._after = numbers[-1]
        return len(numbers)
