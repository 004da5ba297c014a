"""The local backend: it accepts, finds, counts and forgets items."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flask_background import Background, Status, current_item
from flask_background.concurrency import native
from flask_background.core.backend import Stats

from ..helpers import BOUND, FOREVER, Site, fill, until

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
    """Nothing hangs while no thread can be started; once one can be, everything works again."""
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


def test_event_loop_cannot_be_made(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No item is left behind while no event loop can be opened; once one can be, delayed items run."""
    site = make_site()
    background = site.background
    make = native.new_event_loop
    full = [True]
    refused: list[bool] = []

    def new_event_loop() -> asyncio.AbstractEventLoop:
        if full:
            refused.append(True)
            raise OSError(errno.EMFILE, "Too many open files")
        return make()

    @background.task
    async def work() -> int:
        return 42

    monkeypatch.setattr(native, "new_event_loop", new_event_loop)
    with pytest.raises(RuntimeError, match=r"no event loop can be made: .*Too many open files"):
        work.enqueue()
    assert background.wait_idle(2.0)
    delayed = work.using(delay=0.02).enqueue()
    until(lambda: len(refused) == 2)
    assert not delayed.wait(0)
    full.clear()
    assert delayed.result(BOUND) == 42


@pytest.mark.parametrize("kind", ["thread", "asyncio"])
@pytest.mark.parametrize("how", ["delayed", "retried"])
def test_moment_without_threads(
    make_site: Make, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that is due while no thread can be started runs later, and so do the items after it."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_EXECUTORS={"first": {"kind": "thread", "workers": 1}})
    start = native.start_thread
    gone = threading.Event()

    def start_thread(target: Callable[[], None], name: str, **options: bool) -> None:
        if gone.is_set():
            raise RuntimeError("can't start new thread")
        start(target, name, **options)

    monkeypatch.setattr(native, "start_thread", start_thread)

    def function() -> int:
        if how == "retried" and current_item.attempt == 1:
            raise OSError
        return current_item.attempt

    async def coroutine() -> int:
        return function()

    func: Any = coroutine if kind == "asyncio" else function
    options: dict[str, Any] = {"max_attempts": 2, "backoff": 0.15} if how == "retried" else {}
    # The first run of what is retried is on another executor, whose threads are there.
    task = site.background.task(name="work", **options)(func)
    item = task.enqueue() if how == "retried" else task.using(delay=0.15).enqueue()
    if how == "retried":
        until(lambda: item.attempt == 1 and item.status is Status.QUEUED)
    gone.set()
    time.sleep(0.25)
    gone.clear()
    assert item.result(BOUND) == (2 if how == "retried" else 1)
    assert site.background.task(name="late")(abs).using(delay=0.02).enqueue(-1).result(BOUND) == 1
    assert site.background.wait_idle(BOUND)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_dies_is_replaced(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread runs the waiting items when a thread for items has died."""
    site = make_site(BACKGROUND_WORKERS=1)
    executor: Any = site.backend.executors["thread"]
    perform, died = executor._perform, threading.Event()

    def die_once(*args: Any) -> None:
        if not died.is_set():
            died.set()
            raise SystemExit
        perform(*args)

    monkeypatch.setattr(executor, "_perform", die_once)
    lost = site.background.enqueue(lambda: 1)
    assert died.wait(BOUND)
    assert site.background.enqueue(lambda: 42).result(BOUND) == 42
    assert lost.cancel()  # of which the thread had not even begun


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
    """Items are counted by status, those in flight and those that have ended."""
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
    """wait_idle waits for all items, says whether they have ended, and keeps to its timeout."""
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
    """An item that has ended cannot be cancelled, and its token no longer fires."""
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


@pytest.mark.parametrize("timeout", FOREVER)
def test_waits_take_any_number(background: Background, gate: threading.Event, timeout: float) -> None:
    """A wait ends with the item, whatever its timeout."""
    item = background.enqueue(gate.wait, BOUND)
    threading.Timer(0.05, gate.set).start()
    assert item.wait(timeout)
    assert item.result(timeout) is True
    assert item.exception(timeout) is None
    assert background.wait_idle(timeout)


@pytest.mark.parametrize("timeout", [math.nan, -1, -math.inf, -(10**400)])
def test_waits_take_no_time(background: Background, gate: threading.Event, timeout: float) -> None:
    """A wait of NaN or negative seconds ends at once, and leaves nothing behind."""
    item = background.enqueue(gate.wait, BOUND)
    assert not item.wait(timeout)
    assert not background.wait_idle(timeout)
    gate.set()
    assert item.wait(BOUND)


@pytest.mark.parametrize("grace", [math.nan, -1, -(10**400)])
def test_stop_takes_any_number(background: Background, gate: threading.Event, grace: float) -> None:
    """A grace period of NaN or negative seconds is none."""
    item = background.enqueue(gate.wait, BOUND)
    until(lambda: item.status is Status.RUNNING)
    assert background.stop(grace) == [item]
    gate.set()


def test_stop_may_take_for_ever(background: Background, gate: threading.Event) -> None:
    """A grace period may be any number of seconds."""
    background.enqueue(gate.wait, BOUND)
    threading.Timer(0.03, gate.set).start()
    assert background.stop(10**400) == []
