"""Claimed items that the process cannot take: they stay nobody's, and no other item waits for them."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import WorkItem, signals
from flask_background.app_state import state_of
from flask_background.concurrency import native
from flask_background.durable import backlog
from flask_background.durable.handle import DurableItem
from flask_background.local.backend import LocalBackend

from ..helpers import BOUND, Site, lines, until


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    """An app with a journal of its own."""
    return make_site(BACKGROUND_JOURNAL=tmp_path / "journal")


@pytest.mark.parametrize("when", ["before it arrives", "before it is taken", "after it is taken"])
def test_row_that_raises(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """An error with one claimed item keeps none of the others, and that item is claimed again."""
    task = site.background.task(durable=True, name="work")(lambda number: number)
    failed: list[str] = []
    take, arrive = LocalBackend.take, DurableItem.arrive

    def fail_once(item_id: str) -> None:
        if not failed:
            failed.append(item_id)
            raise OSError(errno.EMFILE, "Too many open files")

    def take_later(self: LocalBackend, item: WorkItem[Any], held: bool = False) -> bool:
        if when == "before it is taken":
            fail_once(item.id)
        elif when == "after it is taken" and not failed:
            take(self, item, held=True)
            fail_once(item.id)
        return take(self, item, held)

    def arrive_later(self: DurableItem[Any], row: Any) -> None:
        if when == "before it arrives":
            fail_once(self.id)
        arrive(self, row)

    items = [task.using(delay=0.3).enqueue(number) for number in range(3)]
    monkeypatch.setattr(LocalBackend, "take", take_later)
    monkeypatch.setattr(DurableItem, "arrive", arrive_later)
    assert [item.result(BOUND) for item in items] == [0, 1, 2]
    assert [line for line in lines(caplog) if failed[0] in line and "could not be taken" in line]


def test_no_file_for_the_event_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claimed coroutine is given back while no event loop can be made, and is not claimed without pause."""
    refused: list[str] = []
    make = native.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        if len(refused) < 3:
            refused.append("loop")
            raise OSError(errno.EMFILE, "Too many open files")
        return make()

    @site.background.task(durable=True, name="work")
    async def work() -> int:
        return 42

    monkeypatch.setattr(native, "new_event_loop", new_event_loop)
    item = work.using(delay=0.1).enqueue()
    assert not item.wait(1.0)
    assert item.result(BOUND) == 42
    assert len(refused) == 3


def test_slow_receivers(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """Items whose ends slow receivers are still hearing of keep no other item from being claimed."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)
    ran: list[int] = []
    gate = threading.Event()
    task = site.background.task(durable=True, name="work")(ran.append)

    def slow(app: object, item: WorkItem[Any]) -> None:
        assert gate.wait(BOUND)

    try:
        with signals.item_finished.connected_to(slow, site.app):
            items = [task.enqueue(number) for number in range(20)]
            until(lambda: len(ran) == 20, 10)
            assert not any(item.status.is_final and item.wait(0) for item in items)
    finally:
        gate.set()
    assert all(item.wait(BOUND) for item in items)


def test_receivers_that_never_return(
    make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no more items are claimed than the process has threads for receivers."""
    monkeypatch.setattr(backlog, "_MOST_TOLD", 4)
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal", BACKGROUND_WORKERS=1)
    ran: list[int] = []
    gate = threading.Event()
    task = site.background.task(durable=True, name="work")(ran.append)

    def stuck(app: object, item: WorkItem[Any]) -> None:
        assert gate.wait(BOUND)

    try:
        with signals.item_finished.connected_to(stuck, site.app):
            items = [task.enqueue(number) for number in range(20)]
            until(lambda: len(ran) >= 5)
            for _ in range(2):  # the maintenance has looked again
                state_of(site.app).durable.session.wake_self()
                time.sleep(0.3)
            assert 5 <= len(ran) <= 4 + 3  # as many as are claimed ahead for one thread
    finally:
        gate.set()
    assert all(item.wait(BOUND) for item in items)
    assert sorted(ran) == list(range(20))
