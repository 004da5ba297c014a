"""Items that wait for items of their own executor end, or an error says how to wait instead."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_background import Status, WorkItem, current_item
from flask_background.errors import WaitError

from ..helpers import BOUND, Site

# These tests wait more than others.
pytestmark = pytest.mark.process

Make = Callable[..., Site]


def one_place(make_site: Make) -> Site:
    """A site whose executors have one place each."""
    mails = {"kind": "thread", "workers": 1}
    loop = {"kind": "asyncio", "limit": 1}
    executors = {"mails": mails, "asyncio": loop}
    return make_site(BACKGROUND_WORKERS=1, BACKGROUND_EXECUTORS=executors)


@pytest.mark.parametrize("how", ["result", "exception", "wait"])
def test_threads(make_site: Make, how: str) -> None:
    """Many items that each wait for others of the only thread end, and so does any other item."""
    site = one_place(make_site)
    background = site.background
    part = background.task(lambda number: number)

    @background.task
    def whole(number: int) -> int:
        parts = [part.enqueue(number) for _ in range(3)]
        for each in parts:
            getattr(each, how)()
        return sum(each.result(0) for each in parts)

    items = [whole.enqueue(number) for number in range(12)]
    assert [item.result(BOUND) for item in items] == [3 * number for number in range(12)]
    assert part.enqueue(1).result(BOUND) == 1
    assert background.wait_idle(BOUND)


def test_deep(make_site: Make) -> None:
    """Items may wait for one another to any depth."""
    site = one_place(make_site)
    background = site.background

    @background.task
    def count(depth: int) -> int:
        return 0 if depth == 0 else 1 + count.enqueue(depth - 1).result()

    assert count.enqueue(20).result(BOUND) == 20


def test_in_a_circle_of_executors(make_site: Make) -> None:
    """An item that waits for one of another executor lends its place, too: that one may need it."""
    site = one_place(make_site)
    background = site.background
    last = background.task(lambda: "done")
    middle = background.task(executor="mails")(lambda: last.enqueue().result())
    first = background.task(lambda: middle.enqueue().result())
    assert [item.result(BOUND) for item in [first.enqueue() for _ in range(3)]] == ["done"] * 3


@pytest.mark.parametrize("gathered", [False, True])
def test_event_loop(make_site: Make, gathered: bool) -> None:
    """Coroutines that await others at the limit of their event loop end."""
    site = one_place(make_site)
    background = site.background

    @background.task
    async def part(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def ended(item: WorkItem[int]) -> int:
        return await item

    @background.task
    async def whole(number: int) -> int:
        parts = [part.enqueue(number) for _ in range(3)]
        if gathered:
            return sum(await asyncio.gather(*map(ended, parts)))
        return sum([await each for each in parts])

    items = [whole.enqueue(number) for number in range(6)]
    assert [item.result(BOUND) for item in items] == [3 * number for number in range(6)]


@pytest.mark.parametrize("options", [{}, {"durable": True}, {"backend": "immediate"}], ids=str)
def test_item_that_waits_for_itself(make_site: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    """An item that waits for its own end gets an error; with a timeout the wait has an end."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")

    @site.background.task(**options)
    def wait() -> bool:
        with pytest.raises(WaitError, match="waits for its own end"):
            current_item.result()
        return current_item.wait(0.01)

    assert wait.enqueue().result(BOUND) is False
    assert wait() is False


def test_event_loop_that_would_stand_still(make_site: Make) -> None:
    """A wait that would hold up its own event loop for good is an error; with a timeout it has an end."""
    site = one_place(make_site)
    background = site.background

    @background.task
    async def part() -> int:
        return 42

    @background.task
    async def whole() -> int:
        item = part.enqueue()
        assert not item.wait(0.01)
        with pytest.raises(WaitError, match="await the item instead"):
            item.result()
        return await item

    assert whole.enqueue().result(BOUND) == 42


def test_timeout_is_kept(make_site: Make, gate: threading.Event) -> None:
    """A wait with a timeout ends in time, though the item that it waits for takes longer."""
    site = one_place(make_site)
    background = site.background
    slow = background.task(lambda: gate.wait(BOUND))

    @background.task
    def whole() -> tuple[bool, float]:
        item, begun = slow.enqueue(), time.monotonic()
        return item.wait(0.1), time.monotonic() - begun

    waited, seconds = whole.enqueue().result(BOUND)
    assert not waited
    assert 0.1 <= seconds < BOUND / 2
    gate.set()


