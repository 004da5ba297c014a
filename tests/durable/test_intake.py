"""How durable items come into the journal, when something comes in between."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage

from flask_background import Status, current_item
from flask_background.app_state import state_of
from flask_background.durable.backend import DurableBackend
from flask_background.durable.journal.writer import Writer

from ..helpers import BOUND, Site, until


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal")


def durable(site: Site) -> DurableBackend:
    """The app's journal in this process."""
    backend: DurableBackend = state_of(site.app).durable
    return backend


class BrokenOff(BaseException):
    """An error that a signal handler, or gevent's Timeout, raises where a view waits."""


@pytest.mark.parametrize("written", [False, True])
def test_broken_off(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: bool) -> None:
    """A view that is broken off while it waits for the disk leaves no item that never runs."""

    def read(upload: FileStorage) -> bytes:
        return upload.read()

    task = site.background.task(durable=True, name="read")(read).using(key="one")
    journal = durable(site)
    wait_for = Writer._wait_for

    def break_off(self: Writer, write: Any, patience: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            wait_for(self, write, patience)
            return
        if written:
            wait_for(self, write, patience)
        else:
            self._steps.put_back([write])
        raise BrokenOff

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_write_alone", lambda *_: False)
        patch.setattr(Writer, "_wait_for", break_off)
        with pytest.raises(BrokenOff):
            task.enqueue(FileStorage(io.BytesIO(b"first"), "a.png"))
    assert journal.session.writer.flush(BOUND)
    assert [item.status for item in site.background.items()] == [Status.CANCELLED] * written
    assert task.enqueue(FileStorage(io.BytesIO(b"second"), "a.png")).result(BOUND) == b"second"
    until(lambda: not list((tmp_path / "journal" / "uploads").iterdir()))


def test_signal_after_the_entry(site: Site) -> None:
    """An item, which is on disk, runs although a receiver of ``item_enqueued`` raises an error."""
    from flask_background import signals

    ran = []

    def receive(sender: Any, item: Any) -> None:
        raise BrokenOff

    with signals.item_enqueued.connected_to(receive, site.app), pytest.raises(BrokenOff):
        site.background.task(durable=True, name="work")(lambda: ran.append(1)).enqueue()
    assert site.background.wait_idle(BOUND)
    assert ran == [1]


def test_claimed_and_not_arrived(site: Site) -> None:
    """New items wait behind those that were claimed a moment ago, until these are here."""
    journal = durable(site)
    journal.maintenance.close(BOUND)  # it would look as well
    backlog = journal.claimer._backlog
    backlog.left += 1
    backlog.is_claiming = True
    journal.claimer.claim(time.time())
    assert backlog.caught_up < backlog.left
    backlog.is_claiming = False
    journal.claimer.claim(time.time())
    assert backlog.caught_up == backlog.left


def test_descriptions(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """The items of periodic tasks have descriptions, and other processes find those of all durable items."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    seen: list[str | None] = []

    @site.background.periodic(seconds=0.05, describe=lambda: "every now\nand then")
    def poll() -> None:
        seen.append(current_item.description)

    @site.background.task(durable=True, describe=lambda number: f"order {number}")
    def order(number: int) -> str | None:
        return current_item.description

    with site.app.app_context():
        item = order.using(delay=60).enqueue(7)
        until(lambda: seen)
        site.background.stop(0)
    assert seen[0] == "every now and then"
    other = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    with other.app.app_context():
        found = other.background.get(item.id)
        assert found is not None
        assert found.description == "order 7"
        other.background.stop(0)
