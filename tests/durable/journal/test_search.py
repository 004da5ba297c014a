"""Pages of rows: complete, in order, and within a time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from flask_background.core.status import Status
from flask_background.durable.journal import migrations, search, statements
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.search import Search

from ..rows import ROW

COUNT = 500
TASKS = ("mail.send", "mail.fetch", "shop.pack")
STATUSES = (Status.QUEUED, Status.SUCCEEDED, Status.FAILED)


def _row(number: int) -> ItemRow:
    failed = STATUSES[number % 3] is Status.FAILED
    error = {"type": "builtins.ValueError", "message": f'No "ORDER" {number}: Ü', "trace": "secret trace"}
    return ROW._replace(
        id=f"{number:024x}",
        task=TASKS[number % len(TASKS) if number % 7 else 0],
        status=STATUSES[number % 3],
        executor="gpu" if number % 11 == 0 else "thread",
        key=f"key {number}" if number % 13 == 0 else None,
        enqueued=1_000.0 * number,
        due=1_000.0 * number,
        finished=None if number % 3 == 0 else 1_000.0 * number,
        error=json.dumps(error) if failed else None,
        description=f"Größe {number}" if number % 2 else None,
    )


ROWS = [_row(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def db() -> Iterator[sqlite3.Connection]:
    """A journal with rows of several kinds, and gaps where rows were deleted."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    statements.insert_all(connection, ROWS)
    connection.execute("delete from item where number between 100 and 180 or number = 499")
    yield connection
    connection.close()


def left() -> list[ItemRow]:
    """The rows that were not deleted, the latest first."""
    return [row for number, row in enumerate(ROWS, 1) if not (100 <= number <= 180 or number == 499)][::-1]


CASES: dict[str, tuple[dict[str, Any], Status | None]] = {
    "all": ({}, None),
    "failed": ({}, Status.FAILED),
    "none": ({}, Status.RUNNING),
    "a task": ({"task": "shop.pack"}, None),
    "tasks, failed": ({"task": "mail.*"}, Status.FAILED),
    "no task": ({"task": "none*"}, None),
    "an executor": ({"executor": "gpu"}, None),
    "an executor, succeeded": ({"executor": "gpu"}, Status.SUCCEEDED),
    "a key": ({"key": "key 26"}, None),
    "times": ({"since": 200_000.0, "until": 300_000.0}, None),
    "times, failed": ({"since": 200_500.0, "until": 300_500.0}, Status.FAILED),
    "a later time": ({"since": 1e9}, None),
    "an earlier time": ({"until": -1e9}, None),
    "an end": ({"ended_before": 250_000.0}, None),
    "an end, failed": ({"ended_before": 250_000.0, "since": 150_000.0}, Status.FAILED),
    "an end of a task": ({"ended_before": 250_000.0, "task": "mail.*"}, None),
    "an end, queued": ({"ended_before": 250_000.0}, Status.QUEUED),
    "a text": ({"text": "order"}, None),
    "a text with quotes": ({"text": '"order" 4'}, Status.FAILED),
    "another letter": ({"text": "GRÖSSE"}, None),
    "another letter in an error": ({"text": "ü"}, None),
    "a type": ({"text": "ValueError:"}, None),
    "a type and a message": ({"text": "valueerror: no"}, None),
    "a colon": ({"text": ":"}, None),
    "a traceback is not searched": ({"text": "secret"}, None),
    "wildcards are text": ({"text": "%"}, None),
    "everything": ({"task": "*", "executor": "thread", "text": "1", "since": 0.0}, Status.FAILED),
}


def matching(conditions: Conditions, status: Status | None) -> list[ItemRow]:
    """The rows that fulfil the conditions, told in plain Python."""
    return [
        row
        for row in left()
        if status in (None, row.status)
        and conditions.fit(row.task, row.executor, row.key, row.enqueued, row.finished)
        and conditions.mentioned(row.description, row.reason, row.error)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limit", [1, 7, 1_000])
@pytest.mark.parametrize("chunk", [3, 4_000])
def test_pages(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, case: str, limit: int, chunk: int
) -> None:
    """All pages together have all rows, the latest first, whatever the sizes of pages and statements."""
    monkeypatch.setattr(search, "FIRST", chunk)
    monkeypatch.setattr(search, "MOST", chunk)
    given, status = CASES[case]
    conditions = Conditions(**given)
    found: list[ItemRow] = []
    below: int | None = None
    while True:
        page = Search(conditions, status, below, limit)
        assert page.look(db, 99.0)
        rows, below, looked_back_to = page.found()
        assert looked_back_to is None
        assert len(rows) == limit or below is None
        found += [row for _, row in rows]
        if below is None:
            break
    assert found == matching(conditions, status)


@pytest.mark.parametrize("case", ["a text", "a key", "tasks, failed", "everything"])
def test_search_that_is_cut(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A search whose time is over says how far back it has looked, and the next one goes on there."""
    monkeypatch.setattr(search, "FIRST", 10)
    monkeypatch.setattr(search, "MOST", 10)
    # Time is over after each statement.
    clock = iter(range(1_000_000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    given, status = CASES[case]
    found: list[ItemRow] = []
    below: int | None = None
    before = float("inf")
    cuts = 0
    while True:
        page = Search(Conditions(**given), status, below, 1_000)
        is_over = page.look(db, 1.5)
        rows, below, looked_back_to = page.found()
        assert (looked_back_to is None) is is_over
        if looked_back_to is not None:
            cuts += 1
            assert looked_back_to < before
            assert all(row.enqueued >= looked_back_to for _, row in rows)
            before = looked_back_to
        found += [row for _, row in rows]
        if below is None:
            break
    assert cuts >= 3
    assert found == matching(Conditions(**given), status)


def test_empty_journal() -> None:
    """An empty journal has one empty page."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    for given in ({}, {"text": "x"}, {"since": 5.0, "until": 7.0}, {"task": "mail"}):
        page = Search(Conditions(**given), None, None, 10)
        assert page.look(connection, 9.0)
        assert page.found() == ([], None, None)
    connection.close()


def test_rows_that_cannot_be_read(db: sqlite3.Connection) -> None:
    """A broken error, or one that is nested deeply, is text like any other."""
    for error in ("{", "[]", "null", '{"type": 1}', "[" * 100_000, '{"type": {}, "message": [], "trace": 5}'):
        assert not Conditions(text="nowhere").mentioned(None, None, error)
    assert Conditions(text="broken").mentioned(None, None, "{this is BROKEN")
