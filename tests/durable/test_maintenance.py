"""The thread that keeps a process's part of the journal: what it does by itself, and what does not end it."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import current_item
from flask_background.app_state import state_of
from flask_background.durable import maintenance as keeper
from flask_background.durable import removal
from flask_background.durable.journal import statements
from flask_background.durable.journal.watch import ProcessWatch

from ..helpers import BOUND, Site, lines, until


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An app with a journal of its own, whose keeper tries again soon."""
    monkeypatch.setattr(keeper, "_TROUBLE", 0.01)
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal")


@pytest.mark.parametrize("name", ["dead", "wait"])
def test_no_descriptors_left(
    site: Site, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When it cannot even wait it says so once, and goes on when it can."""
    before, fails = getattr(ProcessWatch, name), list(range(5))

    def fail(watch: ProcessWatch, *args: Any) -> list[str]:
        if fails:
            raise OSError(errno.EMFILE, f"Too many open files, {fails.pop()}")
        return before(watch, *args)  # type: ignore[no-any-return]

    monkeypatch.setattr(ProcessWatch, name, fail)
    task = site.background.task(durable=True)(lambda: 42)
    assert task.using(delay=0.05).enqueue().result(BOUND) == 42
    until(lambda: not fails)
    assert len([line for line in lines(caplog) if "cannot be maintained" in line]) == 1


def test_all_that_ended_long_ago(
    make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let go of in small parts, one soon after the other, and what may still be asked for stays."""
    parts: list[int] = []
    original = statements.prune

    def prune(db: sqlite3.Connection, before: float, limit: int) -> list[str]:
        gone = original(db, before, limit)
        parts.append(len(gone))
        return gone

    monkeypatch.setattr(removal, "_MOST", 10)
    monkeypatch.setattr(statements, "prune", prune)
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    task = site.background.task(durable=True)(lambda: None)
    items = [task.enqueue() for _ in range(36)]
    for item in items:
        assert item.wait(BOUND)
    durable = state_of(site.app).durable
    old = [item.id for item in items[:35]]
    parts.clear()
    durable.session.writer.write(
        lambda db: (
            db.execute(
                f"update item set finished = 1 where id in ({', '.join('?' * len(old))})", old
            ).rowcount
        )
    )
    durable.maintenance._looked_over_at = 0.0
    durable.session.wake_self()
    until(lambda: len(parts) == 4, keeper._NET / 2)
    assert parts == [10, 10, 10, 5]
    assert [item.id for item in durable.items()] == [items[35].id]


def test_thread_that_is_faster_than_the_backend(
    make_site: Callable[..., Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread runs left items, which use the journal, before the app knows its backend."""
    journal = tmp_path / "journal"
    before = make_site(BACKGROUND_JOURNAL=journal, BACKGROUND_RUN_IN_WEB=False)
    left = before.background.task(durable=True, name="parent")(print).enqueue()
    assert before.background.stop(0) == []
    site = make_site(BACKGROUND_JOURNAL=journal)
    began = threading.Event()
    start = keeper.JournalMaintenance.start

    def start_and_wait(maintenance: keeper.JournalMaintenance) -> None:
        assert state_of(site.app)._journal.made is None
        start(maintenance)
        assert began.wait(BOUND)
        assert maintenance.has_looked.wait(BOUND)

    monkeypatch.setattr(keeper.JournalMaintenance, "start", start_and_wait)
    child = site.background.task(durable=True, name="child")(lambda: 42)

    @site.background.task(durable=True, name="parent")
    def parent() -> tuple[str, int]:
        began.set()
        current_item.report_progress(1, 2)
        return current_item.id, child.enqueue().result(BOUND)

    state_of(site.app).look_for_work()
    item = site.background.get(left.id)
    assert item is not None
    assert item.result(BOUND) == (left.id, 42)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_wake_up_before_the_first_look(
    make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake-up that comes before the thread waits is not lost: the thread looks again at once."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    monkeypatch.setattr(keeper, "_NET", BOUND)
    looks: list[float] = []
    look = keeper.JournalMaintenance._look

    def look_and_wake(maintenance: keeper.JournalMaintenance, dead: list[str]) -> float:
        timeout = look(maintenance, dead)
        looks.append(timeout)
        if len(looks) == 1:
            maintenance._session.wake_self()
        return BOUND

    monkeypatch.setattr(keeper.JournalMaintenance, "_look", look_and_wake)
    state_of(site.app).durable  # noqa: B018
    until(lambda: len(looks) >= 2, BOUND / 2)
