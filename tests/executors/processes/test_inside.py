"""Items in a child process: the things that they see, and those that come back from them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import current_app, g, url_for
from werkzeug.datastructures import FileStorage

from flask_background import Status, current_item, signals
from flask_background.app_state import state_of
from flask_background.errors import (
    ArgumentError,
    ItemCancelledError,
    ItemInterruptedError,
    ItemTimeoutError,
    ResultLostError,
)

from ...children import SharedEvent, SharedList, Shipping, call, hold
from ...helpers import BOUND, receiving, until
from ...integration.servers import alive
from .conftest import ONE, Shop, children


def look_around() -> Any:
    """Return the app, the request's values and the other things that an item finds."""
    g.seen = True
    state = current_item.state
    assert state is not None
    return (
        current_app.name,
        state.path,
        dict(state.values),
        current_item.attempt,
        url_for("static", filename="x"),
    )


def test_sees_what_items_see(shop: Shop) -> None:
    """An item has an app context, its state, and URLs with the request's root."""
    shop.background.state_processor(lambda: {"user": [7]})
    with shop.site.app.test_request_context("/photos", base_url="https://example.com/shop"):
        item = shop.call(look_around)
    assert item.result(BOUND) == ("shop", "/photos", {"user": [7]}, 1, "https://example.com/shop/static/x")


def test_coroutine_function(shop: Shop) -> None:
    """A coroutine runs on a loop of its own, and is cancelled at its await."""

    async def work(gate: SharedEvent) -> Any:
        gate.set()
        await asyncio.sleep(BOUND)

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert shop.call(answer).result(BOUND) == 42
    gate = SharedEvent(shop.folder / "gate")
    item = shop.call(work, gate)
    until(gate.is_set)
    pid = shop.pid()
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert alive(pid)


def use_a_pool() -> list[int]:
    """Compute in forks, which the pool ends by SIGTERM."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def test_pool_of_forks(shop: Shop) -> None:
    """An item may use a pool of multiprocessing, which ends."""
    assert shop.call(use_a_pool, timeout=BOUND).result(BOUND) == [1, 2]


async def clean_up(seen: SharedList) -> None:
    """Wait to be cancelled, and do something then."""
    seen.append("begun")
    try:
        await asyncio.sleep(BOUND)
    finally:
        seen.append("cleaned up")


def test_cancelled_coroutine_cleans_up(make_shop: Callable[..., Shop]) -> None:
    """It is not its child's death that ends it."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)
    pid = shop.pid()
    seen = SharedList(shop.folder / "seen")
    item = shop.call(clean_up, seen)
    until(lambda: len(seen))
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert seen == ["begun", "cleaned up"]
    assert shop.pid() == pid


def test_coroutine_is_cancelled_while_the_host_stops(make_shop: Callable[..., Shop]) -> None:
    """Also if the token has fired for the stop."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)
    seen = SharedList(shop.folder / "seen")
    item = shop.call(clean_up, seen)
    until(lambda: len(seen))
    stopping = threading.Thread(target=shop.background.stop, args=(60,))
    stopping.start()
    until(lambda: item.token.cancelled)
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemInterruptedError)
    assert seen == ["begun", "cleaned up"]
    stopping.join(BOUND)


def test_thread_that_a_coroutine_has_left(make_shop: Callable[..., Shop]) -> None:
    """It counts as the item's, so its child is killed, and the next item does not wait for it."""
    shop = make_shop(**ONE)

    async def work(begun: SharedEvent) -> None:
        begun.set()
        await asyncio.to_thread(time.sleep, 60)

    pid = shop.pid()
    begun = SharedEvent(shop.folder / "begun")
    item = shop.call(work, begun)
    until(begun.is_set)
    item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert shop.pid() != pid


def test_task_that_exits(make_shop: Callable[..., Shop]) -> None:
    """A task that a coroutine has left on its loop ends itself alone, as on the event loop's executor."""
    shop = make_shop(**ONE)

    async def work() -> int:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(0.01)
        return os.getpid()

    assert shop.call(work).result(BOUND) == shop.pid()


