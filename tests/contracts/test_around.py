"""The contract of every backend about functions around enqueues and runs, and about descriptions."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

from flask import current_app

from flask_background import Status, WorkItem, current_item
from flask_background.errors import ItemCancelledError

from ..helpers import BOUND, until
from .conftest import Shop, but_immediate, everywhere, in_process

Around = Generator[Any, Any, None]


@everywhere
def test_trace_context(shop: Shop) -> None:
    """An item and its handles carry the trace context of its enqueue, also outside of a request."""
    seen: list[str] = []

    @shop.background.around_enqueue
    def trace(task_name: str) -> Around:
        item: WorkItem[Any] = yield {"traceparent": f"00-{task_name}", "tracestate": "a=1"}
        seen.append(item.id)

    def look() -> list[Any]:
        state = current_item.state
        return [bool(state), state.traceparent, state.tracestate]

    item = shop.task(look, "shop.look").enqueue()
    assert item.result(BOUND) == [False, "00-shop.look", "a=1"]
    assert seen == [item.id]
    found = shop.background.get(item.id)
    assert found is not None
    assert (bool(found.state), found.state.traceparent) == (False, "00-shop.look")


@everywhere
def test_description(shop: Shop) -> None:
    """An item has its description where it runs, and every handle of it has it, too."""
    task = shop.task(lambda number: current_item.description, describe=lambda number: f"order\n{number}")
    item = task.enqueue(7)
    assert item.description == "order 7"
    assert item.result(BOUND) == "order 7"
    found = shop.background.get(item.id)
    assert found is not None
    assert found.description == "order 7"


def noted(shop: Shop, seen: list[str]) -> None:
    """Note the beginning and the end of each run."""

    @shop.background.around_item
    def around() -> Around:
        seen.append(f"{current_app.name} {current_item.attempt}")
        try:
            yield
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        seen.append("left")


@everywhere
def test_around_item(shop: Shop) -> None:
    """The code around an item runs once for each attempt, and sees how it ends."""
    seen: list[str] = []
    noted(shop, seen)
    task = shop.task(lambda: current_item.attempt // 2 or int("no"), max_attempts=2, backoff=0)
    assert task.enqueue().result(BOUND) == 1
    assert seen == ["shop 1", "ValueError", "shop 2", "left"]


@everywhere
def test_around_coroutine(shop: Shop) -> None:
    """The code after the yield runs when a coroutine is done."""
    seen: list[str] = []
    noted(shop, seen)

    async def work() -> int:
        await asyncio.sleep(0)
        seen.append("work")
        return 7

    assert shop.task(work).enqueue().result(BOUND) == 7
    assert seen == ["shop 1", "work", "left"]


@but_immediate
def test_around_cancelled(shop: Shop, gate: threading.Event) -> None:
    """The code around an item sees its cancellation, and the item is cancelled all the same."""
    seen: list[str] = []
    noted(shop, seen)
    item = shop.holding(gate).enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert item.status is Status.CANCELLED
    assert seen == ["shop 1", "ItemCancelledError"]


@everywhere
def test_around_item_fails(shop: Shop) -> None:
    """An error of the code around an item fails it, by name, with the attempts that the task has."""

    @shop.background.around_item
    def broken() -> Around:
        yield
        raise OSError("no database")

    task = shop.task(lambda: 7, max_attempts=2, backoff=0)
    item = task.enqueue()
    error = item.exception(BOUND)
    assert item.attempt == 2
    assert "no database" in str(error)
    assert "the around_item function" in "".join(traceback.format_exception(error))


@in_process
def test_around_stop(shop: Shop, gate: threading.Event) -> None:
    """A stop that the item heeds passes through the code around it once."""
    seen: list[str] = []
    noted(shop, seen)
    item = shop.holding(gate).enqueue()
    until(lambda: item.status is Status.RUNNING)
    shop.background.stop(BOUND)
    assert seen == ["shop 1", "ItemCancelledError"]


mode: ContextVar[str] = ContextVar("mode", default="none")


@everywhere
def test_end_is_logged_inside(shop: Shop) -> None:
    """Failures and retries are logged in the context of the run, which the code around it has prepared."""
    seen: list[tuple[str, str, str]] = []

    @shop.background.around_item
    def prepare() -> Around:
        mode.set("prepared")
        yield

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                seen.append((record.levelname, mode.get(), record.__dict__["item_id"]))

    handler = Handler()
    logger = shop.app.logger.getChild("background")
    logger.addHandler(handler)
    try:
        item = shop.task(lambda: int("no"), max_attempts=2, backoff=0).enqueue()
        assert item.wait(BOUND)
        until(lambda: len(seen) == 2)
    finally:
        logger.removeHandler(handler)
    assert seen == [("WARNING", "prepared", item.id), ("ERROR", "prepared", item.id)]
