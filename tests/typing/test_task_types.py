"""The public interface as type checkers see it. mypy reads this file in strict mode; a test below runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Literal, assert_type

from flask import Flask

from flask_background import (
    Background,
    Call,
    CancellationToken,
    CancelReason,
    Progress,
    RequestState,
    Status,
    Task,
    WorkItem,
    current_item,
)
from flask_background.errors import EnqueueError, QueueFull, Stopping
from flask_background.testing import RecordedItem, assert_enqueued, perform, record_items

background = Background()


@background.task
def resize(photo: bytes, width: int, *, sharpen: bool = False) -> str:
    """A function."""
    return f"{photo!r} {width} {sharpen}"


@background.task
async def fetch(url: str, retries: int = 3) -> bytes:
    """A coroutine function."""
    return url.encode() * retries


@background.task(timeout=30, executor="thread", name="shop.convert", when="response")
def convert(pages: list[int]) -> Future[float]:
    """A function that returns a Future."""
    future: Future[float] = Future()
    future.set_result(float(sum(pages)))
    return future


class DelayedItems(Awaitable[complex]):
    """An awaitable that is no coroutine."""

    def __await__(self) -> Generator[Any, None, complex]:
        yield
        return 1j


@background.task()
def later() -> DelayedItems:
    """A function that returns an awaitable."""
    return DelayedItems()


@background.task
def nothing() -> None:
    """A function without a result."""


@background.task
def iterate() -> Iterator[int]:
    """A function that returns an iterator, which is not awaited."""
    return iter([1])


@background.task
def iterate_async() -> AsyncIterator[int]:
    """A function that returns an asynchronous iterator, which is not awaited either."""
    raise NotImplementedError


class Shop:
    """Has a task as a method."""

    @background.task
    def greet(self, who: str, *, loud: bool = False) -> str:
        """A method."""
        return who


@background.periodic("*/5 * * * *", timezone="Europe/Berlin", max_attempts=3)
def fetch_feeds() -> None:
    """A periodic task."""


def signatures_in_tests(app: Flask) -> None:
    """A test performs a task with the function's own arguments, and gets its result."""
    assert_type(perform(resize, b"", 1), str)
    assert_type(perform(fetch, "url"), bytes)
    assert_type(perform(convert, [1]), float)
    assert_type(perform(Shop().greet, "bo", loud=True), str)
    perform(resize, b"")  # type: ignore[call-overload]
    with record_items(app) as items:
        assert_type(items[0], RecordedItem)
        assert_type(assert_enqueued(resize, args=(b"", 1)).item, WorkItem[Any])


def tasks_keep_signatures() -> None:
    """Called, a task is its function."""
    assert_type(resize(b"", 1), str)
    assert_type(resize(b"", width=1, sharpen=True), str)
    assert_type(convert([1]), Future[float])
    assert_type(nothing.func, Callable[[], None])
    resize(b"")  # type: ignore[call-arg]
    resize("", 1)  # type: ignore[arg-type]
    resize(b"", 1, True)  # type: ignore[call-arg]
    resize(b"", 1, blur=True)  # type: ignore[call-arg]
    later(1)  # type: ignore[call-arg]


async def coroutines_keep_signatures() -> None:
    """Called, a task of a coroutine function is awaited as that is."""
    assert_type(await fetch("url"), bytes)
    assert_type(await fetch("url", retries=1), bytes)
    assert_type(await later(), complex)
    await fetch(1)  # type: ignore[arg-type]


def batches_give_items() -> None:
    """A batch of one task's calls gives its items; a wrong call is an error where it is made."""
    assert_type(resize.call(b"", 1), Call[str])
    assert_type(fetch.using(delay=1).call("url"), Call[bytes])
    assert_type(Shop().greet.call("bo"), Call[str])
    assert_type(background.enqueue_many(fetch.call(url) for url in ("a", "b")), list[WorkItem[bytes]])
    mixed: list[Call[object]] = [resize.call(b"", 1), fetch.call("url")]
    assert_type(background.enqueue_many(mixed), list[WorkItem[object]])
    resize.call(b"")  # type: ignore[call-arg]


