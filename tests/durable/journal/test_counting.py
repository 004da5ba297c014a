"""Counts of rows: right whatever their conditions are, and without a look at rows that an index counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from flask_background.core.status import Status
from flask_background.durable.journal import counting, migrations, search, statements
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.counting import Counting
from flask_background.durable.journal.row import ItemRow

from ..rows import ROW
from .test_search import CASES, db, matching

__all__ = ["db"]

ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
MANY = 6_000


def count(db: sqlite3.Connection, conditions: Conditions, *statuses: Status, seconds: float = 9.0) -> int:
    """Count to the end."""
    one = Counting(conditions, statuses or [*Status])
    while not one.look(db, seconds):
        pass
    return one.count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [3, 20_000])
def test_counts(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int) -> None:
    """A count is the number of rows of all pages, however many steps it takes."""
    monkeypatch.setattr(counting, "_MOST_ENTRIES", chunk)
    given, status = CASES[case]
    conditions = Conditions(**given)
    statuses = () if status is None else (status,)
    assert count(db, conditions, *statuses, seconds=0.0) == len(matching(conditions, status))


@pytest.fixture(scope="module")
def large() -> Iterator[sqlite3.Connection]:
    """A journal with an item each second, which ended two minutes later; some were entered late."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    statements.insert_all(connection, [_row(number) for number in range(MANY)])
    yield connection
    connection.close()


def _row(number: int) -> ItemRow:
    enqueued = float(number - 50 if number % 10 == 0 else number)
    is_running = number > MANY - 100
    return ROW._replace(
        id=f"{number:024x}",
        task=f"task{number % 3}",
        status=Status.RUNNING if is_running else ENDED[number % 2],
        enqueued=enqueued,
        due=enqueued,
        finished=None if is_running else float(number // 4 * 4 + 120),  # four ended at the same time
    )


@pytest.mark.parametrize("since", [None, -1e9, 700.0, 705.5, 5_990.0, 1e9])
@pytest.mark.parametrize("until", [None, -1e9, 710.0, 5_001.0, 1e9])
@pytest.mark.parametrize("statuses", [ENDED, (Status.FAILED,), tuple(Status)])
def test_times(
    large: sqlite3.Connection, since: float | None, until: float | None, statuses: tuple[Status, ...]
) -> None:
    """A count between two times is right at both ends, where rows are not in the order of their times."""
    if since is until is None:
        since = 0.0
    conditions = Conditions(since=since, until=until)
    expected = sum(
        row.status in statuses and conditions.fit(row.task, row.executor, row.key, row.enqueued, row.finished)
        for row in map(_row, range(MANY))
    )
    assert count(large, conditions, *statuses) == expected


@pytest.mark.parametrize("before", [-1.0, 120.0, 1_000.0, 1_001.0, 1e9])
@pytest.mark.parametrize("chunk", [1, 5, 20_000])
def test_ends(large: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, before: float, chunk: int) -> None:
    """Items that ended before a time are counted each once, also where many ended at the same time."""
    monkeypatch.setattr(counting, "_MOST_ENTRIES", chunk)
    (expected,) = large.execute("select count(*) from item where finished < ?", (before,)).fetchone()
    assert count(large, Conditions(ended_before=before), *ENDED) == expected


@pytest.mark.parametrize(
    ("conditions", "statuses"),
    [
        (Conditions(until=5_000.0), ENDED),
        (Conditions(since=500.0), (Status.FAILED,)),
        (Conditions(since=500.0, until=5_000.0, task="task*"), tuple(Status)),
        (Conditions(ended_before=5_000.0), ENDED),
    ],
)
def test_rows_that_an_index_counts(
    large: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    conditions: Conditions,
    statuses: tuple[Status, ...],
) -> None:
    """A count by times looks only at rows from about these times, and not at those in between."""
    looked_at = 0
    rows = search.Walk.rows

    def counted(walk: search.Walk, db: sqlite3.Connection, columns: str, limit: int) -> Iterator[object]:
        nonlocal looked_at
        found = list(rows(walk, db, columns, limit))
        looked_at += len(found)
        yield from found

    monkeypatch.setattr(search.Walk, "rows", counted)
    assert count(large, conditions, *statuses) > 1_000
    assert looked_at <= 2 * 121


def test_steps(large: sqlite3.Connection) -> None:
    """A look goes on until its time is over, and makes a step in any case; the next look goes on there."""
    one = Counting(Conditions(text="nowhere"), [*Status])
    for step in range(1, 5):
        assert not one.look(large, 0.0)
        assert one.steps == step
    assert one.look(large, 9.0)
    assert one.count == 0