def test_future(shop: Shop) -> None:
    """A function may leave its work to a Future, which has the upload until it ends."""

    def work(upload: FileStorage) -> Any:
        gate = threading.Timer(0.1, int)
        gate.start()

        def read() -> bytes:
            gate.join()
            return upload.read()

        return concurrent.futures.ThreadPoolExecutor(1).submit(read)

    assert shop.call(work, FileStorage(io.BytesIO(b"meow"), "cat.png")).result(BOUND) == b"meow"


class Foreign:
    """An object that only the process that made it can read."""

    def __reduce__(self) -> Any:
        return _read_foreign, (os.getpid(),)


def _read_foreign(pid: int) -> Foreign:
    if pid != os.getpid():
        raise ValueError("it is from another process")
    return Foreign()


def test_progress_that_cannot_be_sent(make_shop: Callable[..., Shop]) -> None:
    """A progress that is no number is left out, and costs neither its item nor the next one anything."""
    shop = make_shop(**ONE)

    def work() -> str:
        current_item.report_progress(Foreign())  # type: ignore[arg-type]
        time.sleep(0.1)
        return "too late"

    for _ in range(2):
        item = shop.call(work)
        assert item.result(BOUND) == "too late"
        assert item.progress is None
        assert shop.call(len, "next").result(BOUND) == 4


def test_progress_is_seen_while_it_runs(shop: Shop) -> None:
    """Progress that an item reports reaches its handle soon, also the last of many reports."""

    def work(gate: SharedEvent) -> None:
        for number in range(1_000):
            current_item.report_progress(number, 1_000)
        gate.wait()

    gate = SharedEvent(shop.folder / "gate")
    item = shop.call(work, gate)
    until(lambda: item.progress == (999, 1_000, None))
    gate.set()
    assert item.result(BOUND) is None


class Closed:
    """An object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this is closed")


class Odd(Exception):
    """An error that cannot be made anew from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_oddly() -> None:
    """Raise one."""
    raise Odd(1, 2)


def test_argument_that_cannot_be_sent(shop: Shop) -> None:
    """It is refused in the view, by name."""
    task = shop.background.task(name="shop.print", executor="cpu")(lambda paper, ink: None)
    with pytest.raises(ArgumentError, match=r"^ink cannot be sent to a child process \(this is closed\)"):
        task.enqueue("A4", Closed())
    with pytest.raises(ArgumentError, match=r"^ink cannot"):
        task.enqueue("A4", ink=[Closed()])


def test_arguments_are_those_of_the_enqueueing(shop: Shop) -> None:
    """Changes that the view makes to an argument afterwards do not matter."""
    gate = SharedEvent(shop.folder / "gate")
    values = [1]
    items = [shop.call(partial(hold, gate, int)) for _ in range(2)]
    item = shop.call(sum, values)
    values.append(2)
    gate.set()
    assert item.result(BOUND) == 1
    assert [each.result(BOUND) for each in items] == [0, 0]


def test_result_that_cannot_be_sent(shop: Shop) -> None:
    """The item has succeeded; its result is lost, which its handle says."""
    item = shop.call(Closed)
    with pytest.raises(ResultLostError, match=rf"item {item.id} .*cannot be sent .*Closed is no data"):
        item.result(BOUND)
    assert item.status is Status.SUCCEEDED


def test_durable_result_that_cannot_be_sent(make_shop: Callable[..., Shop]) -> None:
    """The journal knows that it is lost, too."""
    shop = make_shop(durable=True)
    item = shop.call(Closed)
    with pytest.raises(ResultLostError):
        item.result(BOUND)
    entry = state_of(shop.site.app).durable.session.read_row(item.id)
    assert "lost" in entry.result


