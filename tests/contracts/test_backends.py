"""The contract of every backend about items: one suite, run over all of them."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from flask import request
from werkzeug.datastructures import FileStorage

from flask_background import CancelReason, Status, WorkItem, current_item, signals
from flask_background.errors import (
    ArgumentError,
    ConfigurationError,
    ItemCancelledError,
    ItemTimeoutError,
    NotFinishedError,
    UploadMovedError,
)
from flask_background.testing import assert_enqueued, record_items

from ..helpers import BOUND, lines, receiving, slack, until
from .conftest import Shop, but_celery, but_immediate, everywhere


@pytest.fixture
def heard(shop: Shop) -> Iterator[list[tuple[str, str]]]:
    """The signals of items, as they come."""
    heard: list[tuple[str, str]] = []
    names = ("item-enqueued", "item-started", "item-retried", "item-finished")

    def listen(name: str) -> Callable[..., None]:
        def hear(sender: object, item: WorkItem[Any], **_: Any) -> None:
            # A worker hears of its own, and may have started an item while the view that sent it goes on.
            first = shop.worker is not None and name == "item-enqueued"
            heard.insert(0 if first else len(heard), (name, item.id))

        return hear

    listeners = {name: listen(name) for name in names}
    for name, listener in listeners.items():
        signals._signals[name].connect(listener, shop.app)
    yield heard
    for name, listener in listeners.items():
        signals._signals[name].disconnect(listener)


def told(heard: list[tuple[str, str]], item: WorkItem[Any]) -> list[str]:
    """The signals that were sent for one item."""
    return [name for name, item_id in heard if item_id == item.id]


# Accepted, found, ended.


@but_immediate
def test_way_of_an_item(shop: Shop, heard: list[tuple[str, str]], gate: threading.Event) -> None:
    """An item is queued, runs and succeeds; each step is reported once, and the times are in order."""
    item = shop.holding(gate).enqueue([1, "two"])
    assert item.status in (Status.QUEUED, Status.RUNNING)
    assert (item.task_name, item.finished_at, item.progress) == ("shop.hold", None, None)
    until(lambda: item.status is Status.RUNNING)
    assert item.attempt == 1
    assert not item.wait(0.01)
    with pytest.raises(NotFinishedError, match=item.id):
        item.result(0.01)
    gate.set()
    assert item.result(BOUND) == [1, "two"]
    assert (item.status, item.exception(0), item.attempt) == (Status.SUCCEEDED, None, 1)
    until(lambda: told(heard, item) == ["item-enqueued", "item-started", "item-finished"])
    assert item.started_at is not None
    assert item.finished_at is not None
    assert item.enqueued_at <= item.started_at <= item.finished_at
    assert not item.cancel()


def test_get(shop: Shop, gate: threading.Event) -> None:
    """An item is found by its id while it is in flight and after its end; another id finds nothing."""
    item = shop.holding(gate).enqueue(42)
    assert shop.background.get(item.id) is item
    gate.set()
    assert item.wait(BOUND)
    found = shop.background.get(item.id)
    assert found is not None
    assert found.result(0) == 42
    for unknown in ("0" * 24, "", "' or 1 = 1 --", item.id.upper() + "X", "\0", "\ud800"):
        assert shop.background.get(unknown) is None


def test_items(shop: Shop, gate: threading.Event) -> None:
    """All items are listed, the oldest first, each once."""
    task = shop.holding(gate)
    ended = shop.task(lambda: None).enqueue()
    assert ended.wait(BOUND)
    items = [task.enqueue(number) for number in range(4)]
    assert [item.id for item in shop.background.items()] == [item.id for item in (ended, *items)]
    gate.set()
    assert shop.background.wait_idle(BOUND)
    assert {item.id for item in shop.background.items()} == {item.id for item in (ended, *items)}


def test_some_items(shop: Shop, gate: threading.Event) -> None:
    """Items are selected by their status, which may be a text, and by the name of their task."""
    background = shop.background
    holding = shop.holding(gate).enqueue()
    failing = shop.task(lambda: 1 / 0, "shop.failing").enqueue()
    assert isinstance(failing.exception(BOUND), ZeroDivisionError)
    until(lambda: holding.status is Status.RUNNING)
    assert [item.id for item in background.items(status=Status.FAILED)] == [failing.id]
    assert [item.id for item in background.items(status="running")] == [holding.id]  # type: ignore[arg-type]
    assert [item.id for item in background.items(task="shop.failing")] == [failing.id]
    assert background.items(status=Status.FAILED, task="shop.hold") == []
    with pytest.raises(ValueError, match="'done' is not a valid Status"):
        background.items(status="done")  # type: ignore[arg-type]


def test_stats(shop: Shop, gate: threading.Event) -> None:
    """Items are counted by their statuses."""
    task = shop.holding(gate)
    failing = shop.task(lambda: 1 / 0)
    # A short run, so that the process claims durable items ahead of those that it runs.
    assert isinstance(failing.enqueue().exception(BOUND), ZeroDivisionError)
    items = [task.enqueue() for _ in range(4)]
    until(lambda: shop.background.stats() == (2, 2, 0, 1, 0, 0))
    assert items[3].cancel()
    until(lambda: shop.background.stats() == (1, 2, 0, 1, 1, 0))
    gate.set()
    assert shop.background.wait_idle(BOUND)
    assert shop.background.stats() == (0, 0, 3, 1, 1, 0)


def test_wait_idle(shop: Shop, gate: threading.Event) -> None:
    """An app is idle when no item runs or waits."""
    assert shop.background.wait_idle(0)
    task = shop.holding(gate)
    items = [task.enqueue() for _ in range(20)]
    assert not shop.background.wait_idle(0)
    assert not shop.background.wait_idle(0.02)
    gate.set()
    assert shop.background.wait_idle(BOUND)
    assert [item.status for item in items] == [Status.SUCCEEDED] * 20


@but_celery
def test_many_are_run_without_a_pause(shop: Shop) -> None:
    """When an item has ended, the next waiting one starts."""
    ran: list[int] = []
    task = shop.task(ran.append)
    began = time.monotonic()
    for number in range(200):
        task.enqueue(number)
    assert shop.background.wait_idle(BOUND)
    assert time.monotonic() - began < 4 + slack()  # what is forgotten is found every five seconds
    assert sorted(ran) == list(range(200))


def test_awaited(shop: Shop, gate: threading.Event) -> None:
    """A coroutine can await an item, its result or its error."""
    good, bad = shop.holding(gate).enqueue(42), shop.task(lambda: 1 / 0).enqueue()

    async def wait() -> Any:
        asyncio.get_running_loop().call_later(0.02, gate.set)
        with pytest.raises(ZeroDivisionError):
            await bad
        return await good

    assert asyncio.run(wait()) == 42


def test_progress(shop: Shop, gate: threading.Event) -> None:
    """The progress of an item can be seen at once, and its last report after the end."""
    reported = threading.Event()

    def work() -> None:
        for done in range(100):
            current_item.report_progress(done, 100, f"{done} of 100")
        reported.set()
        assert gate.wait(BOUND)
        current_item.report_progress(100)

    item = shop.task(work).enqueue()
    assert reported.wait(BOUND)
    assert item.progress == (99, 100, "99 of 100")
    gate.set()
    assert item.wait(BOUND)
    assert item.progress == (100, None, None)


class Mute(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError("mute")


def report_oddly() -> str:
    """Report numbers of another kind, and twice at once."""
    for done in (Decimal(1), Fraction(3, 2)):
        current_item.report_progress(done, Decimal(2), Mute())  # type: ignore[arg-type]
    return "done"


def fail_mutely() -> None:
    """Raise an error without a text."""
    raise Mute


@everywhere
@pytest.mark.parametrize("func", [report_oddly, fail_mutely])
def test_odd_ends(shop: Shop, func: Callable[[], Any]) -> None:
    """An item with odd reports and errors ends, and its executor runs the next ones."""
    task = shop.task(func)
    items = [task.enqueue() for _ in range(4)]
    for item in items:
        assert item.wait(BOUND)
        assert item.status is (Status.FAILED if func is fail_mutely else Status.SUCCEEDED)
    assert shop.task(lambda: 42, "shop.next").enqueue().result(BOUND) == 42


# EnqueueError.


@everywhere
def test_refused_arguments(shop: Shop, heard: list[tuple[str, str]]) -> None:
    """A call that does not fit the function, or has an argument that ends with the request, is no item."""
    task = shop.task(lambda a, b=1: None)
    with pytest.raises(TypeError, match="missing"):
        task.enqueue()
    with pytest.raises(TypeError, match="c"):
        task.enqueue(1, c=2)
    with shop.app.test_request_context(), pytest.raises(ArgumentError, match=r"\bb\b"):
        task.enqueue(1, b=request)
    assert (shop.background.items(), heard) == ([], [])


@everywhere
@pytest.mark.parametrize(
    "options", [{"executor": "mail"}, {"executor": "asyncio"}, {"delay": -1}, {"delay": "1"}, {"key": ""}]
)
def test_refused_options(shop: Shop, options: dict[str, Any], heard: list[tuple[str, str]]) -> None:
    """An unknown executor, one that is not for functions, and other nonsense are refused in the view."""
    task = shop.task(lambda: None)
    with pytest.raises(ConfigurationError):
        task.using(**options).enqueue()
    assert (shop.background.items(), heard) == ([], [])
    assert task.enqueue().wait(BOUND)


# State and uploads.


@everywhere
def test_state(shop: Shop) -> None:
    """An item has the state of the request that enqueued it, and hands it on to those that it enqueues."""
    shop.background.state_processor(lambda: {"user": 7})
    inner = shop.task(lambda: [current_item.state.path, current_item.state.values["user"]], "shop.inner")
    outer = shop.task(lambda: inner.enqueue().id, "shop.outer")
    with shop.app.test_request_context("/orders"):
        item = outer.enqueue()
    found = shop.background.get(item.result(BOUND))
    assert found is not None
    assert found.result(BOUND) == ["/orders", 7]
    assert found.state == item.state
    read = shop.task(lambda: [current_item.state.path, dict(current_item.state.values)], "shop.read")
    outside = read.enqueue()
    assert outside.result(BOUND) == ["", {}]
    assert not outside.state


@but_celery
def test_uploads(shop: Shop) -> None:
    """An upload is moved to its item, with its name and type, and closed when that has ended."""
    seen: list[FileStorage] = []

    def keep(photo: FileStorage) -> list[Any]:
        seen.append(photo)
        return [photo.read(), photo.filename, photo.mimetype]

    upload = FileStorage(io.BytesIO(b"picture"), "a.png", content_type="image/png")
    item = shop.task(keep).enqueue(upload)
    with pytest.raises(UploadMovedError):
        upload.read()
    assert item.result(BOUND) == [b"picture", "a.png", "image/png"]
    assert shop.background.wait_idle(BOUND)
    until(lambda: seen[0].stream.closed)


@everywhere
def test_upload_of_what_is_refused(shop: Shop) -> None:
    """The upload of a call that is not accepted stays the view's."""
    upload = FileStorage(io.BytesIO(b"picture"), "a.png")
    task = shop.task(lambda photo: None)
    with pytest.raises(ConfigurationError):
        task.using(executor="nowhere").enqueue(upload)
    assert upload.read() == b"picture"
    upload.close()


