"""The rows that wait for another backend: claimed, forwarded, freed, cancelled, refused and tried again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_background.core.status import Status
from flask_background.durable.journal import outbox, queries, statements
from flask_background.durable.journal.database import Database
from flask_background.durable.journal.outbox import OutboxRow


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A journal with three items that wait."""
    database = Database(tmp_path)
    with database.write_lock:
        connection = database.open()
    for number in range(3):
        outbox.insert(connection, _row(number))
    yield connection
    with database.write_lock:
        database.close()
    database.write_lock.close()


def _row(number: int) -> OutboxRow:
    return OutboxRow(
        id=f"item-{number}",
        task="mail",
        payload="[[],{}]",
        options="{}",
        state=None,
        due=1_000.0,
        enqueued=float(number),
    )


def _claim(db: sqlite3.Connection, owner: str = "me", limit: int = 10) -> list[OutboxRow]:
    return outbox.claim(db, owner, limit)


def _ids(rows: list[OutboxRow]) -> list[str]:
    return [row.id for row in rows]


def test_claim(db: sqlite3.Connection) -> None:
    """Each row by one process, whether it is due or not; no row by a process that runs items."""
    assert outbox.is_waiting(db)
    assert statements.claim(db, "me", {"thread": 9}, ["mail"], 2_000.0) == []
    assert _ids(_claim(db, limit=2)) == ["item-0", "item-1"]
    assert _ids(_claim(db, "other")) == ["item-2"]
    assert not outbox.is_waiting(db)
    assert _claim(db) == []
    assert queries.owners(db) == ["me", "other"]


def test_index(db: sqlite3.Connection) -> None:
    """To find nothing, or the next ones among many others, takes no scan."""
    for query in (outbox.is_waiting, lambda db: outbox.claim(db, "me", 1)):
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        query(db)
        db.set_trace_callback(None)
        plan = " ".join(row[3] for row in db.execute(f"explain query plan {statements[0]}"))
        assert "outbox_waiting" in plan
        assert "B-TREE" not in plan


def test_settle(db: sqlite3.Connection) -> None:
    """Forwarded rows are gone, and the other claimed rows are free again."""
    claimed = _claim(db)
    assert outbox.settle(db, "me", claimed, {"item-1"}, 5.0) == []
    assert outbox.get(db, "item-1") is None
    assert _ids(_claim(db)) == ["item-0", "item-2"]


def test_settle_after_another_claim(db: sqlite3.Connection) -> None:
    """A process that settles too late changes nothing."""
    late = _claim(db)
    statements.recover(db, "me", (), 5.0)
    _claim(db, "other")
    outbox.settle(db, "me", late, set(_ids(late)), 5.0)
    found = outbox.get(db, "item-0")
    assert found is not None
    assert (found.owner, found.fence) == ("other", 2)


def test_cancelled_while_claimed(db: sqlite3.Connection) -> None:
    """A cancelled item that was forwarded stays until Celery is told; one that was not is cancelled."""
    claimed = _claim(db)
    assert outbox.request_cancel(db, "item-0", 5.0) == "asked"
    assert outbox.request_cancel(db, "item-1", 5.0) == "asked"
    ended = outbox.settle(db, "me", claimed, {"item-0", "item-2"}, 6.0)
    assert [(row.id, row.status, row.cancel) for row in ended] == [("item-1", Status.CANCELLED, 0)]
    again = _claim(db)
    assert [(row.id, row.status, row.cancel) for row in again] == [
        ("item-0", Status.QUEUED, 1),
        ("item-1", Status.CANCELLED, 0),
    ]
    outbox.settle(db, "me", again, {"item-0", "item-1"}, 7.0)
    assert not outbox.is_waiting(db)
    assert outbox.get(db, "item-0") is outbox.get(db, "item-1") is None


def test_cancelled_while_it_waits(db: sqlite3.Connection) -> None:
    """It is cancelled at once, and still to be handed over."""
    assert outbox.request_cancel(db, "item-0", 5.0) == "cancelled"
    assert [row.status for row in _claim(db)] == [Status.CANCELLED, Status.QUEUED, Status.QUEUED]


def test_recover(db: sqlite3.Connection) -> None:
    """A dead process's rows are free as they were: none has run, and what was asked is still to be told."""
    outbox.request_cancel(db, "item-0", 5.0)
    _claim(db)
    outbox.request_cancel(db, "item-1", 5.0)
    assert statements.recover(db, "me", ("item-2",), 6.0) == (3, [])
    assert [(row.status, row.cancel, row.attempts) for row in _claim(db)] == [
        (Status.CANCELLED, False, 0),
        (Status.QUEUED, True, 0),
        (Status.QUEUED, False, 0),
    ]


def test_refuse(db: sqlite3.Connection) -> None:
    """An item that the backend refuses comes after the others, and is parked at last."""
    for attempt in range(2):
        claimed = _claim(db)
        poison = next(row for row in claimed if row.id == "item-0")
        assert outbox.refuse(db, poison, "too odd", 2, 5.0) is (attempt == 1)
        outbox.settle(db, "me", claimed, (), 5.0)
        if attempt == 0:
            assert _ids(_claim(db)) == ["item-1", "item-2", "item-0"]
            outbox.settle(db, "me", (), (), 5.0)
    found = outbox.get(db, "item-0")
    assert found is not None
    assert (found.status, found.reason, found.owner, found.finished) == (Status.FAILED, "too odd", None, 5.0)
    assert _ids(_claim(db)) == ["item-1", "item-2"]


def test_retry(db: sqlite3.Connection) -> None:
    """A row that has failed or was cancelled waits again as if it were new; one that waits stays as it is."""
    (first, *_) = _claim(db, limit=1)
    assert outbox.refuse(db, first, "too odd", 1, 5.0)
    outbox.request_cancel(db, "item-1", 5.0)
    assert [outbox.retry(db, row.id) for row in (first, _row(1), _row(2))] == [True, True, False]
    assert [(row.status, row.attempts, row.reason, row.finished) for row in outbox.rows(db)] == [
        (Status.QUEUED, 0, None, None)
    ] * 3


def test_forgotten(db: sqlite3.Connection) -> None:
    """Rows that have ended are deleted by their age, or by how they ended; rows that wait stay."""
    for number, at in ((0, 5.0), (1, 50.0)):
        outbox.request_cancel(db, f"item-{number}", at)
    assert outbox.prune(db, 10.0, 500) == 1
    assert outbox.stats(db) == {Status.CANCELLED: 1, Status.QUEUED: 1}
    assert outbox.purge(db, [Status.FAILED, Status.QUEUED]) == 0
    assert outbox.purge(db, list(Status)) == 1
    assert _ids(outbox.rows(db)) == ["item-2"]


def test_rows(db: sqlite3.Connection) -> None:
    """The rows that were enqueued last, in order; by status, and by task."""
    outbox.request_cancel(db, "item-0", 5.0)
    assert _ids(outbox.rows(db, limit=2)) == ["item-1", "item-2"]
    assert _ids(outbox.rows(db, Status.CANCELLED)) == ["item-0"]
    assert outbox.rows(db, task="other") == []
    shown = outbox.rows(db)[0].as_item()
    assert (shown.id, shown.status, shown.due, shown.executor) == (
        "item-0",
        Status.CANCELLED,
        1_000.0,
        "outbox",
    )
