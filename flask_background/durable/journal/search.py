"""Pages of items, those entered last first, as functions on a connection.

A search for what no index knows looks at some rows at a time, and stops after a while: the next page goes on
from there. So no page holds up the other readers of the process, however many rows the journal has.
"""

from __future__ import annotations

import sqlite3
import time
from typing import NamedTuple

from flask_background.core.status import Status
from flask_background.durable.journal.queries import ALL, listed, to_row
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.selection import Conditions

# How many rows one statement looks at, first and at most.
_FIRST, _MOST = 100, 2_000
# Rows are nearly in the order of their enqueue times: an item is entered that many seconds late at most, if
# it does not wait for the commit of a long transaction.
_LATE = 60.0


class Found(NamedTuple):
    """The rows that were found, with their numbers, the latest first.

    The next rows are those below ``below``; None: there are no more. ``looked_back_to``: the enqueue time of
    the last row that was looked at, if time ran out.
    """

    rows: list[tuple[int, ItemRow]]
    below: int | None
    looked_back_to: float | None = None


class Search:
    """A search that goes on with each call of ``look``, until ``found`` has all that are wanted."""

    def __init__(self, conditions: Conditions, status: Status | None, below: int | None, limit: int) -> None:
        self._conditions = conditions
        self._status = status
        self._limit = limit
        self._chunk = _FIRST
        self._kinds: list[tuple[str, str]] | None = None
        self._is_prepared = False
        self._floor = 0
        self._below = below
        self._at: float | None = None
        self._rows: list[tuple[int, ItemRow]] = []
        self.is_over = False

    def look(self, db: sqlite3.Connection, seconds: float) -> bool:
        """Search for that long; return whether the search is over."""
        end = time.monotonic() + seconds
        if not self._is_prepared:
            self._prepare(db)
        while not self.is_over and len(self._rows) < self._limit and time.monotonic() < end:
            self._look_at_some(db)
        return self.is_over or len(self._rows) >= self._limit

    def found(self) -> Found:
        """Return what was found by now."""
        is_cut = not self.is_over and len(self._rows) < self._limit
        return Found(self._rows, None if self.is_over else self._below, self._at if is_cut else None)

    def _prepare(self, db: sqlite3.Connection) -> None:
        self._is_prepared = True
        conditions = self._conditions
        if self._below is None:
            (top,) = db.execute("select max(number) from item").fetchone()
            self._below = (top or 0) + 1
            if conditions.until is not None:
                self._below = min(self._below, _first_number(db, conditions.until + _LATE))
        if conditions.since is not None:
            self._floor = _first_number(db, conditions.since - _LATE)
        if self._status is not None or conditions.task is not None:
            statuses = list(Status) if self._status is None else [self._status]
            with_kinds, values = listed(statuses)
            found = db.execute(f"{with_kinds} select task, status from kind", values)
            self._kinds = [(task, status) for task, status in found if conditions.names(task)]

    def _look_at_some(self, db: sqlite3.Connection) -> None:
        """Look at the next rows below ``self._below``."""
        assert self._below is not None
        if not self._conditions.looks_into_rows:
            self._chunk = self._limit - len(self._rows)
        numbers = self._next_numbers(db)
        if not numbers:
            self.is_over = True
            return
        rows = db.execute(
            f"select number, {ALL} from item where number between ? and ? order by number desc"
            if self._kinds is None
            else f"select number, {ALL} from item where number in ({', '.join(map(str, numbers))})"
            " order by number desc",
            (numbers[-1], numbers[0]) if self._kinds is None else (),
        )
        for number, *columns in rows:
            row = to_row(columns)
            self._at, self._below = row.enqueued, number
            if self._conditions.select(row):
                self._rows.append((number, row))
                if len(self._rows) == self._limit:
                    return
        self._below = numbers[-1]
        self._chunk = min(_MOST, 2 * self._chunk)

    def _next_numbers(self, db: sqlite3.Connection) -> list[int]:
        """Return the numbers of the next rows, in falling order."""
        if self._kinds is None:
            found = db.execute(
                "select number from item where number >= ? and number < ? order by number desc limit ?",
                (self._floor, self._below, self._chunk),
            ).fetchall()
            return [number for (number,) in found]
        numbers: list[int] = []
        for task, status in self._kinds:
            found = db.execute(
                "select number from item indexed by item_listed where task = ? and status = ?"
                " and number >= ? and number < ? order by number desc limit ?",
                (task, status, self._floor, self._below, self._chunk),
            ).fetchall()
            numbers += [number for (number,) in found]
        return sorted(numbers, reverse=True)[: self._chunk]


def entered_since(db: sqlite3.Connection, at: float) -> int:
    """Return how many items were entered since then, those included that are gone by now."""
    (last,) = db.execute("select max(number) from item").fetchone()
    return 0 if last is None else int(last) + 1 - _first_number(db, at)


def _first_number(db: sqlite3.Connection, at: float) -> int:
    """Return the number from which on rows were enqueued at this time or later, by bisection."""
    low, high = db.execute("select min(number), max(number) + 1 from item").fetchone()
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
