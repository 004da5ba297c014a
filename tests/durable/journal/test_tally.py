"""The tally: what a trigger counts when an item ends, and what becomes of old minutes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from flask_background.core.buckets import BUCKETS, NO_RUN
from flask_background.core.status import Status
from flask_background.durable.journal import ended_runs, migrations, queries, statements, tally
from flask_background.durable.journal.counts import TaskCounts, task_counts
from flask_background.durable.journal.tally import TallyRow

from ..rows import ROW

NOW = 6_000_000.0
MINUTE = int(NOW // 60)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection, 0)
    yield connection
    connection.close()


def enter(db: sqlite3.Connection, number: int = 0, due: float = NOW, owner: str | None = "1-a") -> str:
    """Enter an item."""
    row = ROW._replace(id=f"{number:024x}", due=due, enqueued=NOW, owner=owner, fence=1)
    statements.insert_all(db, [row])
    return row.id


def rows(db: sqlite3.Connection) -> list[TallyRow]:
    """The whole tally."""
    return tally.read(db, 0, 2 * MINUTE, 2 * MINUTE + 1)


@pytest.mark.parametrize("number", range(len(BUCKETS) + 1))
def test_buckets(db: sqlite3.Connection, number: int) -> None:
    """The journal's buckets are those of the code; a bound belongs to the bucket below it."""
    for index, share in enumerate((0.5, 1.0)):
        low = BUCKETS[number - 1] if number else 0.0
        high = BUCKETS[number] if number < len(BUCKETS) else 2 * low
        # As far from the bound as numbers of this size can tell.
        seconds = low + share * (high - low) - 1e-6
        one = enter(db, index, due=0.0)
        statements.start(db, one, 1, seconds)
        statements.finish(db, one, 1, Status.SUCCEEDED, 2 * seconds)
    assert [(row.waited, row.ran, row.items) for row in rows(db)] == [(number, number, 2)]


def test_waits_and_runs(db: sqlite3.Connection) -> None:
    """The wait is that of the last run, from its due time; the sums are in seconds."""
    one = enter(db)
    statements.start(db, one, 1, NOW + 3.0)
    statements.release(db, one, 1, NOW + 5.0, due=NOW + 60.0, error="{}")
    (again,) = statements.claim(db, "2-b", {"thread": 1}, ["mail"], NOW + 61.0)
    statements.start(db, one, again.fence, NOW + 62.0)
    statements.finish(db, one, again.fence, Status.FAILED, NOW + 65.0, error="{}")
    (row,) = rows(db)
    assert (row.status, row.items, row.wait_seconds, row.run_seconds) == ("failed", 1, 2.0, 3.0)


def test_no_run(db: sqlite3.Connection) -> None:
    """An item that is cancelled before it is due has not waited; one that did not run has no run time."""
    early, late = enter(db, 1, due=NOW + 50.0, owner=None), enter(db, 2, owner=None)
    for item_id in (early, late):
        assert statements.request_cancel(db, item_id, NOW + 20.0) == "cancelled"
    assert sorted((row.waited, row.ran, row.wait_seconds) for row in rows(db)) == [
        (0, NO_RUN, 0.0),
        (BUCKETS.index(30.0), NO_RUN, 20.0),
    ]


def test_cancelled_between_runs(db: sqlite3.Connection) -> None:
    """The run before is none of an item that is cancelled while it waits for another one."""
    one = enter(db)
    statements.start(db, one, 1, NOW + 1.0)
    statements.release(db, one, 1, NOW + 2.0, due=NOW + 10.0, error="{}")
    statements.request_cancel(db, one, NOW + 12.0)
    (row,) = rows(db)
    assert (row.status, row.ran, row.wait_seconds) == ("cancelled", NO_RUN, 2.0)


def test_older_code_is_counted(db: sqlite3.Connection) -> None:
    """Processes of an older version, which know of no tally, are counted during a rolling deploy."""
    one = enter(db)
    db.execute(
        "update item set status = 'succeeded', finished = ?, owner = null where id = ?", (NOW + 1.0, one)
    )
    assert sum(row.items for row in rows(db)) == 1
    assert task_counts(db, NOW, NOW)["mail"].items == {Status.SUCCEEDED: 1}


