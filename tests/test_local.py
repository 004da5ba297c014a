"""The local backend: accepts, refuses or waits; finds, counts and lets go."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from flask import g, has_request_context

from flask_background import Background, Status, WorkItem, current_item, native
from flask_background.backends.base import Stats
from flask_background.errors import ConfigurationError, QueueFull, Refused, Stopping

from .helpers import BOUND, Site, until

Make = Callable[..., Site]


def fill(site: Site, gate: threading.Event, count: int) -> list[WorkItem[Any]]:
    """Enqueue so many items that wait for the gate, and wait until the first one runs."""
    items = [site.background.enqueue(gate.wait, BOUND) for _ in range(count)]
    until(lambda: items[0].status is Status.RUNNING)
    return items


# The bound.


def test_full_raises(make_site: Make, gate: threading.Event) -> None:
    """A view that lets QueueFull pass answers 503 with Retry-After; what was accepted runs."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=2)
    task = site.background.task(name="shop.wait")(gate.wait)
    site.app.add_url_rule("/", view_func=lambda: task.enqueue(BOUND).id)
    client = site.client
    assert [client.get("/").status_code for _ in range(4)] == [200, 200, 200, 503]
    refused = client.get("/")
    assert int(refused.headers["Retry-After"]) > 0
    assert "shop.wait" not in refused.text
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert site.background.stats() == Stats(0, 0, 3, 0, 0, 0)
    assert client.get("/").status_code == 200


def test_full_counts_each_executor(make_site: Make, gate: threading.Event) -> None:
    """The bound is each executor's own: a full one does not hold the others up."""
    site = make_site(
        BACKGROUND_WORKERS=1,
        BACKGROUND_MAX_QUEUED=1,
        BACKGROUND_EXECUTORS={"mails": {"kind": "thread", "workers": 1}},
    )
    fill(site, gate, 2)
    with pytest.raises(QueueFull, match="executor 'thread'"):
        site.background.enqueue(print)
    mails = site.background.task(executor="mails")(threading.current_thread)
    assert mails.enqueue().result(BOUND).name.startswith("background-mails-")

    async def coroutine() -> int:
        return 42

    assert site.background.enqueue(coroutine).result(BOUND) == 42


@pytest.mark.usefixtures("hasty")
def test_room_when_the_handle_tells(make_site: Make) -> None:
    """Who has seen an item's end finds its room free and the counts right, at once."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1)
    task = site.background.task(lambda: None)
    for number in range(1, 501):
        items = [task.enqueue(), task.enqueue()]
        for item in items:
            assert item.wait(BOUND)
        assert site.background.stats() == Stats(0, 0, 2 * number, 0, 0, 0)
        assert site.background.wait_idle(0)


@pytest.mark.parametrize("coroutine", [False, True])
def test_full_blocks(make_site: Make, gate: threading.Event, coroutine: bool) -> None:
    """Under "block" enqueue waits for room, and the items then all run."""
    site = make_site(
        BACKGROUND_WORKERS=1,
        BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 1}},
        BACKGROUND_MAX_QUEUED=1,
        BACKGROUND_OVERFLOW="block",
    )

    async def wait() -> None:
        await asyncio.to_thread(gate.wait, BOUND)

    task: Any = site.background.task(wait if coroutine else lambda: gate.wait(BOUND))
    items = [task.enqueue(), task.enqueue()]
    enqueued = threading.Semaphore(0)

    def enqueue() -> None:
        items.append(task.enqueue())
        enqueued.release()

    threads = [threading.Thread(target=enqueue) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not enqueued.acquire(timeout=0.1)
    gate.set()
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()
    for item in items:
        item.result(BOUND)
    assert len(items) == 5


def test_full_blocks_until_the_stop(make_site: Make, gate: threading.Event) -> None:
    """Who waits for room when the process stops gets Stopping: the wait has an end."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="block")
    fill(site, gate, 2)
    raised: list[BaseException] = []

    def enqueue() -> None:
        try:
            site.background.enqueue(print)
        except Refused as error:
            raised.append(error)

    thread = threading.Thread(target=enqueue)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    site.background.stop(0)
    thread.join(BOUND)
    assert [type(error) for error in raised] == [Stopping]


