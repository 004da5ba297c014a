"""The queries and statements: none takes longer because the journal has more rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from flask_background.core.status import Status
from flask_background.durable.journal import (
    counts,
    ended_runs,
    migrations,
    outbox,
    queries,
    schedules,
    statements,
    tally,
)
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.durable.journal.row import ItemRow, first_id_after, timed_id
from flask_background.durable.journal.search import Search

from ..rows import ROW

NOW = 1_000_000.0
_FEW, _MANY = 300, 6_000
_LIMIT = 20
_TASKS, _EXECUTORS = ["mail", "shop.rare", "shop.other"], ["thread", "process"]


def _waiting(row: ItemRow) -> ItemRow:
    return row


def _delayed(row: ItemRow) -> ItemRow:
    return row._replace(due=NOW + 1_000.0)


def _unknown(row: ItemRow) -> ItemRow:
    return row._replace(task="shop.gone")


def _for_others(row: ItemRow) -> ItemRow:
    return row._replace(executor="gpu")


def _succeeded(row: ItemRow) -> ItemRow:
    return row._replace(status=Status.SUCCEEDED, finished=row.enqueued, result="null")


def _failed(row: ItemRow) -> ItemRow:
    return row._replace(status=Status.FAILED, finished=row.enqueued)


_JOURNALS = {f.__name__: f for f in (_waiting, _delayed, _unknown, _for_others, _succeeded, _failed)}


@cache
def _journal(kind: str, count: int) -> sqlite3.Connection:
    """A journal with so many rows of one kind, and a few others before and after them."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(db, 0)
    number = 0

    def enter(make: Callable[[ItemRow], ItemRow], task: str | None = None) -> None:
        nonlocal number
        number += 1
        enqueued = NOW - 100.0 + 100.0 * number / count if number < count else NOW
        row = ROW._replace(id=timed_id(f"{number:024x}", enqueued), due=enqueued, enqueued=enqueued)
        made = make(row)
        statements.insert_all(db, [made if task is None else made._replace(task=task)])

    def enter_others() -> None:
        for make in _JOURNALS.values():
            for _ in range(3):
                enter(make, "shop.rare")
                enter(make)
                enter(lambda row: row._replace(owner="1-mine", fence=1, status=Status.RUNNING))

    enter_others()
    for _ in range(count):
        enter(_JOURNALS[kind])
        outbox.insert(db, OutboxRow(f"{number:024x}", "task", "", "", None, None, NOW))
    enter_others()
    db.execute("insert into schedule (name, spec, next) values ('tick', '', 1.0)")
    return db


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for kind in _JOURNALS:
        for count in (_FEW, _MANY):
            _journal(kind, count).close()
    _journal.cache_clear()


_Question = Callable[[sqlite3.Connection], object]
_AN_ID = timed_id(f"{7:024x}", NOW - 100.0)
_WITH_KEY = ROW._replace(id="f" * 24, key="only")
_QUESTIONS: dict[str, _Question] = {
    "get": lambda db: queries.get(db, _AN_ID),
    "items": lambda db: queries.rows(db, limit=_LIMIT),
    "items of a task": lambda db: queries.rows(db, task="shop.rare", limit=_LIMIT),
    "items of no task": lambda db: queries.rows(db, task="shop.none", limit=_LIMIT),
    **{
        f"{status} items": lambda db, status=status: queries.rows(db, status, limit=_LIMIT)
        for status in Status
    },
    **{
        f"{status} items of a task": lambda db, status=status: queries.rows(
            db, status, "shop.rare", limit=_LIMIT
        )
        for status in Status
    },
    "cancels": lambda db: queries.cancels(db, "1-mine"),
    "owners": queries.owners,
    "next due": lambda db: queries.next_due(db, NOW, _EXECUTORS, ["tick"]),
    "is free": lambda db: queries.is_free(db, _TASKS, NOW, _EXECUTORS),
    "is free, nothing known": lambda db: queries.is_free(db, ["shop.none"], NOW, ["none"]),
    "unknown": lambda db: queries.unknown(db, _TASKS, _EXECUTORS, NOW),
    "planned": lambda db: queries.planned(db, NOW),
    "enqueued later": lambda db: queries.enqueued_later(db, NOW, first_id_after(NOW), 100),
    "insert": lambda db: statements.insert_all(db, [ROW._replace(id="e" * 24)]),
    "insert with a key": lambda db: statements.insert(db, _WITH_KEY),
    "claim": lambda db: statements.claim(db, "1-mine", dict.fromkeys(_EXECUTORS, 5), _TASKS, NOW, [_AN_ID]),
    "claim, nothing known": lambda db: statements.claim(db, "1-mine", {"thread": 5}, ["shop.none"], NOW),
    "start": lambda db: statements.start(db, _AN_ID, 0, NOW),
    "finish": lambda db: statements.finish(db, _AN_ID, 0, Status.SUCCEEDED, NOW),
    "release": lambda db: statements.release(db, _AN_ID, 0, NOW),
    "recover": lambda db: statements.recover(db, "1-mine", (), NOW, limit=5),
    "make due": lambda db: statements.make_due(db, [_AN_ID], NOW),
    "cancel": lambda db: statements.request_cancel(db, _AN_ID, NOW),
    "retry": lambda db: statements.retry(db, _AN_ID, NOW),
    "prune": lambda db: statements.prune(db, NOW, 5),
    "purge": lambda db: statements.purge(db, list(Status), _LIMIT),
    "delete": lambda db: statements.delete(db, [_AN_ID]),
    "earlier runs": lambda db: ended_runs.ended_runs(db, _AN_ID),
    "last failed": lambda db: counts.last_failed(db, _TASKS),
    "a page": lambda db: Search(Conditions(), None, None, _LIMIT).look(db, 9.0),
    "a page of failed items": lambda db: Search(Conditions(), Status.FAILED, None, _LIMIT).look(db, 9.0),
    "a page of tasks": lambda db: Search(Conditions(task="shop.*"), None, None, 5).look(db, 9.0),
    "a page of a time": lambda db: Search(Conditions(since=NOW - 9.0), None, None, 5).look(db, 9.0),
    "condense": lambda db: tally.condense(db, NOW),
    "schedules": schedules.schedules,
    "purge failed items": lambda db: statements.purge(db, [Status.FAILED], _LIMIT),
    "fire": lambda db: schedules.fire(db, "tick", 1.0, 2.0, _WITH_KEY),
    "outbox: get": lambda db: outbox.get(db, f"{1:024x}"),
    "outbox: waiting": outbox.is_waiting,
    "outbox: claim": lambda db: outbox.claim(db, "1-mine", 5),
    "outbox: cancel": lambda db: outbox.request_cancel(db, f"{1:024x}", NOW),
    "outbox: prune": lambda db: outbox.prune(db, NOW, 5),
}


