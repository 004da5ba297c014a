"""The removal of ended items: in small pieces, so that views need not wait for it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.durable import removal
from flask_background.durable.journal import statements
from flask_background.durable.journal.row import ItemRow

from ..helpers import BOUND, Site
from .rows import ROW


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own, in a process that only looks."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_RUN_IN_WEB=False)


def enter(site: Site, *rows: ItemRow) -> None:
    """Enter rows as other processes would have left them."""
    state_of(site.app).durable.session.writer.write(lambda db: statements.insert_all(db, rows))


def ended(number: int, status: Status, task: str = "mail") -> ItemRow:
    """An item that has just ended."""
    return ROW._replace(id=f"{number:024x}", task=task, status=status, finished=time.time())


def test_purge_in_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge removes few items in one transaction, and other steps are written between two of them."""
    monkeypatch.setattr(removal, "_MOST", 10)
    pieces: list[int] = []
    original = statements.purge
    waiting = site.background.task(durable=True, name="waiting")(print).enqueue()
    rows = [ended(number, Status.SUCCEEDED, f"task-{number % 3}") for number in range(34)]
    enter(site, *rows, *(ended(100 + number, Status.FAILED) for number in range(5)))
    durable = state_of(site.app).durable

    def purge(db: sqlite3.Connection, **values: Any) -> list[str]:
        gone = original(db, **values)
        pieces.append(len(gone))
        # A view enqueues while the purge goes on.
        durable.session.writer.write_later(lambda db: pieces.append(-1))
        return gone

    monkeypatch.setattr(statements, "purge", purge)
    assert durable.maintenance.removal.purge([Status.SUCCEEDED, Status.QUEUED, Status.RUNNING]) == 34
    assert durable.session.writer.flush(BOUND)
    assert [piece for piece in pieces if piece >= 0] == [10, 10, 10, 4]
    assert pieces[1] == -1
    left = site.background.items()
    assert [item.status for item in left] == [Status.FAILED] * 5 + [Status.QUEUED]
    assert left[-1].id == waiting.id


def test_orphans_are_looked_for_once_an_hour(site: Site, tmp_path: Path) -> None:
    """Uploads of an item that never came into the journal are removed; a waiting item keeps its own."""
    enter(site, ROW)
    folder = tmp_path / "journal" / "uploads"
    for name in (ROW.id, "f" * 24, "e" * 24):
        (folder / name).mkdir(parents=True)
    now = time.time()
    for name in (ROW.id, "f" * 24):
        os.utime(folder / name, (now - 4_000, now - 4_000))
    removing = removal.Removal(state_of(site.app).durable.session, keep=60.0)
    removing.remove_orphans(now)
    assert sorted(path.name for path in folder.iterdir()) == sorted([ROW.id, "e" * 24])
    removing.remove_orphans(now + 3_500)
    assert (folder / ("e" * 24)).exists()
    removing.remove_orphans(now + 3_700)
    assert [path.name for path in folder.iterdir()] == [ROW.id]
