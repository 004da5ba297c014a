"""Pages of items, those entered last first, as functions on a connection.

A search for what no index knows looks at some rows at a time, and stops after a while: the next page goes on
from there. So no page holds up the other readers of the process, however many rows the journal has.
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.queries import ALL, listed, to_row
from flask_background.durable.journal.row import ItemRow

#: How many rows one statement looks at, first and at most.
FIRST, MOST = 100, 4_000
#: Rows are nearly in the order of their enqueue times: an item is entered that many seconds late at most, if
#: it does not wait for the commit of a long transaction.
LATE = 60.0


class Found(NamedTuple):
    """The rows that were found, with their numbers, the latest first.

    The next rows are those below ``below``; None: there are no more. ``looked_back_to``: the enqueue time to
    which rows were looked at, if time ran out.
    """

    rows: list[tuple[int, ItemRow]]
    below: int | None
    looked_back_to: float | None = None


class Walk:
    """Looks at rows from the latest back, some at a time.

    ``below``: the number below which it begins. ``floor``: the number at which it ends.
    """

    def __init__(
        self,
        conditions: Conditions,
        statuses: Collection[Status],
        below: int | None = None,
        floor: int | None = None,
    ) -> None:
        self.below = below
        self.is_over = False
        self.clause, self._values = conditions.clause()
        self._conditions = conditions
        self._statuses = statuses
        self._floor = floor
        self._chunk = FIRST
        # The tasks and statuses of the rows, if the index knows which rows these are.
        self._kinds: list[tuple[str, str]] | None = None
        self._is_prepared = False

    def rows(self, db: sqlite3.Connection, columns: str, limit: int) -> Iterator[Any]:
        """Return these columns of the next rows that fulfil all conditions but that of the text."""
        if not self._is_prepared:
            self._prepare(db)
            self._is_prepared = True
        count = self._chunk if self.clause else min(limit, MOST)
        self._chunk = min(MOST, 2 * self._chunk)
        which = self._next_range(db, count) if self._kinds is None else self._next_numbers(db, count)
        if which is None:
            self.is_over = True
            return iter(())
        return db.execute(
            f"select {columns} from item where {which} and {self.clause or 'true'}"
            " order by number desc limit :limit",
            {**self._values, "limit": limit},
        )

    def reached(self, db: sqlite3.Connection) -> float | None:
        """Return the enqueue time of the last row that was looked at."""
        found = db.execute(
            "select enqueued from item where number >= ? order by number limit 1", (self.below,)
        ).fetchone()
        return None if found is None else found[0]

    def _prepare(self, db: sqlite3.Connection) -> None:
        conditions = self._conditions
        if self.below is None:
            (top,) = db.execute("select max(number) from item").fetchone()
            self.below = (top or 0) + 1
            # An item has ended after it was enqueued.
            for latest in (conditions.until, conditions.ended_before):
                if latest is not None:
                    self.below = min(self.below, first_number(db, latest + LATE))
        if self._floor is None:
            self._floor = 0 if conditions.since is None else first_number(db, conditions.since - LATE)
        if len(self._statuses) < len(Status) or conditions.task is not None:
            with_kinds, values = listed(self._statuses)
            found = db.execute(f"{with_kinds} select task, status from kind", values)
            self._kinds = [(task, status) for task, status in found if conditions.names(task)]

    def _next_range(self, db: sqlite3.Connection, count: int) -> str | None:
        (top,) = db.execute(
            "select max(number) from item where number >= ? and number < ?", (self._floor, self.below)
        ).fetchone()
        if top is None:
            return None
        self.below = max(self._floor or 0, top - count + 1)
        return f"number between {self.below} and {top}"

    def _next_numbers(self, db: sqlite3.Connection, count: int) -> str | None:
        each = [
            db.execute(
                "select number from item indexed by item_listed where task = ? and status = ?"
                " and number >= ? and number < ? order by number desc limit ?",
                (*kind, self._floor, self.below, count),
            )
            for kind in self._kinds or ()
        ]
        numbers = [number for (number,) in islice(heapq.merge(*each, reverse=True), count)]
        if not numbers:
            return None
        self.below = numbers[-1]
        return f"number in ({', '.join(map(str, numbers))})"


class Search:
    """A search for a page of items, which goes on with each call of ``look``."""

    def __init__(self, conditions: Conditions, status: Status | None, below: int | None, limit: int) -> None:
        self._walk = Walk(conditions, [*Status] if status is None else [status], below)
        self._conditions = conditions
        self._limit = limit
        self._rows: list[tuple[int, ItemRow]] = []
        self._at: float | None = None

    def look(self, db: sqlite3.Connection, seconds: float) -> bool:
        """Search for that long; return whether the search is over."""
        end = time.monotonic() + seconds
        while not self._is_done() and time.monotonic() < end:
            left = self._limit - len(self._rows)
            for number, *columns in self._walk.rows(db, f"number, {ALL}", left):
                row = to_row(columns)
                left -= 1
                if self._conditions.mentioned(row.description, row.reason, row.error):
                    self._rows.append((number, row))
                if not left:  # there may be more among the rows that were looked at
                    self._walk.below = number
        self._at = None if self._is_done() else self._walk.reached(db)
        return self._is_done()

    def found(self) -> Found:
        """Return what was found by now."""
        return Found(self._rows, None if self._walk.is_over else self._walk.below, self._at)

    def _is_done(self) -> bool:
        return self._walk.is_over or len(self._rows) >= self._limit


def entered_since(db: sqlite3.Connection, at: float) -> int:
    """Return how many items were entered since then, those included that are gone by now."""
    (last,) = db.execute("select max(number) from item").fetchone()
    return 0 if last is None else int(last) + 1 - first_number(db, at)


def first_number(db: sqlite3.Connection, at: float) -> int:
    """Return the number from which on rows were enqueued at this time or later, by bisection."""
    (low,) = db.execute("select min(number) from item").fetchone()
    (high,) = db.execute("select max(number) + 1 from item").fetchone()
    if low is None:
        return 0
    while low < high:
        middle = (low + high) // 2
        number, enqueued = db.execute(
            "select number, enqueued from item where number >= ? order by number limit 1", (middle,)
        ).fetchone()
        if enqueued >= at:
            high = middle
        else:
            low = number + 1
    return int(low)
