"""Functions of the app around each run: their order, their errors, and the ends that they see."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask, current_app, g

from flask_background import Background, Status, WorkItem, current_item
from flask_background.errors import ConfigurationError, ItemTimeoutError
from flask_background.testing import run_items

from ..helpers import BOUND, Site

Around = Generator[None, None, None]
mode: ContextVar[str] = ContextVar("mode", default="none")


def noted(background: Background, seen: list[Any], name: str = "around") -> None:
    """Note the beginning and the end of each run."""

    @background.around_item
    def around() -> Around:
        seen.append(f"{name} {current_item.attempt}")
        try:
            yield
        except BaseException as error:
            seen.append(f"{name} {type(error).__name__}")
            raise
        seen.append(f"{name} ends")


def test_order(background: Background) -> None:
    """The functions enclose the run inside its app context; the first added is the outermost."""
    seen: list[Any] = []

    @background.around_item
    def outer() -> Around:
        g.name = current_app.name
        token = mode.set("outer")
        seen.append("outer")
        yield
        seen.append(("outer", current_item.task_name, mode.get()))
        mode.reset(token)

    noted(background, seen, "inner")

    @background.task(name="shop.work")
    def work() -> tuple[str, str]:
        seen.append("work")
        return g.name, mode.get()

    assert work.enqueue().result(BOUND) == ("shop", "outer")
    assert seen == ["outer", "inner 1", "work", "inner ends", ("outer", "shop.work", "outer")]


def test_each_attempt(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """The functions enclose each run of an item, and see the error of each failed one."""
    seen: list[Any] = []
    noted(background, seen)

    @background.task(max_attempts=2, backoff=0)
    def flaky() -> int:
        return current_item.attempt // 2 or int("no")

    assert flaky.enqueue().result(BOUND) == 1
    assert seen == ["around 1", "around ValueError", "around 2", "around ends"]


def test_swallowed(background: Background) -> None:
    """To swallow an error does not make the run succeed, and outer functions see the error, too."""
    seen: list[Any] = []
    noted(background, seen, "outer")

    @background.around_item
    def swallow() -> Around:
        try:
            yield
        except ValueError:
            seen.append("swallowed")

    item = background.enqueue(int, "no")
    assert isinstance(item.exception(BOUND), ValueError)
    assert seen == ["outer 1", "swallowed", "outer ValueError"]


def test_replaced(background: Background) -> None:
    """An error raised in place of the function's is the run's, with the function's as its context."""

    @background.around_item
    def translate() -> Around:
        try:
            yield
        except ValueError as error:
            raise LookupError("translated") from error

    error = background.enqueue(int, "no").exception(BOUND)
    assert isinstance(error, LookupError)
    assert isinstance(error.__cause__, ValueError)
    assert "the around_item function tests.core.test_around.test_replaced" in error.__notes__[0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_failure(background: Background, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error of a function fails the run, is tried again where that is allowed, and names the function."""
    ran: list[Any] = []
    seen: list[Any] = []
    noted(background, seen)

    @background.around_item
    def broken() -> Around:
        if when == "before":
            raise OSError("no database")
        yield
        raise OSError("no database")

    @background.task(max_attempts=2, backoff=0, retry_on=(OSError,))
    def work() -> None:
        ran.append(current_item.attempt)

    error = work.enqueue().exception(BOUND)
    assert isinstance(error, OSError)
    assert any("raised by the around_item function" in note and ".broken" in note for note in error.__notes__)
    assert ran == ([] if when == "before" else [1, 2])
    assert seen == ["around 1", "around OSError", "around 2", "around OSError"]
    assert "<locals>.broken" in caplog.text


def test_no_yield(background: Background) -> None:
    """A function that ends without a yield fails the run, which does not begin."""
    ran: list[int] = []

    @background.around_item
    def never() -> Around:
        if ran:
            yield

    error = background.enqueue(ran.append, 1).exception(BOUND)
    assert isinstance(error, ConfigurationError)
    assert "never ended without a yield" in str(error)
    assert ran == []


@pytest.mark.parametrize("argument", ["7", "no"])
def test_two_yields(background: Background, argument: str) -> None:
    """A function that yields twice fails the run, with the run's own error as the cause."""
    seen: list[str] = []

    @background.around_item
    def twice() -> Around:
        try:
            try:
                yield
            except ValueError:
                pass
            yield
        finally:
            seen.append("closed")

    error = background.enqueue(int, argument).exception(BOUND)
    assert isinstance(error, ConfigurationError)
    assert "twice yielded twice" in str(error)
    assert isinstance(error.__cause__, ValueError) is (argument == "no")
    assert seen == ["closed"]


@dataclass(frozen=True)
class FrozenError(Exception):
    """An error that takes no notes and no attributes."""

    code: int = 7


@pytest.mark.parametrize(
    "error", [SystemExit(3), GeneratorExit(), StopIteration(1), FrozenError(), asyncio.CancelledError()]
)
def test_odd_errors(background: Background, error: BaseException) -> None:
    """Whatever the function raises comes in at the yield, and out again as the run's error."""
    seen: list[Any] = []

    @background.around_item
    def around() -> Around:
        try:
            yield
        except BaseException as raised:
            seen.append(raised)
            raise

    def work() -> None:
        raise error

    assert background.enqueue(work).exception(BOUND) is error
    assert seen == [error]


def test_traceback_is_of_the_function(background: Background) -> None:
    """The traceback of a failure shows the function, and no line of what is around it."""
    noted(background, [])

    def work() -> None:
        raise ValueError("no")

    error = background.enqueue(work).exception(BOUND)
    assert error is not None
    names = []
    frame = error.__traceback__
    while frame is not None:
        names.append(frame.tb_frame.f_code.co_name)
        frame = frame.tb_next
    assert names[-1] == "work"
    assert "around" not in names


async def coroutine() -> str:
    """Await something."""
    await asyncio.sleep(0)
    return mode.get()


def of_thread() -> str:
    """Return at once."""
    return mode.get()


def of_function() -> Any:
    """Return a coroutine."""
    return coroutine()


def of_pool() -> Any:
    """Return a Future that another thread completes."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: "around")


@pytest.mark.parametrize("func", [coroutine, of_thread, of_function, of_pool])
def test_awaitables(background: Background, func: Callable[[], Any]) -> None:
    """The code after the yield runs once the awaited result is there, in the contextvars of the run."""
    seen: list[Any] = []

    @background.around_item
    def around() -> Around:
        token = mode.set("around")
        yield
        seen.append((current_item.status, mode.get(), current_app.name))
        mode.reset(token)

    assert background.enqueue(func).result(BOUND) == "around"
    assert seen == [(Status.RUNNING, "around", "shop")]


def test_awaitable_that_fails(background: Background) -> None:
    """The error of an awaited result comes in at the yield."""
    seen: list[Any] = []
    noted(background, seen)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("no")

    assert isinstance(background.enqueue(fail).exception(BOUND), KeyError)
    assert seen == ["around 1", "around KeyError"]


def test_timeout(background: Background) -> None:
    """A run that is cut for its time leaves the functions once; they cannot turn that into a success."""
    seen: list[Any] = []
    noted(background, seen, "outer")

    @background.around_item
    def swallow() -> Around:
        try:
            yield
        except asyncio.CancelledError:
            seen.append("cancelled")

    @background.task(timeout=0.05)
    async def sleep() -> None:
        await asyncio.sleep(BOUND)

    assert isinstance(sleep.enqueue().exception(BOUND), ItemTimeoutError)
    assert seen == ["outer 1", "cancelled", "outer CancelledError"]


def test_fork(site: Site) -> None:
    """A process that an item forks does not run the code after the yield, even if it ends the run."""
    here = os.getpid()
    seen: list[Any] = []
    read, write = os.pipe()

    @site.background.around_item
    def around() -> Around:
        yield
        seen.append(os.getpid())
        os.write(write, b"left ")

    @site.app.teardown_appcontext
    def end(error: BaseException | None) -> None:
        if os.getpid() != here:
            os._exit(7)

    def fork() -> int:
        if (pid := os.fork()) == 0:
            signal.alarm(30)
            raise SystemExit
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert site.background.enqueue(fork).result(BOUND) == 7
    assert seen == [here]
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"left "


def test_direct_call(background: Background) -> None:
    """A direct call is no item, so nothing is around it; neither is there around a call inside of an item."""
    seen: list[Any] = []
    noted(background, seen)

    @background.task
    def inner() -> int:
        return 7

    @background.task
    def outer() -> int:
        return inner()

    assert inner() == 7
    assert seen == []
    assert outer.enqueue().result(BOUND) == 7
    assert seen == ["around 1", "around ends"]


@pytest.mark.parametrize("backend", ["immediate", "manual"])
def test_on_the_callers_thread(make_site: Callable[..., Site], backend: str) -> None:
    """Items that run on the thread of a test have the functions around them, too."""
    site = make_site(BACKGROUND_BACKEND=backend)
    seen: list[Any] = []
    noted(site.background, seen)

    @site.background.task(max_attempts=2, backoff=0)
    def flaky() -> int:
        return current_item.attempt // 2 or int("no")

    with site.app.app_context():
        item: WorkItem[int] = flaky.enqueue()
        if backend == "manual":
            run_items()
    assert item.result(BOUND) == 1
    assert seen == ["around 1", "around ValueError", "around 2", "around ends"]


def test_before_init_app() -> None:
    """A function may be added before init_app or after the first item; all apps of the Background have it."""
    background = Background()
    seen: list[Any] = []
    noted(background, seen, "first")
    for name in ("a", "b"):
        app = Flask(name)
        background.init_app(app)
        with app.app_context():
            assert background.enqueue(int).result(BOUND) == 0
            if name == "a":
                noted(background, seen, "second")
                assert background.enqueue(int).result(BOUND) == 0
    both = ["first 1", "second 1", "second ends", "first ends"]
    assert seen == ["first 1", "first ends", *both, *both]


def test_unfit(background: Background) -> None:
    """Only a generator function without arguments can be around an item."""

    @contextmanager
    def managed() -> Any:
        yield

    async def asynchronous() -> Any:
        yield

    async def coroutine() -> None: ...

    def of_item(item: Any) -> Any:
        yield

    wrong: list[tuple[Any, str]] = [
        (managed, "leave out the decorator below, such as @contextmanager"),
        (asynchronous, "write def in place of async def, also around coroutines"),
        (coroutine, "coroutine is none: let it yield once"),
        (of_item, "is called with no argument"),
        (7, "let it yield once"),
    ]
    for function, why in wrong:
        with pytest.raises(ConfigurationError, match=why):
            background.around_item(function)
    assert background.enqueue(int).result(BOUND) == 0


def test_error_is_logged_once(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """The failure of a function is one line of the log, which has its traceback."""

    @background.around_item
    def broken() -> Around:
        yield
        raise OSError("no database")

    assert background.enqueue(int).wait(BOUND)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "failed" in record.getMessage()
    assert record.exc_info is not None