def test_no_more_at_work_than_places(make_site: Make) -> None:
    """Items in lent places work while others wait: no more items work than there are places."""
    site = one_place(make_site)
    background = site.background
    at_work, most = [0], [0]
    lock = threading.Lock()

    def work(change: int) -> None:
        with lock:
            at_work[0] += change
            most[0] = max(most[0], at_work[0])

    @background.task
    def part() -> None:
        work(+1)
        time.sleep(0.002)
        work(-1)

    @background.task
    def whole() -> None:
        work(+1)
        parts = [part.enqueue() for _ in range(3)]
        work(-1)
        for item in parts:
            item.result()

    for item in [whole.enqueue() for _ in range(5)]:
        item.result(BOUND)
    assert most == [1]


@pytest.mark.parametrize("how", ["delay", "retry"])
def test_waiting_brings_nothing_forward(make_site: Make, how: str) -> None:
    """An item that is not due yet is not started by a wait for it, and neither is a retry."""
    site = one_place(make_site)
    background = site.background
    begun: list[float] = []

    @background.task(max_attempts=2, backoff=0.3)
    def part() -> float:
        begun.append(time.monotonic())
        if how == "retry" and current_item.attempt == 1:
            raise OSError
        return time.monotonic()

    @background.task
    def whole() -> float:
        before = time.monotonic()
        task = part.using(delay=0.3) if how == "delay" else part
        return task.enqueue().result() - before

    assert whole.enqueue().result(BOUND) > 0.29
    assert len(begun) == (1 if how == "delay" else 2)


@pytest.mark.parametrize("how", ["delay", "retry"])
def test_event_loop_brings_nothing_forward(make_site: Make, how: str) -> None:
    """A coroutine that awaits an item that is not due yet lends its place once it is due, and not before."""
    site = one_place(make_site)
    background = site.background
    begun: list[float] = []

    @background.task(max_attempts=2, backoff=0.6)
    async def part() -> float:
        begun.append(time.monotonic())
        if how == "retry" and current_item.attempt == 1:
            raise OSError
        return time.monotonic()

    @background.task
    async def whole() -> float:
        before = time.monotonic()
        task = part.using(delay=0.6) if how == "delay" else part
        return await task.enqueue() - before

    assert whole.enqueue().result(BOUND) > (0.59 if how == "delay" else 0.29)
    assert len(begun) == (1 if how == "delay" else 2)


def test_cancelled_while_it_waits(make_site: Make, gate: threading.Event) -> None:
    """An item that is withdrawn wakes the item that waits for it."""
    site = one_place(make_site)
    background = site.background
    parts: list[WorkItem[Any]] = []
    part = background.task(lambda: None)

    @background.task
    def whole() -> BaseException | None:
        parts.append(part.using(delay=60).enqueue())
        gate.set()
        return parts[0].exception()

    item = whole.enqueue()
    assert gate.wait(BOUND)
    assert parts[0].cancel()
    assert isinstance(item.result(BOUND), Exception)
    assert parts[0].status is Status.CANCELLED


@pytest.mark.parametrize("coroutine", [False, True])
def test_durable_items(make_site: Make, tmp_path: Path, coroutine: bool) -> None:
    """Durable items that wait for durable items of the only place end, too."""
    site = make_site(
        BACKGROUND_WORKERS=1,
        BACKGROUND_EXECUTORS={"asyncio": {"kind": "asyncio", "limit": 1}},
        BACKGROUND_JOURNAL=tmp_path / "journal",
    )
    durable = site.background.task(durable=True)

    def part(number: int) -> int:
        return number

    async def part_later(number: int) -> int:
        return number

    parts: Any = durable(part_later if coroutine else part)

    def whole(number: int) -> int:
        return int(parts.enqueue(number).result())

    async def whole_later(number: int) -> int:
        return int(await parts.enqueue(number))

    wholes: Any = durable(whole_later if coroutine else whole)
    assert [item.result(BOUND) for item in [wholes.enqueue(number) for number in range(4)]] == [0, 1, 2, 3]