def test_error_that_cannot_be_sent(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """It is made anew without a call of its own; the log has the child's traceback."""
    error = shop.call(fail_oddly).exception(BOUND)
    assert isinstance(error, Odd)
    assert str(error) == "1 and 2"
    assert "in fail_oddly" in caplog.text


def read_upload(upload: FileStorage) -> Any:
    """All that it has."""
    return upload.filename, upload.name, upload.content_type, upload.read()


@pytest.mark.parametrize("kind", [io.BytesIO, tempfile.TemporaryFile], ids=["memory", "file"])
def test_upload(any_shop: Shop, kind: Callable[[], Any]) -> None:
    """An upload comes along, wherever it is kept."""
    stream = kind()
    stream.write(b"x" * 100_000)
    upload = FileStorage(stream, "cat.png", "photo", "image/png")
    item = any_shop.call(read_upload, upload)
    assert upload.stream is not stream
    assert item.result(BOUND) == ("cat.png", "photo", "image/png", b"x" * 100_000)
    until(lambda: stream.closed or any_shop.tasks["work"].durable)


def test_periodic(make_shop: Callable[..., Shop]) -> None:
    """A periodic task runs in child processes, again and again."""
    shop = make_shop(durable=True)
    with receiving(signals.item_finished, shop.site.app) as ended:
        shop.background.periodic(seconds=0.1)(shop.tasks["pid"])
        shop.site.client.get("/")  # an app that nobody asks anything starts nothing
        until(lambda: len(ended) >= 3)
    assert {end["item"].result(BOUND) for end in ended} <= children()


def look_at_trace() -> Any:
    """Return the trace context that an item finds."""
    state = current_item.state
    return bool(state), state.traceparent, state.tracestate


def test_trace_context(shop: Shop) -> None:
    """An item has the trace context of its enqueue, also outside of a request."""

    @shop.background.around_enqueue
    def trace(task_name: str) -> Any:
        yield {"traceparent": "00-1", "tracestate": "a=1"}

    assert shop.call(look_at_trace).result(BOUND) == (False, "00-1", "a=1")


def describe() -> Any:
    """Return the description that an item finds."""
    return current_item.description


def test_description(shop: Shop) -> None:
    """An item has its description."""
    task = shop.background.task(
        name="shop.work", executor="cpu", describe=lambda *args, **kwargs: "one order"
    )(call)
    assert Shipping(task, describe).enqueue().result(BOUND) == "one order"


def fail_once() -> int:
    """Fail in the first attempt."""
    if current_item.attempt == 1:
        raise ValueError("not yet")
    return os.getpid()


async def sleep_long() -> None:
    """Wait to be cancelled."""
    await asyncio.sleep(BOUND)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedList:
    """Notes of the code around each item in the child processes."""
    monkeypatch.setenv("FLASK_AROUND", str(tmp_path / "notes"))
    return SharedList(tmp_path / "notes")


@pytest.mark.parametrize("durable", [False, True])
def test_around_item(make_shop: Callable[..., Shop], notes: SharedList, durable: bool) -> None:
    """The code around an item runs in the child, once for each attempt; that of the parent is not used."""
    shop = make_shop(durable, **ONE)

    @shop.background.around_item
    def in_parent() -> Any:
        raise AssertionError("this is the child's")
        yield

    pid = shop.call(fail_once, max_attempts=2, backoff=0).result(BOUND)
    assert notes == [f"{pid} begins 1", f"{pid} ValueError", f"{pid} begins 2", f"{pid} ends"]


def test_around_coroutine(make_shop: Callable[..., Shop], notes: SharedList) -> None:
    """A coroutine whose time is up passes through the code around it."""
    shop = make_shop(**ONE, BACKGROUND_KILL_AFTER=60)
    pid = shop.pid()
    error = shop.call(sleep_long, timeout=0.1).exception(BOUND)
    assert isinstance(error, ItemTimeoutError)
    assert notes[-2:] == [f"{pid} begins 1", f"{pid} CancelledError"]


def test_around_fails(shop: Shop, notes: SharedList) -> None:
    """An error of the code around an item fails it, by name."""
    options: dict[str, Any] = {"executor": "cpu", "describe": lambda *args, **kwargs: "broken"}
    task = shop.background.task(name="shop.work", **options)(call)
    error = Shipping(task, os.getpid).enqueue().exception(BOUND)
    assert isinstance(error, OSError)
    assert "the around_item function tests.children" in "".join(traceback.format_exception(error))
