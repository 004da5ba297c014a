"""Items that return the oddest things to be awaited end, once, and the executor goes on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_background import Background, Status, signals
from flask_background.executors import aio

from ..helpers import BOUND, Site, receiving, until


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_LOOK", 0.02)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of the app's, which runs on a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(BOUND)
    loop.close()


def of(loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
    """A Future of a loop that runs elsewhere."""

    async def make() -> asyncio.Future[Any]:
        return loop.create_future()

    return asyncio.run_coroutine_threadsafe(make(), loop).result(BOUND)


def test_finished_elsewhere(background: Background, loop: asyncio.AbstractEventLoop) -> None:
    """A Future of another loop that has finished gives its result, or its error."""
    good, bad = of(loop), of(loop)
    loop.call_soon_threadsafe(good.set_result, 42)
    loop.call_soon_threadsafe(bad.set_exception, KeyError("lost"))
    until(lambda: good.done() and bad.done())
    assert background.enqueue(lambda: good).result(BOUND) == 42
    assert isinstance(background.enqueue(lambda: bad).exception(BOUND), KeyError)


def test_finished_later(background: Background, loop: asyncio.AbstractEventLoop) -> None:
    """A Future of another loop that runs is awaited, however long that takes."""
    future = of(loop)
    item = background.enqueue(lambda: future)
    assert not item.wait(0.1)
    loop.call_soon_threadsafe(future.set_result, 42)
    assert item.result(BOUND) == 42


def test_cancelled_for_its_item(background: Background, loop: asyncio.AbstractEventLoop) -> None:
    """Whoever cancels the item cancels the Future of another loop."""
    future = of(loop)
    item = background.enqueue(lambda: future)
    until(lambda: item._attempt is not None and item._attempt.abort is not None)
    assert item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED
    until(future.cancelled)


def test_loop_that_is_closed(background: Background) -> None:
    """A Future of a closed loop gives its result; if it has none the item fails, and says why."""
    loop = asyncio.new_event_loop()
    done, never = loop.create_task(asyncio.sleep(0, 42)), loop.create_future()
    loop.run_until_complete(done)
    loop.close()
    assert background.enqueue(lambda: done).result(BOUND) == 42
    error = background.enqueue(lambda: never).exception(BOUND)
    assert isinstance(error, RuntimeError)
    assert "event loop that does not run" in str(error)


def test_loop_that_stands_still(background: Background) -> None:
    """A Future of a loop that does not run ends its item, rather than to hang for ever."""
    loop = asyncio.new_event_loop()
    done, never = loop.create_task(asyncio.sleep(0, 42)), loop.create_future()
    loop.run_until_complete(done)
    assert background.enqueue(lambda: done).result(BOUND) == 42
    assert isinstance(background.enqueue(lambda: never).exception(BOUND), RuntimeError)
    loop.close()


class NoCallbacks(concurrent.futures.Future[Any]):
    """Takes no callbacks."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Take none."""
        raise ValueError("no callbacks")


class TwoEnds(concurrent.futures.Future[Any]):
    """Tells its end twice, and then fails to."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call it more than once."""
        self.set_result(42)
        fn(self)
        fn(self)
        raise SystemExit("callbacks")


class NoResult(concurrent.futures.Future[Any]):
    """Has ended, and does not say how."""

    def result(self, timeout: float | None = None) -> Any:
        """Say nothing."""
        raise SystemExit("no result")


class NoLoop(asyncio.Future[Any]):
    """Does not say whose it is."""

    def get_loop(self) -> Any:
        """Say nothing."""
        raise ValueError("no loop")


class BadAwaitable:
    """Cannot be awaited."""

    def __await__(self) -> Any:
        raise SystemExit("no")


class NoIterator:
    """Is awaited through what is no iterator."""

    def __await__(self) -> Any:
        return 5


class NoClass:
    """Does not say what it is."""

    @property
    def __class__(self) -> Any:
        raise ValueError("class")


def no_result() -> NoResult:
    """A Future that has ended."""
    made = NoResult()
    made.set_result(1)
    return made


def cancelled() -> concurrent.futures.Future[Any]:
    """A Future that somebody has cancelled."""
    made = concurrent.futures.Future[Any]()
    made.cancel()
    made.set_running_or_notify_cancel()
    return made


def no_loop() -> NoLoop:
    """A Future of its own kind."""
    loop = asyncio.new_event_loop()
    try:
        return NoLoop(loop=loop)
    finally:
        loop.close()


@pytest.mark.parametrize(
    "make", [NoCallbacks, no_result, no_loop, cancelled, BadAwaitable, NoIterator, NoClass]
)
def test_fails(make_site: Callable[..., Site], make: Callable[[], Any]) -> None:
    """A result that cannot be awaited makes its item fail, once; the threads and the loop run others."""
    site = make_site(BACKGROUND_WORKERS=1)
    with receiving(signals.item_finished, site.app) as received:
        item = site.background.enqueue(make)
        assert item.wait(BOUND)
        assert item.status is Status.FAILED
        assert site.background.enqueue(abs, -1).result(BOUND) == 1
        assert site.background.enqueue(asyncio.sleep, 0, 42).result(BOUND) == 42
        assert site.background.wait_idle(BOUND)
    assert sum(values["item"] is item for values in received) == 1


def test_ends_once(make_site: Callable[..., Site]) -> None:
    """A Future that tells its end more than once ends its item once."""
    site = make_site(BACKGROUND_WORKERS=1)
    with receiving(signals.item_finished, site.app) as received:
        item = site.background.enqueue(TwoEnds)
        assert item.result(BOUND) == 42
        assert site.background.enqueue(abs, -1).result(BOUND) == 1
        assert site.background.wait_idle(BOUND)
    assert sum(values["item"] is item for values in received) == 1


def test_item_stops_the_loop(background: Background) -> None:
    """An item that stops the event loop stops no other item."""

    async def stop() -> None:
        asyncio.get_running_loop().stop()

    async def other() -> int:
        await asyncio.sleep(0.05)
        return 42

    running = background.enqueue(other)
    for _ in range(3):
        assert background.enqueue(stop).wait(BOUND)
    assert running.result(BOUND) == 42
    assert background.enqueue(other).result(BOUND) == 42


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_is_left_on_the_loop_raises(background: Background, error: type[BaseException]) -> None:
    """A callback or task that an item leaves on the loop hurts nobody, whatever it raises."""

    def fail() -> None:
        raise error("left behind")

    async def leave() -> None:
        asyncio.get_running_loop().call_soon(fail)

    for _ in range(3):
        assert background.enqueue(leave).wait(BOUND)
    assert background.enqueue(asyncio.sleep, 0.05, 42).result(BOUND) == 42


def test_callbacks_of_a_cancelled_future(background: Background, gate: threading.Event) -> None:
    """A slow callback of a Future that is cancelled for its item's time-out holds up no other time-out."""
    future = concurrent.futures.Future[Any]()
    future.add_done_callback(lambda _: gate.wait(BOUND))
    background.task(name="slow", timeout=0.02)(lambda: future).enqueue()
    until(future.cancelled)

    async def quick() -> None:
        await asyncio.sleep(BOUND)

    item = background.task(name="quick", timeout=0.02)(quick).enqueue()
    assert item.wait(2.0)
    gate.set()
    assert background.wait_idle(BOUND)
