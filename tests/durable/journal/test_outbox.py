"""The rows that wait for Celery: claimed, handed over, freed, cancelled and parked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_background.core.settings import OUTBOX
from flask_background.core.status import Status
from flask_background.durable.journal import outbox, queries
from flask_background.durable.journal import statements as store
from flask_background.durable.journal.database import Database
from flask_background.durable.journal.row import ItemRow


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A journal with three items that wait, and one that runs here."""
    database = Database(tmp_path)
    with database.turn:
        connection = database.open()
    store.insert_all(connection, [_entry(number) for number in range(3)])
    store.insert_all(connection, [_entry(3)._replace(executor="thread")])
    yield connection
    with database.turn:
        database.close()
    database.turn.close()


def _entry(number: int) -> ItemRow:
    return ItemRow(
        id=f"item-{number}",
        task="mail",
        executor=OUTBOX,
        options="{}",
        payload="[[],{}]",
        status=Status.QUEUED,
        max_crashes=3,
        due=1_000.0,
        enqueued=float(number),
    )


def _claim(db: sqlite3.Connection, owner: str = "me", limit: int = 10) -> list[ItemRow]:
    return outbox.claim(db, owner, limit)


def _ids(entries: list[ItemRow]) -> list[str]:
    return [entry.id for entry in entries]


def test_claim(db: sqlite3.Connection) -> None:
    """Each by one owner, whether it is due or not; nobody who runs items gets them."""
    assert outbox.is_waiting(db)
    assert _ids(store.claim(db, "me", {"thread": 9}, ["mail"], 2_000.0)) == ["item-3"]
    assert _ids(_claim(db, limit=2)) == ["item-0", "item-1"]
    assert _ids(_claim(db, "other")) == ["item-2"]
    assert not outbox.is_waiting(db)
    assert _claim(db) == []


def test_index(db: sqlite3.Connection) -> None:
    """To find nothing, or the next ones among many others, takes no scan."""
    for query in (outbox.is_waiting, lambda db: outbox.claim(db, "me", 1)):
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        query(db)
        db.set_trace_callback(None)
        plan = " ".join(row[3] for row in db.execute(f"explain query plan {statements[0]}"))
        assert "item_outbox" in plan
        assert "B-TREE" not in plan


def test_settle(db: sqlite3.Connection) -> None:
    """What was handed over is gone, the rest is free again."""
    claimed = _claim(db)
    assert outbox.settle(db, "me", claimed, {"item-1"}, 5.0) == []
    assert queries.get(db, "item-1") is None
    assert _ids(_claim(db)) == ["item-0", "item-2"]


def test_settle_after_another_claim(db: sqlite3.Connection) -> None:
    """Who comes too late changes nothing."""
    late = _claim(db)
    store.recover(db, "me", (), 5.0)
    _claim(db, "other")
    outbox.settle(db, "me", late, set(_ids(late)), 5.0)
    found = queries.get(db, "item-0")
    assert found is not None
    assert (found.owner, found.fence) == ("other", 2)


def test_cancelled_while_claimed(db: sqlite3.Connection) -> None:
    """What Celery has stays until it is told; what it does not have has been cancelled."""
    claimed = _claim(db)
    assert store.request_cancel(db, "item-0", 5.0) == "asked"
    assert store.request_cancel(db, "item-1", 5.0) == "asked"
    ended = outbox.settle(db, "me", claimed, {"item-0", "item-2"}, 6.0)
    assert [(entry.id, entry.status, entry.cancel) for entry in ended] == [("item-1", Status.CANCELLED, 0)]
    again = _claim(db)
    assert [(entry.id, entry.status, entry.cancel) for entry in again] == [
        ("item-0", Status.QUEUED, 1),
        ("item-1", Status.CANCELLED, 0),
    ]
    outbox.settle(db, "me", again, {"item-0", "item-1"}, 7.0)
    assert not outbox.is_waiting(db)
    assert queries.get(db, "item-0") is queries.get(db, "item-1") is None


def test_cancelled_while_it_waits(db: sqlite3.Connection) -> None:
    """It is cancelled at once, and still to be handed over."""
    assert store.request_cancel(db, "item-0", 5.0) == "cancelled"
    assert [entry.status for entry in _claim(db)] == [Status.CANCELLED, Status.QUEUED, Status.QUEUED]


def test_recover(db: sqlite3.Connection) -> None:
    """A dead owner's are free as they were: nothing has run, and what was asked is still to be told."""
    store.request_cancel(db, "item-0", 5.0)
    _claim(db)
    store.request_cancel(db, "item-1", 5.0)
    recovered = store.recover(db, "me", ("item-2",), 6.0)
    assert recovered == (3, [])
    assert [(entry.status, entry.cancel, entry.crashes) for entry in _claim(db)] == [
        (Status.CANCELLED, 0, 0),
        (Status.QUEUED, 1, 0),
        (Status.QUEUED, 0, 0),
    ]


def test_refuse(db: sqlite3.Connection) -> None:
    """What is wrong with itself comes after the others, and is parked at last."""
    for attempt in range(2):
        claimed = _claim(db)
        poison = next(entry for entry in claimed if entry.id == "item-0")
        assert outbox.refuse(db, poison, "too odd", 2, 5.0) is (attempt == 1)
        outbox.settle(db, "me", claimed, (), 5.0)
        if attempt == 0:
            assert _ids(_claim(db)) == ["item-1", "item-2", "item-0"]
            outbox.settle(db, "me", (), (), 5.0)
    found = queries.get(db, "item-0")
    assert found is not None
    assert (found.status, found.reason, found.owner) == (Status.FAILED, "too odd", None)
    assert _ids(_claim(db)) == ["item-1", "item-2"]
