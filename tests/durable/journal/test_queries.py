"""What is asked of the journal: that it is found by way of an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_background.durable.journal import queries
from flask_background.durable.journal.database import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    database = Database(tmp_path)
    with database.write_lock:
        yield database.open()
        database.close()


def test_next_due(db: sqlite3.Connection) -> None:
    """When the next item is due is asked at every bell, however many wait for their time."""
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    assert queries.next_due(db, 1.0, ["thread", "asyncio"], ["tick"]) is None
    db.set_trace_callback(None)
    plan = [row[-1] for row in db.execute(f"explain query plan {asked[0]}")]
    steps = [step for step in plan if "item" in step]
    assert len(steps) == 2
    for step in steps:
        assert step.startswith("SEARCH")
        assert step.endswith("INDEX item_free (executor=? AND due>?)")
