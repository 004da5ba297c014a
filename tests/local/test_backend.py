"""The local backend: accepts, finds, counts and lets go."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flask_background import Background, Status
from flask_background.concurrency import native
from flask_background.core.backend import Stats

from ..helpers import BOUND, Site, fill

Make = Callable[..., Site]


# Executors.


def test_coroutine_on_threads(background: Background) -> None:
    """A coroutine function that is sent to an executor of threads runs all the same."""

    @background.task(executor="thread")
    async def work() -> int:
        await asyncio.sleep(0)
        return 42

    assert work.enqueue().result(BOUND) == 42


def test_named_event_loop(make_site: Make) -> None:
    """Another executor of coroutines has a thread and a limit of its own."""
    site = make_site(BACKGROUND_EXECUTORS={"calls": {"kind": "asyncio", "limit": 1}})
    inside = [0]
    most = [0]

    @site.background.task(executor="calls")
    async def call() -> str:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        await asyncio.sleep(0.001)
        inside[0] -= 1
        return threading.current_thread().name

    items = [call.enqueue() for _ in range(10)]
    assert {item.result(BOUND) for item in items} == {"background-calls"}
    assert most == [1]


def test_threads_start_one_by_one(make_site: Make) -> None:
    """One thread is enough for items that come one after the other."""
    site = make_site(BACKGROUND_WORKERS=8)
    names = set()
    for _ in range(20):
        names.add(site.background.enqueue(lambda: threading.current_thread().name).result(BOUND))
        assert site.background.wait_idle(BOUND)
    assert names == {"background-thread-1"}


@pytest.mark.parametrize("what", ["thread-1", "asyncio", "timers"])
def test_thread_cannot_start(make_site: Make, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread to give, nothing hangs; once it has, everything works again."""
    site = make_site(BACKGROUND_WORKERS=1)
    start = native.start_thread
    refused: list[str] = []

    def start_thread(target: Callable[[], None], name: str, **options: bool) -> None:
        if name == f"background-{what}" and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(target, name, **options)

    async def coroutine() -> int:
        return 42

    monkeypatch.setattr(native, "start_thread", start_thread)
    func: Any = coroutine if what == "asyncio" else lambda: 42
    task = site.background.task(timeout=BOUND if what == "timers" else None)(func)
    with suppress(RuntimeError):
        task.enqueue()
    assert task.enqueue().result(2.0) == 42
    assert site.background.wait_idle(2.0)
    assert refused


# Looking at items.


def test_get_and_items(make_site: Make, gate: threading.Event) -> None:
    """Items are found by id while in flight and afterwards: first those that ended, then the others."""
    site = make_site(BACKGROUND_WORKERS=1)
    background = site.background
    ended = background.enqueue(lambda: 42)
    assert ended.wait(BOUND)
    assert background.wait_idle(BOUND)
    first, second = fill(site, gate, 2)
    assert background.items() == [ended, first, second]
    assert [background.get(item.id) for item in (ended, first, second)] == [ended, first, second]
    assert background.get("nobody") is None
    assert background.get("") is None


def test_stats(make_site: Make, gate: threading.Event) -> None:
    """The counts of those in flight and of those that ended, each kind of end on its own."""
    site = make_site(BACKGROUND_WORKERS=1)
    background = site.background
    assert background.stats() == Stats(0, 0, 0, 0, 0, 0)
    background.enqueue(lambda: 42).wait(BOUND)
    background.enqueue(lambda: 1 / 0).wait(BOUND)
    _, queued, _ = fill(site, gate, 3)
    assert queued.cancel()
    assert background.stats() == Stats(queued=1, running=1, succeeded=1, failed=1, cancelled=1, interrupted=0)
    background.stop(0)
    # The running one is on record as interrupted, but has not ended, and counts once.
    assert background.stats() == Stats(queued=0, running=1, succeeded=1, failed=1, cancelled=1, interrupted=1)


def test_wait_idle(background: Background, gate: threading.Event) -> None:
    """It waits for all, says whether they have ended, and takes no longer than it may."""
    assert background.wait_idle()
    assert background.wait_idle(0)
    item = background.enqueue(gate.wait, BOUND)
    assert not background.wait_idle(0.02)
    assert not background.wait_idle(0)
    gate.set()
    assert background.wait_idle(BOUND)
    assert item.status is Status.SUCCEEDED


def test_apps_are_apart(make_site: Make) -> None:
    """One app does not see another's items."""
    one, two = make_site(), make_site()
    item = one.background.enqueue(lambda: 42)
    assert item.wait(BOUND)
    assert two.background.get(item.id) is None
    assert two.background.items() == []
    assert two.background.stats() == Stats(0, 0, 0, 0, 0, 0)


def test_cancel_when_ended(background: Background) -> None:
    """An item that has ended cannot be cancelled, and its token does not fire any more."""
    item = background.enqueue(lambda: 42)
    assert item.result(BOUND) == 42
    assert background.wait_idle(BOUND)
    assert not item.cancel()
    assert not item.token.cancelled


def test_queued_items_are_small(make_site: Make, gate: threading.Event) -> None:
    """A queued item takes some hundred bytes, also with its id, its state and its arguments."""
    site = make_site(BACKGROUND_WORKERS=1)
    fill(site, gate, 1)
    task = site.background.task(lambda number: None)
    count = 2_000
    with site.app.test_request_context():
        task.enqueue(0)
        gc.collect()
        tracemalloc.start()
        try:
            items = [task.enqueue(number) for number in range(count)]
            size = tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()
    assert size < 600, size
    for item in items:
        item.cancel()
