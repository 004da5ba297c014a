"""The runs of durable items: what the journal hears of their ends, and how they leave this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status, current_item, signals
from flask_background.app_state import state_of
from flask_background.durable import backlog, runs
from flask_background.durable.backend import DurableBackend
from flask_background.durable.journal import statements
from flask_background.errors import ItemFailedError

from ..helpers import BOUND, Site, until


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with one thread, and a journal of its own."""
    return make_site(BACKGROUND_WORKERS=1, BACKGROUND_JOURNAL=tmp_path / "journal")


def durable(site: Site) -> DurableBackend:
    """The app's journal in this process."""
    backend: DurableBackend = state_of(site.app).durable
    return backend


def test_end_that_cannot_be_worked_out(site: Site) -> None:
    """An error in what decides on the next attempt fails the item, and its thread goes on."""

    def backoff(attempt: int, error: BaseException) -> float:
        raise ZeroDivisionError("no backoff")

    @site.background.task(durable=True, name="work", max_attempts=3, backoff=backoff)
    def work() -> None:
        raise OSError("the first error")

    item = work.enqueue()
    with pytest.raises((ZeroDivisionError, ItemFailedError, OSError)):
        item.result(BOUND)
    assert item.status is Status.FAILED
    assert site.background.task(durable=True, name="next")(lambda: 42).enqueue().result(BOUND) == 42


def test_end_that_cannot_be_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong when a run's end is written down, the item ends, as failed."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("it cannot be written down")

    monkeypatch.setattr(runs, "result_as_data", broken)
    item = site.background.task(durable=True, name="work")(lambda: 42).enqueue()
    with pytest.raises((RuntimeError, ItemFailedError), match="it cannot be written down"):
        item.result(BOUND)
    assert site.background.wait_idle(BOUND)