def enqueue_gives_items() -> None:
    """An item is typed by what comes out in the end, not by what makes it."""
    assert_type(resize.enqueue(b"", 1), WorkItem[str])
    assert_type(fetch.enqueue("url"), WorkItem[bytes])
    assert_type(convert.enqueue([1]), WorkItem[float])
    assert_type(later.enqueue(), WorkItem[complex])
    assert_type(nothing.enqueue(), WorkItem[None])
    assert_type(iterate.enqueue(), WorkItem[Iterator[int]])
    assert_type(iterate_async.enqueue(), WorkItem[AsyncIterator[int]])


def methods_are_bound(shop: Shop) -> None:
    """Through an object a method's task takes what is left of its arguments."""
    assert_type(shop.greet("bo"), str)
    assert_type(shop.greet.enqueue("bo", loud=True), WorkItem[str])
    assert_type(shop.greet.using(timeout=5).enqueue("bo"), WorkItem[str])
    assert_type(Shop.greet.enqueue(shop, "bo"), WorkItem[str])
    shop.greet.enqueue(1)  # type: ignore[arg-type]
    shop.greet.enqueue()  # type: ignore[call-arg]


def enqueue_takes_the_functions_arguments() -> None:
    """enqueue takes what the function takes, and nothing else."""
    resize.enqueue(b"", 1, sharpen=True)
    resize.enqueue(photo=b"", width=1)
    fetch.enqueue("url", 1)
    resize.enqueue()  # type: ignore[call-arg]
    resize.enqueue(b"")  # type: ignore[call-arg]
    resize.enqueue("", 1)  # type: ignore[arg-type]
    resize.enqueue(b"", 1, True)  # type: ignore[call-arg]
    resize.enqueue(b"", 1, timeout=5)  # type: ignore[call-arg]
    fetch.enqueue(1)  # type: ignore[call-overload]
    convert.enqueue(["1"])  # type: ignore[list-item]
    nothing.enqueue(1)  # type: ignore[call-arg]


def using_gives_the_same_task() -> None:
    """A copy with other options has the same type, and its options are checked."""
    assert_type(fetch.using(timeout=5).enqueue("url"), WorkItem[bytes])
    assert_type(resize.using(when="response", executor="mails").enqueue(b"", 1), WorkItem[str])
    assert_type(convert.using(timeout=None).using(when="now").enqueue([]), WorkItem[float])
    assert_type(nothing.using(timeout=0.5), Task[[], None])
    assert_type(nothing.using(timeout=0.5)(), None)
    resize.using(timeout="5")  # type: ignore[arg-type]
    resize.using(when="later")  # type: ignore[arg-type]
    resize.using(colour="red")  # type: ignore[call-arg]
    resize.using(when="response").enqueue("", 1)  # type: ignore[arg-type]


def options_are_checked() -> None:
    """The options of the decorator are checked, too."""

    @background.task(timeout="5")  # type: ignore[call-overload, untyped-decorator]
    def wrong_timeout() -> None: ...

    @background.task(when="never")  # type: ignore[call-overload, untyped-decorator]
    def wrong_when() -> None: ...

    @background.task(colour="red")  # type: ignore[call-overload, untyped-decorator]
    def wrong_option() -> None: ...

    background.task("name")  # type: ignore[call-overload]


def plain(number: int, text: str = "") -> list[int]:
    """A function that is no task."""
    return [number] * len(text)


async def plain_async(number: int) -> set[int]:
    """A coroutine function that is no task."""
    return {number}


def background_enqueue_takes_any_callable() -> None:
    """background.enqueue keeps signatures and results as well."""
    assert_type(background.enqueue(plain, 1), WorkItem[list[int]])
    assert_type(background.enqueue(plain, 1, text="a"), WorkItem[list[int]])
    assert_type(background.enqueue(plain_async, 1), WorkItem[set[int]])
    assert_type(background.enqueue(lambda: 42), WorkItem[int])
    assert_type(background.enqueue(partial(plain, 1)), WorkItem[list[int]])
    assert_type(background.enqueue(convert.func, [1]), WorkItem[float])
    assert_type(background.enqueue(resize, b"", 1), WorkItem[str])
    assert_type(background.enqueue(fetch, "url"), WorkItem[bytes])
    background.enqueue(plain)  # type: ignore[call-overload]
    background.enqueue(plain, "1")  # type: ignore[call-overload]
    background.enqueue(plain(1))  # type: ignore[call-overload]
    background.enqueue(fetch, 1)  # type: ignore[call-overload]


