"""Admission: items that find no room, or no executor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import g, has_request_context

from flask_background import Background, Status, WorkItem, current_item
from flask_background.core.backend import Stats
from flask_background.errors import ConfigurationError, EnqueueError, QueueFull, Stopping

from ..helpers import BOUND, Site, fill

Make = Callable[..., Site]


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
    """Each executor has its own bound: a full one does not hold the others up."""
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
    """As soon as an item's end is seen, its place is free and the counts are right."""
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
    assert not enqueued.acquire(timeout=0.05)
    gate.set()
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()
    for item in items:
        item.result(BOUND)
    assert len(items) == 5


def test_full_blocks_until_the_stop(make_site: Make, gate: threading.Event) -> None:
    """A call that waits for room when the process stops gets Stopping: the wait has an end."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="block")
    fill(site, gate, 2)
    raised: list[BaseException] = []

    def enqueue() -> None:
        try:
            site.background.enqueue(print)
        except EnqueueError as error:
            raised.append(error)

    thread = threading.Thread(target=enqueue)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    site.background.stop(0)
    thread.join(BOUND)
    assert [type(error) for error in raised] == [Stopping]


def test_full_runs_here(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller runs the item itself, without the request."""
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
        assert item.state
        assert item.state.path == "/here"
        assert g.by == "the view"
        assert torn_down == ["the item"]
        assert not current_item
        failed = site.background.enqueue(lambda: 1 / 0)
        assert failed.status is Status.FAILED
        exiting = site.background.enqueue(lambda: (_ for _ in ()).throw(SystemExit))
        assert exiting.status is Status.FAILED


def test_full_waits_for_a_coroutine(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller waits for a coroutine item that finds no room; it runs on the event loop."""
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
    thread.join(0.05)
    assert thread.is_alive()
    gate.set()
    thread.join(BOUND)
    assert enqueued[0].status is Status.SUCCEEDED
    assert enqueued[0].result(0) == items[0].result(BOUND)


def test_full_runs_an_awaitable(make_site: Make, gate: threading.Event) -> None:
    """Under "run" the caller also waits for an awaitable that the function returned."""
    site = make_site(BACKGROUND_WORKERS=1, BACKGROUND_MAX_QUEUED=1, BACKGROUND_OVERFLOW="run")
    fill(site, gate, 2)
    item = site.background.enqueue(lambda: asyncio.sleep(0.01, 42))
    assert item.status is Status.SUCCEEDED
    assert item.result(0) == 42


@pytest.mark.parametrize("overflow", ["block", "run"])
def test_full_in_a_coroutine(make_site: Make, overflow: str) -> None:
    """A coroutine that enqueues coroutines does not block the event loop that has to run them."""
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
            except EnqueueError:
                pass
        return [await item for item in items]

    item = background.enqueue(outer)
    assert item.wait(2.0)
    assert set(item.result(0)) == {42}


def test_unknown_executor(background: Background) -> None:
    """Enqueueing a task of an unknown executor raises an error that names the known ones."""
    task = background.task(name="shop.mail", executor="mails")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"shop\.mail names the executor 'mails'.*asyncio, thread"):
        task.enqueue()
    assert background.items() == []


def test_function_on_an_event_loop(background: Background) -> None:
    """A plain function cannot go to an executor of coroutines, whose loop it would block."""
    task = background.task(name="shop.mail", executor="asyncio")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"shop\.mail is not a coroutine function"):
        task.enqueue()
    assert background.items() == []