def test_full_runs_here(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller does the work itself: as an item, and with nothing of the request."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="run")
    fill(site, gate, 2)
    torn_down: list[str] = []

    @site.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        torn_down.append(g.get("by", "nobody"))

    def work() -> Any:
        seen = g.get("by", "nobody")
        g.by = "the item"
        current_item.report_progress(1)
        return threading.get_ident(), seen, has_request_context(), current_item.id

    with site.app.test_request_context("/here"):
        g.by = "the view"
        item = site.background.enqueue(work)
        assert item.status is Status.SUCCEEDED
        assert item.result(0) == (threading.get_ident(), "nobody", False, item.id)
        assert item.state is not None
        assert item.state.path == "/here"
        assert g.by == "the view"
        assert torn_down == ["the item"]
        assert not current_item
        failed = site.background.enqueue(lambda: 1 / 0)
        assert failed.status is Status.FAILED
        exiting = site.background.enqueue(lambda: (_ for _ in ()).throw(SystemExit))
        assert exiting.status is Status.FAILED


def test_full_waits_for_a_coroutine(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller waits for a coroutine that is too much, which runs on the loop."""
    site = make_site(
        BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 1}},
        BACKGROUND_MAX_QUEUED=1,
        BACKGROUND_OVERFLOW="run",
    )

    @site.background.task
    async def wait() -> int:
        while not gate.is_set():
            await asyncio.sleep(0.002)
        return threading.get_ident()

    items = [wait.enqueue(), wait.enqueue()]
    enqueued: list[WorkItem[int]] = []
    thread = threading.Thread(target=lambda: enqueued.append(wait.enqueue()))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    gate.set()
    thread.join(BOUND)
    assert enqueued[0].status is Status.SUCCEEDED
    assert enqueued[0].result(0) == items[0].result(BOUND)


def test_full_runs_an_awaitable(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller also waits for what a function returned to be awaited."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="run")
    fill(site, gate, 2)
    item = site.background.enqueue(lambda: asyncio.sleep(0.01, 42))
    assert item.status is Status.SUCCEEDED
    assert item.result(0) == 42


@pytest.mark.parametrize("overflow", ["block", "run"])
def test_full_in_a_coroutine(make_site: Make, overflow: str) -> None:
    """A coroutine that enqueues coroutines does not hold up the loop that has to run them."""
    site = make_site(
        BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 2}},
        BACKGROUND_MAX_QUEUED=1,
        BACKGROUND_OVERFLOW=overflow,
    )
    background = site.background

    async def inner() -> int:
        await asyncio.sleep(0)
        return 42

    async def outer() -> list[int]:
        items = []
        for _ in range(5):
            try:
                items.append(background.enqueue(inner))
            except Refused:
                pass
        return [await item for item in items]

    item = background.enqueue(outer)
    assert item.wait(2.0)
    assert set(item.result(0)) == {42}


# Executors.


def test_unknown_executor(background: Background) -> None:
    """A task that names an executor which does not exist is an error in the view that names those that do."""
    task = background.task(name="shop.mail", executor="mails")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"shop\.mail wants the executor 'mails'.*asyncio, thread"):
        task.enqueue()
    assert background.items() == []


def test_function_on_an_event_loop(background: Background) -> None:
    """A plain function cannot go to an executor of coroutines, which it would hold up."""
    task = background.task(name="shop.mail", executor="asyncio")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"shop\.mail is not a coroutine function"):
        task.enqueue()
    assert background.items() == []


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


@pytest.mark.parametrize("what", ["thread-1", "asyncio", "alarms"])
def test_thread_cannot_start(make_site: Make, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread to give, nothing hangs; once it has, everything works again."""
    site = make_site(BACKGROUND_WORKERS=1)
    start = native.start_thread
    refused: list[str] = []

    def start_thread(target: Callable[[], None], name: str) -> None:
        if name == f"background-{what}" and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(target, name)

    async def coroutine() -> int:
        return 42

    monkeypatch.setattr(native, "start_thread", start_thread)
    func: Any = coroutine if what == "asyncio" else lambda: 42
    task = site.background.task(timeout=BOUND if what == "alarms" else None)(func)
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
    assert size < 1_000, size
    for item in items:
        item.cancel()