def items_give_results() -> None:
    """The methods of a handle are typed by its item."""
    item = fetch.enqueue("url")
    assert_type(item.result(), bytes)
    assert_type(item.result(timeout=1.5), bytes)
    assert_type(item.exception(1), BaseException | None)
    assert_type(item.wait(None), bool)
    assert_type(item.cancel(), bool)
    assert_type(item.id, str)
    assert_type(item.task_name, str)
    assert_type(item.status, Status)
    assert_type(item.state, RequestState)
    assert_type(item.token, CancellationToken)
    assert_type(item.progress, Progress | None)
    assert_type(item.attempt, int)
    nothing.enqueue().result().bit_length()  # type: ignore[attr-defined]
    item.wait("1")  # type: ignore[arg-type]


async def items_can_be_awaited() -> None:
    """Awaiting a handle gives its result."""
    assert_type(await fetch.enqueue("url"), bytes)
    assert_type(await resize.enqueue(b"", 1), str)
    assert_type(await current_item.token.wait_async(1), bool)


def items_are_covariant() -> None:
    """An item of a narrow type is an item of a wide one, and not the other way round."""
    wide: WorkItem[object] = resize.enqueue(b"", 1)
    either: WorkItem[str | bytes] = fetch.enqueue("url")
    narrow: WorkItem[int] = resize.enqueue(b"", 1)  # type: ignore[assignment]
    del wide, either, narrow


def item_of_the_code() -> None:
    """current_item is typed as a WorkItem."""
    assert_type(current_item, WorkItem[Any])
    assert_type(current_item.token.reason, CancelReason | None)
    assert_type(current_item.token.remaining, float | None)
    assert_type(current_item.token.on_cancel(print), Callable[[], None])
    current_item.report_progress(1, 2, "half")
    current_item.report_progress("1")  # type: ignore[arg-type]


def views_and_processors(app: Flask) -> None:
    """Tasks can be views, and processors keep their own types."""

    @app.get("/")
    @background.task
    def view() -> str:
        return ""

    @background.state_processor
    def user() -> dict[str, int]:
        return {"user": 1}

    @background.state_processor  # type: ignore[arg-type]
    def wrong() -> int:
        return 1

    @background.around_item
    def locale() -> Iterator[None]:
        yield

    @background.around_item
    def user_again() -> Generator[None, None, None]:
        yield

    @background.around_item  # type: ignore[type-var]
    def of_item(item: str) -> Iterator[None]:
        yield

    @background.around_enqueue
    def trace(task_name: str) -> Generator[dict[str, str] | None, WorkItem[Any], None]:
        item = yield {"traceparent": "00-1"}
        assert_type(item, WorkItem[Any])

    @background.around_enqueue  # type: ignore[type-var]
    def no_generator(task_name: str) -> None:
        return None

    @background.task(describe=lambda number: f"order {number}")
    def order(number: int) -> None: ...

    @background.task(describe="order")  # type: ignore[call-overload, untyped-decorator]
    def other(number: int) -> None: ...

    assert_type(locale(), Iterator[None])
    assert_type(order.enqueue(7).description, str | None)
    assert_type(view.enqueue().result(), str)
    assert_type(background.get("id"), WorkItem[Any] | None)
    assert_type(background.items(), list[WorkItem[Any]])
    assert_type(background.stop(), list[WorkItem[Any]])
    assert_type(background.wait_idle(1), bool)
    background.start()
    assert_type(background.stats().queued, int)


def refusals(error: EnqueueError) -> None:
    """Refusals carry typed data."""
    assert_type(error.message, str)
    busy: EnqueueError = QueueFull("full")
    stopping: Literal[5] = Stopping.retry_after_seconds  # type: ignore[assignment]
    del busy, stopping


def test_mypy_agrees() -> None:
    """mypy finds what is asserted above, each error that is expected, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