def test_look_and_arrival(site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that a look has read is old news if the item has come to this process meanwhile."""
    task = site.background.task(durable=True, name="work", max_attempts=2, backoff=0.05)

    @task
    def work() -> int:
        if not gate.is_set():
            gate.set()
            raise OSError
        return 42

    journal = durable(site)
    look = runs.Runs.look
    read = threading.Event()

    def slow(self: runs.Runs, item_id: str) -> Any:
        row = look(self, item_id)
        if row is not None and row.owner is None and not row.status.is_final:
            read.set()
            until(lambda: item.here or item._announced)  # it is claimed for the second attempt
        return row

    monkeypatch.setattr(runs.Runs, "look", slow)
    item: Any = work.enqueue()
    until(lambda: not item.here or item._announced)
    assert item.status is not None
    assert item.result(BOUND) == 42
    assert (item.attempt, item.status) == (2, Status.SUCCEEDED)
    assert journal.session.local.ledger.is_idle()


def test_a_running_item_is_not_given_back(site: Site, gate: threading.Event) -> None:
    """A stop that comes between the claim of an item and its new status leaves it to its run."""
    began = threading.Event()

    @site.background.task(durable=True, name="work")
    def work() -> None:
        began.set()
        gate.wait(BOUND)

    item: Any = work.enqueue()
    assert began.wait(BOUND)
    item._move(Status.QUEUED)  # as the stop may see it
    journal = durable(site)
    journal.stop_begins()
    assert journal.session.writer.flush(BOUND)
    assert item.here
    row = journal.session.read_row(item.id)
    assert row is not None
    assert row.owner == journal.session.process_lock.id
    item._move(Status.RUNNING)
    gate.set()
    assert item.result(BOUND) is None


def test_stale_entry_of_a_queue(site: Site, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that left this process and came back is in its executor's queue twice, and runs once."""
    monkeypatch.setattr(backlog, "_STUCK", 2 * BOUND)
    runs_of: list[str] = []
    began = threading.Event()

    @site.background.task(durable=True, name="block")
    def block() -> None:
        began.set()
        gate.wait(BOUND)

    @site.background.task(durable=True, name="work")
    def work() -> None:
        runs_of.append(current_item.id)

    assert work.enqueue().wait(BOUND)  # the runs are short, so the process claims items ahead
    blocked = block.enqueue()
    assert began.wait(BOUND)
    item: Any = work.enqueue()
    journal, backend = durable(site), state_of(site.app).backend
    assert item.id in backend.executors["thread"].queued
    for _ in range(3):
        fence = item.row.fence
        assert backend.let_go(item)
        journal.runs.give_back(item)
        until(lambda: item.row.fence > fence and item.id in backend.executors["thread"].queued)  # noqa: B023
    gate.set()
    assert blocked.wait(BOUND)
    assert item.wait(BOUND)
    assert work.enqueue().wait(BOUND)  # behind all the entries of the first one
    assert runs_of.count(item.id) == 1
    assert (item.status, item.attempt) == (Status.SUCCEEDED, 1)


def test_claimed_at_the_last_moment(site: Site) -> None:
    """An item that a stopping process owns without knowing of it is free when the process's file is gone."""
    task = site.background.task(durable=True, name="work")(lambda: None)
    journal = durable(site)
    item = task.using(delay=3600).enqueue()
    journal.session.writer.write(
        lambda db: db.execute(
            "update item set owner = ?, fence = 1, due = 0", (journal.session.process_lock.id,)
        )
    )
    site.background.stop(0)
    row = journal.session.read_row(item.id)
    assert row is not None
    assert (row.owner, row.status) == (None, Status.QUEUED)


def test_cancelled_before_the_crash(site: Site, gate: threading.Event) -> None:
    """When ``cancel`` has said yes the journal knows it, should the process die before the run has ended."""
    began = threading.Event()

    @site.background.task(durable=True, name="work")
    def work() -> None:
        began.set()
        gate.wait(BOUND)

    item = work.enqueue()
    assert began.wait(BOUND)
    assert item.cancel()
    journal = durable(site)
    row = journal.session.read_row(item.id)
    assert row is not None
    assert row.cancel
    gate.set()
    assert item.wait(BOUND)


def test_unwanted_is_not_released(site: Site) -> None:
    """An item that somebody wants to end is not run again when its process gives it back."""
    task = site.background.task(durable=True, name="work")(lambda: None)
    journal = durable(site)
    item = task.using(delay=3600).enqueue()

    def give_back(db: Any) -> Any:
        db.execute("update item set owner = 'x', fence = 1, cancel = 1")
        return statements.release(db, item.id, 1, now=time.time())

    ended = journal.session.writer.write(give_back)
    assert ended is not None
    assert ended.status is item.status is Status.CANCELLED


def test_attempt_in_signals(site: Site) -> None:
    """Whoever hears that an item starts, or is retried, is told which attempt that is."""
    heard = []

    def started(sender: Any, item: Any) -> None:
        heard.append(("started", item.attempt))

    def retried(sender: Any, item: Any, **_: Any) -> None:
        heard.append(("retried", item.attempt))

    @site.background.task(durable=True, name="work", max_attempts=2, backoff=0.01)
    def work() -> None:
        if current_item.attempt == 1:
            raise OSError

    with (
        signals.item_started.connected_to(started, site.app),
        signals.item_retried.connected_to(retried, site.app),
    ):
        work.enqueue().result(BOUND)
    assert heard == [("started", 1), ("retried", 1), ("started", 2)]


def test_last_report(site: Site, gate: threading.Event) -> None:
    """The last progress before a long step comes into the journal, however soon it follows others."""

    @site.background.task(durable=True, name="work")
    def work() -> None:
        for done in range(1, 6):
            current_item.report_progress(done, 5)
        gate.wait(BOUND)

    item = work.enqueue()
    journal = durable(site)

    def reported() -> bool:
        row = journal.session.read_row(item.id)
        return row is not None and row.progress == "[5, 5, null]"

    until(reported)
    assert item.status is Status.RUNNING
    gate.set()
    assert item.wait(BOUND)