# Cancelled.


def test_cancel_queued(
    shop: Shop, heard: list[tuple[str, str]], gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A queued item that is cancelled never starts; the log and a signal report it once."""
    caplog.set_level(logging.INFO)
    task = shop.holding(gate)
    items = [task.enqueue() for _ in range(8)]
    until(lambda: items[1].status is Status.RUNNING)
    for item in (items[2], items[7]):  # one that its process has, and one that waits in the journal
        assert item.cancel()
        assert item.wait(BOUND)
        assert (item.status, item.started_at, item.attempt) == (Status.CANCELLED, None, 0)
        assert isinstance(item.exception(0), ItemCancelledError)
        assert not item.cancel()
        until(lambda item=item: told(heard, item) == ["item-enqueued", "item-finished"])  # type: ignore[misc]
        assert lines(caplog).count(f"Item {item.id} (shop.hold) cancelled") == 1
    gate.set()
    assert shop.background.wait_idle(BOUND)
    assert shop.background.stats().succeeded == 6


def test_cancel_delayed(shop: Shop, heard: list[tuple[str, str]], caplog: pytest.LogCaptureFixture) -> None:
    """An item that waits for its time can be cancelled as well."""
    caplog.set_level(logging.INFO)
    item = shop.task(lambda: None).using(delay=60).enqueue()
    assert item.cancel()
    assert item.status is Status.CANCELLED
    assert item.wait(0)
    assert told(heard, item) == ["item-enqueued", "item-finished"]
    assert lines(caplog) == [f"Item {item.id} (shop.work) cancelled"]
    assert shop.background.wait_idle(BOUND)


@but_immediate
def test_cancel_running(shop: Shop, heard: list[tuple[str, str]], gate: threading.Event) -> None:
    """A running item is asked to end, and is cancelled if it ends for that reason."""
    item = shop.holding(gate).enqueue()
    until(lambda: "item-started" in told(heard, item))
    assert item.cancel()
    assert item.wait(BOUND)
    assert (item.status, item.token.reason) == (Status.CANCELLED, CancelReason.REQUESTED)
    with pytest.raises(ItemCancelledError):
        item.result(0)
    until(lambda: told(heard, item) == ["item-enqueued", "item-started", "item-finished"])


# Later.


@but_immediate
def test_delay(shop: Shop) -> None:
    """An item does not start before its time; items that are due earlier start before it."""
    task = shop.task(time.time)
    began = time.time()
    last = task.using(delay=timedelta(seconds=1)).enqueue()
    second = task.using(run_at=datetime.now(UTC) + timedelta(seconds=0.5)).enqueue()
    assert (last.status, last.started_at) == (Status.QUEUED, None)
    first = task.enqueue()
    assert first.result(BOUND) < second.result(BOUND) < last.result(BOUND)
    assert second.result(0) - began >= 0.5
    assert last.result(0) - began >= 1


@everywhere
def test_time_that_has_passed(shop: Shop) -> None:
    """A ``run_at`` that has passed, and a delay of 0, mean at once."""
    task = shop.task(lambda: 42)
    assert task.using(run_at=datetime(2000, 1, 1, tzinfo=UTC)).enqueue().result(BOUND) == 42
    assert task.using(delay=0).enqueue().result(BOUND) == 42


def test_delayed_is_waited_for(shop: Shop) -> None:
    """An app with an item that waits for its time is not idle."""
    item = shop.task(lambda: 42).using(delay=0.2).enqueue()
    assert not shop.background.wait_idle(0.02)
    assert shop.background.wait_idle(BOUND)
    assert item.result(0) == 42


# Again.


def test_attempts(shop: Shop, heard: list[tuple[str, str]]) -> None:
    """A failed run is followed by others, each with arguments as they were, until one succeeds."""
    seen: list[tuple[int, Any]] = []

    def work(value: int) -> str:
        seen.append((current_item.attempt, value))
        if len(seen) < 3:
            raise OSError("no")
        return "done"

    item = shop.task(work, max_attempts=5, backoff=0.01).enqueue(7)
    assert not shop.background.wait_idle(0)
    assert shop.background.wait_idle(BOUND)
    assert item.result(0) == "done"
    assert seen == [(1, 7), (2, 7), (3, 7)]
    assert item.attempt == 3
    again = ["item-retried", "item-started"]
    until(lambda: told(heard, item) == ["item-enqueued", "item-started", *again, *again, "item-finished"])


@but_celery
def test_last_attempt_fails(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The item fails with the last error when no attempt is left, or when the error is not retried."""
    numbers: list[int] = []

    def work(kind: str) -> None:
        numbers.append(len(numbers))
        raise {"os": OSError, "key": KeyError, "exit": SystemExit}[kind](numbers[-1])

    task = shop.task(work, max_attempts=2, backoff=0, retry_on=(OSError,))
    item = task.enqueue("os")
    assert repr(item.exception(BOUND)) == "OSError(1)"
    assert (item.status, item.attempt) == (Status.FAILED, 2)
    assert [line for line in lines(caplog, logging.ERROR) if item.id in line] == [
        f"Item {item.id} (shop.work) failed"
    ]
    for kind in ("key", "exit"):
        item = task.enqueue(kind)
        assert item.wait(BOUND)
        assert item.attempt == 1


def test_cancel_between_attempts(shop: Shop, heard: list[tuple[str, str]]) -> None:
    """An item that waits for its next attempt is queued, and can be cancelled."""
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise OSError("no")

    item = shop.task(work, max_attempts=2, backoff=60).enqueue()
    until(lambda: "item-retried" in told(heard, item))
    until(lambda: item.status is Status.QUEUED)
    assert not item.wait(0.01)
    until(item.cancel)
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED
    assert isinstance(item.exception(0), ItemCancelledError)
    assert (runs, item.attempt) == ([1], 1)
    assert told(heard, item)[-1] == "item-finished"


@but_celery
def test_timeout_of_an_attempt(shop: Shop) -> None:
    """A run whose time is up has failed, and another run may follow."""

    def work() -> int:
        if current_item.attempt == 1:
            assert current_item.token.wait(BOUND)
            current_item.token.raise_if_cancelled()
        return current_item.attempt

    task = shop.task(work, timeout=0.05)
    assert isinstance(task.enqueue().exception(BOUND), ItemTimeoutError)
    assert task.using(max_attempts=2, backoff=0).enqueue().result(BOUND) == 2


# Once.


def test_key(shop: Shop, heard: list[tuple[str, str]], gate: threading.Event) -> None:
    """While an item with a key is in flight, enqueue returns that item; each task has keys of its own."""
    task, other = shop.holding(gate), shop.task(lambda value: value)
    first = task.using(key="k").enqueue(1)
    assert task.using(key="k").enqueue(2) is first
    assert other.using(key="k").enqueue(3).result(BOUND) == 3
    second = task.using(key="K").enqueue(4)
    third = task.enqueue(5)
    assert len({first.id, second.id, third.id}) == 3
    gate.set()
    assert [item.result(BOUND) for item in (first, second, third)] == [1, 4, 5]
    assert task.using(key="k").enqueue(6).result(BOUND) == 6
    until(lambda: told(heard, first) == ["item-enqueued", "item-started", "item-finished"])


def test_key_of_a_waiting_one(shop: Shop) -> None:
    """A key is taken by an item that waits for its time or its next attempt, until that is cancelled."""
    waiting = shop.task(lambda value: value).using(key="k", delay=60)
    first = waiting.enqueue(1)
    assert waiting.using(delay=None).enqueue(2) is first
    assert first.cancel()
    assert waiting.using(delay=None).enqueue(3).result(BOUND) == 3


def test_key_among_threads(shop: Shop, gate: threading.Event) -> None:
    """Of several calls with one key at the same time, one enters an item, and all return it."""
    task = shop.holding(gate).using(key="k")
    barrier = threading.Barrier(8)
    items: list[WorkItem[Any]] = []

    def enqueue() -> None:
        barrier.wait(BOUND)
        items.append(task.enqueue())

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(items) == 8
    assert len({item.id for item in items}) == 1
    assert len(shop.background.items()) == 1


# With the response.


@but_celery
def test_held(shop: Shop, heard: list[tuple[str, str]]) -> None:
    """An item that waits for its response is queued, can be found, and starts when that is closed."""
    task = shop.task(lambda: 42, when="response")
    shop.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
    with shop.site.client.get("/") as response:
        item = shop.background.get(response.text)
        assert item is not None
        assert not item.wait(0.05)
        assert item.status is Status.QUEUED
        assert not shop.background.wait_idle(0)
    assert item.result(BOUND) == 42
    until(lambda: told(heard, item) == ["item-enqueued", "item-started", "item-finished"])


@everywhere
def test_held_and_cancelled(shop: Shop) -> None:
    """An item that is cancelled before the response was sent does not start."""
    ran: list[int] = []
    task = shop.task(lambda: ran.append(1), when="response")
    shop.app.add_url_rule("/", view_func=lambda: task.enqueue().id)
    with shop.site.client.get("/") as response:
        item = shop.background.get(response.text)
        assert item is not None
        assert item.cancel()
        assert item.status is Status.CANCELLED
    assert shop.background.wait_idle(BOUND)
    assert ran == []


@everywhere
def test_dropped(shop: Shop, heard: list[tuple[str, str]], caplog: pytest.LogCaptureFixture) -> None:
    """An item whose view fails is cancelled; handle, log and signal say so."""
    items: list[WorkItem[Any]] = []
    task = shop.task(lambda: 42, when="response")

    @shop.app.get("/")
    def view() -> str:
        items.append(task.enqueue())
        raise KeyError("lost")

    shop.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert shop.site.client.get("/").status_code == 500
    with pytest.raises(ItemCancelledError, match="view ended with KeyError"):
        items[0].result(0)
    assert items[0].status is Status.CANCELLED
    assert told(heard, items[0]) == ["item-enqueued", "item-finished"]
    assert f"Item {items[0].id} (shop.work) dropped: its view ended with KeyError" in lines(caplog)
    assert shop.background.wait_idle(BOUND)


# Whoever listens.


@everywhere
@pytest.mark.parametrize("name", ["item_enqueued", "item_started", "item_finished"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_receiver_that_fails(
    shop: Shop, name: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver's error is logged and hurts no item, nor those that come after it."""
    task = shop.task(lambda: 42)
    failures = [error("receiver")]

    items: list[WorkItem[Any]] = []

    def receive(sender: Any, item: WorkItem[Any]) -> None:
        items.append(item)
        if failures:
            raise failures.pop()

    with getattr(signals, name).connected_to(receive, shop.app):
        if error is SystemExit and (name == "item_enqueued" or shop.immediate):
            with pytest.raises(SystemExit):  # it may be meant for the main thread
                task.enqueue()
            item = items[0]
        else:
            item = task.enqueue()
        assert item.result(BOUND) == 42
        until(lambda: [line for line in lines(caplog, logging.ERROR) if "receiver" in line.lower()])
    assert task.enqueue().result(BOUND) == 42


@but_celery
def test_refusal_is_told(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is an error in the view, a signal and a log line."""
    task = shop.task(lambda: 42)
    if shop.durable:
        Path(shop.app.config["BACKGROUND_JOURNAL"]).write_text("")  # in the folder's place
    else:
        shop.background.stop(0)
    with receiving(signals.item_refused, shop.app) as refused:
        try:
            task.enqueue()
        except Exception as error:
            raised = error
    assert refused == [{"task_name": "shop.work", "error": raised}]
    assert [line for line in lines(caplog) if line.startswith("An item (shop.work) was refused: ")]


@everywhere
def test_recorded(shop: Shop) -> None:
    """A test records the item with its arguments, and the item goes its way."""
    task = shop.task(lambda value, more: [value, more])
    with record_items(shop.app) as items:
        item = task.enqueue([1], more=2)
        assert_enqueued(task, args=([1], 2), count=1)
        assert (items[0].item, items[0].args, items[0].kwargs) == (item, ([1],), {"more": 2})
        assert item.result(BOUND) == [[1], 2]