_ORDERED = ["SCAN outbox USING INDEX outbox_waiting"]


def _steps(db: sqlite3.Connection, question: _Question) -> int:
    """How many instructions SQLite executes for a question; changes are undone."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    db.execute("begin")
    db.set_progress_handler(count, 1)
    question(db)
    db.set_progress_handler(None, 1)
    db.execute("rollback")
    return steps


@pytest.mark.parametrize("kind", _JOURNALS)
@pytest.mark.parametrize("name", _QUESTIONS)
def test_takes_no_longer_with_more_rows(name: str, kind: str) -> None:
    """A question takes as many steps in a journal of twenty times as many rows, whatever these are."""
    question = _QUESTIONS[name]
    few, many = (_steps(_journal(kind, count), question) for count in (_FEW, _MANY))
    assert few > 0
    assert many <= 1.5 * few + 50


@pytest.mark.parametrize("name", _QUESTIONS)
def test_plan(name: str) -> None:
    """The plan of a question scans neither items nor the outbox, except the newest items in their order."""
    db = _journal("_waiting", _FEW)
    asked: list[str] = []
    db.execute("begin")
    db.set_trace_callback(asked.append)
    _QUESTIONS[name](db)
    db.set_trace_callback(None)
    plan = [row[-1] for sql in asked for row in db.execute(f"explain query plan {sql}")]
    db.execute("rollback")
    scans = [step for step in plan if step.startswith(("SCAN item", "SCAN outbox"))]
    # The newest items, and the waiting rows of the outbox: each is read in order, up to a limit.
    ordered = {"items": ["SCAN item"], "outbox: waiting": _ORDERED, "outbox: claim": _ORDERED}
    assert scans == ordered.get(name, [])


def test_the_steps_of_a_scan_are_seen() -> None:
    """The count of steps tells a scan from a search."""
    few, many = (
        _steps(_journal("_waiting", count), lambda db: db.execute("select count(due) from item").fetchone())
        for count in (_FEW, _MANY)
    )
    assert many > 10 * few


def test_rows_of_a_status() -> None:
    """The items of a status or a task are the ones entered last, oldest first, of all tasks."""
    db = _journal("_succeeded", _FEW)
    everything = queries.rows(db, limit=10_000)
    assert [row.enqueued for row in everything] == sorted(row.enqueued for row in everything)
    for status in (None, *Status):
        for task in (None, "shop.rare", "mail", "shop.none"):
            wanted = [
                row
                for row in everything
                if (status is None or row.status is status) and (task is None or row.task == task)
            ]
            assert queries.rows(db, status, task, limit=10_000) == wanted
            assert queries.rows(db, status, task, limit=7) == wanted[-7:]


def test_oldest_of_all_tasks_are_claimed() -> None:
    """A claim takes the items due first, whichever of the known tasks they are of."""
    db = _journal("_waiting", _FEW)
    db.execute("begin")
    free = [
        row
        for row in queries.rows(db, Status.QUEUED, limit=10_000)
        if row.owner is None and row.executor == "thread" and row.due <= NOW and row.task in _TASKS
    ]
    expected = [row.id for row in sorted(free, key=lambda row: row.due)[:9]]
    claimed = statements.claim(db, "1-mine", {"thread": 9}, _TASKS, NOW)
    assert [row.id for row in claimed] == expected
    db.execute("rollback")


def test_unknown_of_every_task() -> None:
    """However many items of one unknown task wait, those of others are seen, too."""
    db = _journal("_unknown", _FEW)
    found = {(row.executor, row.task) for row in queries.unknown(db, ["mail"], ["thread"], NOW)}
    assert found == {
        ("thread", "shop.gone"),
        ("thread", "shop.rare"),
        ("gpu", "mail"),
        ("gpu", "shop.rare"),
    }