def test_migration_counts_what_is_there() -> None:
    """A journal of the version before begins with the counts of its items."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    for migration in migrations.MIGRATIONS[:3]:
        db.executescript(migration.script)
    for number, finished in enumerate((1.0, 2.0, None)):
        db.execute(
            "insert into item (id, task, executor, options, payload, max_crashes, due, enqueued, status,"
            " finished) values (?, 'mail', 'thread', '{}', '', 3, 1, 1, ?, ?)",
            (str(number), "queued" if finished is None else "failed", finished),
        )
    migrations.migrate(db, 3)
    assert task_counts(db, NOW, NOW)["mail"].items == {Status.FAILED: 2, Status.QUEUED: 1}
    db.close()


def test_late_items(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late items are counted, few or many, and beside items that are delayed or claimed."""
    enter(db, 1, due=NOW - 100.0, owner=None)
    enter(db, 2, due=NOW - 70.0, owner=None)
    enter(db, 3, due=NOW - 1.0, owner=None)
    for number in range(10, 16):
        enter(db, number, due=NOW + 50.0, owner=None)
    enter(db, 4, due=NOW - 90.0)
    expected = {"mail": TaskCounts({Status.QUEUED: 10}, 2, NOW - 100.0)}
    assert task_counts(db, NOW, NOW - 60.0) == expected
    monkeypatch.setattr("flask_background.durable.journal.counts._FEW", 3)
    assert task_counts(db, NOW, NOW - 60.0) == expected


def test_deleted_items_leave_no_runs(db: sqlite3.Connection) -> None:
    """The earlier runs of an item are deleted with the item; the tally stays."""
    one = enter(db)
    statements.start(db, one, 1, NOW)
    statements.finish(db, one, 1, Status.FAILED, NOW, error="{}")
    assert statements.retry(db, one, NOW)
    assert [run.how for run in ended_runs.ended_runs(db, one)] == ["failed"]
    (again,) = statements.claim(db, "1-a", {"thread": 1}, ["mail"], NOW)
    statements.finish(db, one, again.fence, Status.SUCCEEDED, NOW)
    assert statements.prune(db, NOW + 1.0, 10) == [one]
    assert ended_runs.ended_runs(db, one) == []
    assert task_counts(db, NOW, NOW) == {}
    assert {row.status for row in rows(db)} == {"failed", "succeeded"}


def test_condense(db: sqlite3.Connection) -> None:
    """Old minutes become steps with the same sums, and very old ones are deleted."""
    ages = [0, 14, 30, 31, 180, 250, 290, 2_000, tally.KEPT_MINUTES + 1]
    entered = [TallyRow(MINUTE - age, "mail", "failed", 2, 3, 1, 0.5, 0.25) for age in ages]
    tally.add(db, entered)
    for _ in range(100):  # a process looks each minute, and one that has not run for long finds more
        if not tally.condense(db, NOW):
            break
    left = db.execute("select minute, sum(items) from tally group by minute order by minute").fetchall()
    assert sum(items for _, items in left) == len(ages) - 1
    for minute, _ in left:
        age = MINUTE - minute
        assert age <= 20 or minute % tally.STEP == 0 or age > 290
    (total,) = db.execute("select total(wait_seconds) from tally").fetchone()
    assert total == 0.5 * (len(ages) - 1)


def test_steps(db: sqlite3.Connection) -> None:
    """The rows of steps add up to those of minutes, whatever the length of a step."""
    for minute in range(MINUTE - 60, MINUTE):
        tally.add(db, [TallyRow(minute, "mail", "failed", minute % 3, 1, 2, 1.0, 1.0)])
    for step in (1, 5, 7, 60):
        found = tally.read(db, MINUTE - 60, MINUTE - 1, step)
        assert sum(row.items for row in found) == 120
        assert {(row.minute - (MINUTE - 60)) % step for row in found} == {0}


def test_description_is_kept(db: sqlite3.Connection) -> None:
    """The description is a column of the item."""
    statements.insert_all(db, [ROW._replace(description="order 7")])
    found = queries.get(db, ROW.id)
    assert found is not None
    assert found.description == "order 7"
