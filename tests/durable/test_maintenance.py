"""The thread that keeps a process's part of the journal: what it does by itself, and what does not end it."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
