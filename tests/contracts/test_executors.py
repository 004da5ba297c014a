"""The contract of every executor, through a real app: one suite, over threads, event loop and processes.

The suite is run twice: over items in memory, and over durable ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from flask import current_app, g, has_request_context

from flask_background import CancelReason, Status, Task, WorkItem, current_item
from flask_background.app_state import state_of
from flask_background.concurrency import native
from flask_background.durable.journal.row import ItemRow
from flask_background.errors import (
    ItemCancelledError,
    ItemInterruptedError,
    ItemTimeoutError,
    NotFinishedError,
    QueueFull,
    Stopping,
)
from flask_background.local import ledger

from ..children import SharedEvent, SharedList, Shipping, call, hold_stubbornly
from ..children import hold as hold_in_child
from ..helpers import BOUND, Site, lines, records, until

P = ParamSpec("P")
R = TypeVar("R")

SETTINGS = {
    "thread": lambda capacity: {"BACKGROUND_WORKERS": capacity},
    "asyncio": lambda capacity: {"BACKGROUND_EXECUTORS": {"asyncio": {"kind": "asyncio", "limit": capacity}}},
    "process": lambda capacity: {
        "BACKGROUND_EXECUTORS": {"process": {"kind": "process", "workers": capacity}},
        "BACKGROUND_APP": "tests.children:create_app",
    },
}


class Lane:
    """One executor of one app, with tasks for it that are made of plain functions."""

    def __init__(self, kind: str, site: Site, folder: Path, durable: bool = False) -> None:
        self.kind = kind
        self._folder = folder
        self._shared = 0
        self.site = site
        self.durable = durable
        self.background = site.background

    def maker(self, name: str, **options: Any) -> Callable[[Callable[..., Any]], Task[..., Any]]:
        """Makes a task; of durable ones no two have one name."""
        others = [other for other in self.background._registry.tasks if other.startswith(name)]
        if self.durable and others:
            name = f"{name}-{len(others)}"
        return self.background.task(name=name, durable=self.durable, **options)

    def event(self) -> threading.Event:
        """An event that items can set."""
        return SharedEvent(self._path()) if self.kind == "process" else threading.Event()

    def list(self) -> list[Any]:
        """A list that items can append to."""
        return SharedList(self._path()) if self.kind == "process" else []

    def _path(self) -> Path:
        self._shared += 1
        return self._folder / f"shared-{self._shared}"

    def entry(self, item: WorkItem[Any]) -> ItemRow:
        """The journal's row of a durable item."""
        entry = state_of(self.site.app).durable.session.read_row(item.id)
        assert isinstance(entry, ItemRow)
        return entry

    def task(self, func: Callable[P, R], **options: Any) -> Task[P, Any]:
        """A task that does what func does."""
        if self.kind == "process":
            return self._shipping("shop.work", func, **options)
        if self.kind == "thread":
            return self.maker("shop.work", **options)(func)

        async def run(*args: P.args, **kwargs: P.kwargs) -> R:
            return func(*args, **kwargs)

        return self.maker("shop.work", **options)(run)

    def _shipping(self, name: str, func: Callable[..., Any], **options: Any) -> Any:
        return Shipping(self.maker(name, executor="process", **options)(call), func)

    def holding(self, gate: threading.Event, func: Callable[[], R], **options: Any) -> Task[[], Any]:
        """A task that does what func does, and then waits for the gate or for its token."""
        if self.kind == "process":
            return self._shipping("shop.hold", partial(hold_in_child, gate, func), **options)  # type: ignore[no-any-return]
        make = self.maker("shop.hold", **options)
        if self.kind == "thread":

            def hold() -> R:
                returned = func()
                until(lambda: gate.is_set() or current_item.token.cancelled)
                current_item.token.raise_if_cancelled()
                return returned

            return make(hold)

        async def hold_async() -> R:
            returned = func()
            end = time.monotonic() + BOUND
            while not gate.is_set():
                assert time.monotonic() < end
                if current_item.token.reason is CancelReason.SHUTDOWN:
                    # Coroutines are not cancelled before the grace period is over.
                    current_item.token.raise_if_cancelled()
                await asyncio.sleep(0.002)
            return returned

        return make(hold_async)

    def stubborn(self, gate: threading.Event, func: Callable[[], R], **options: Any) -> Task[[], Any]:
        """A task that waits for the gate alone, whatever its token says, and then does what func does."""
        if self.kind == "process":
            return self._shipping("shop.stubborn", partial(hold_stubbornly, gate, func), **options)  # type: ignore[no-any-return]
        make = self.maker("shop.stubborn", **options)
        if self.kind == "thread":

            def hold() -> R:
                assert gate.wait(BOUND)
                return func()

            return make(hold)

        async def hold_async() -> R:
            end = time.monotonic() + BOUND
            while not gate.is_set():
                assert time.monotonic() < end
                try:
                    await asyncio.sleep(0.002)
                except asyncio.CancelledError:
                    pass
            return func()

        return make(hold_async)


KINDS = ["thread", "asyncio", "process"]


@pytest.fixture(params=[*KINDS, *(f"durable-{kind}" for kind in KINDS)])
def make_lane(
    request: pytest.FixtureRequest, make_site: Callable[..., Site], tmp_path: Path
) -> Callable[..., Lane]:
    """Makes an executor with some capacity, for items in memory or for durable ones."""
    how, _, kind = request.param.rpartition("-")

    def make(capacity: int = 4, **settings: Any) -> Lane:
        journal = {"BACKGROUND_JOURNAL": tmp_path / "journal"} if how else {}
        return Lane(kind, make_site(**SETTINGS[kind](capacity), **journal, **settings), tmp_path, bool(how))

    return make


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[threading.Event]:
    """Holds items up until it is set, those in child processes too."""
    gate = SharedEvent(tmp_path / "gate")
    yield gate
    gate.set()


def lanes(*names: str) -> pytest.MarkDecorator:
    """The given executors alone."""
    return pytest.mark.parametrize("make_lane", names, indirect=True)


# What durable items do otherwise, as README says, or cannot do: all their arguments are data.
in_memory = lanes(*KINDS)
durable = lanes(*(f"durable-{kind}" for kind in KINDS))
# What has to be in this process to be seen, or is another app's in a child.
here = lanes("thread", "asyncio", "durable-thread", "durable-asyncio")
here_in_memory = lanes("thread", "asyncio")
here_durable = lanes("durable-thread", "durable-asyncio")


@pytest.fixture
def lane(make_lane: Callable[..., Lane]) -> Lane:
    """An executor."""
    return make_lane()


def hold_one(lane: Lane, gate: threading.Event) -> WorkItem[Any]:
    """An item that is running, until the gate opens or its token fires."""
    started = lane.event()
    item = lane.holding(gate, started.set).enqueue()
    assert started.wait(BOUND)
    assert item.status is Status.RUNNING
    return item


# Runs.


def test_runs(lane: Lane) -> None:
    """An item runs with its arguments, and its handle has the function's return value."""
    item = lane.task(lambda a, *, b: (a, b)).enqueue(1, b=[2])
    assert item.result(BOUND) == (1, [2])
    assert item.status is Status.SUCCEEDED
    assert item.attempt == 1
    assert item.enqueued_at <= item.started_at <= item.finished_at  # type: ignore[operator]


@here
def test_runs_elsewhere(lane: Lane) -> None:
    """An item runs on a daemon thread of our own, which has a name; under gevent, on another greenlet."""
    thread = lane.task(threading.current_thread).enqueue().result(BOUND)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert native.is_patched() or thread.name.startswith(f"background-{lane.kind}")


def test_runs_each_once(lane: Lane) -> None:
    """Items from several threads at once all run, each once."""
    ran: list[tuple[int, int]] = lane.list()
    task = lane.task(lambda *pair: ran.append(pair))
    barrier = threading.Barrier(4)

    def enqueue(thread: int) -> None:
        barrier.wait(BOUND)
        for number in range(100):
            task.enqueue(thread, number)

    threads = [threading.Thread(target=enqueue, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert lane.background.wait_idle(BOUND)
    assert sorted(ran) == [(thread, number) for thread in range(4) for number in range(100)]
    assert lane.background.stats().succeeded == 400


def test_runs_in_order(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """One at a time, items run in the order in which they were enqueued."""
    lane = make_lane(capacity=1)
    ran: list[int] = lane.list()
    hold_one(lane, gate)
    task = lane.task(ran.append)
    for number in range(50):
        task.enqueue(number)
    gate.set()
    assert lane.background.wait_idle(BOUND)
    assert ran == list(range(50))


def test_current_item(lane: Lane) -> None:
    """In a run ``current_item`` stands for the item, which is running, and can report."""

    def work() -> Any:
        current_item.report_progress(1, 2, "half")
        return current_item.id, current_item.status, current_item.attempt

    item = lane.task(work).enqueue()
    assert item.result(BOUND) == (item.id, Status.RUNNING, 1)
    assert item.progress == (1, 2, "half")


@here
def test_current_item_is_the_item(lane: Lane) -> None:
    """current_item is the very item that enqueue returned."""
    item = lane.task(lambda: [current_item._get_current_object()]).enqueue()  # type: ignore[attr-defined]
    assert item.result(BOUND) == [item]


@here
def test_item_enqueues_another(lane: Lane) -> None:
    """An item can enqueue another one of its own kind."""
    inner = lane.task(lambda: 42)
    (item,) = lane.task(lambda: [inner.enqueue()]).enqueue().result(BOUND)
    assert item.result(BOUND) == 42


# Failures.


def test_failure(lane: Lane, caplog: pytest.LogCaptureFixture) -> None:
    """An item that raises has failed: its handle raises that, and it is logged once, with item and task."""

    def work(number: int) -> None:
        raise KeyError("lost")

    item = lane.task(work).enqueue(7)
    assert item.wait(BOUND)
    with pytest.raises(KeyError, match="lost") as caught:
        item.result(0)
    assert item.status is Status.FAILED
    assert item.exception() is caught.value
    assert f"in work item {item.id} (shop.work)" in caught.value.__notes__
    (record,) = [record for record in records(caplog) if record.levelno >= logging.INFO]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"Item {item.id} (shop.work) failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is caught.value
    assert "in work" in caplog.text


class Worst(BaseException):
    """An error that no ``except Exception`` catches."""


@pytest.mark.parametrize(
    "error",
    [SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit, asyncio.CancelledError, StopIteration, Worst],
)
def test_worst_failure(
    make_lane: Callable[..., Lane], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of any kind ends its item alone: the executor runs the next ones, on the same thread."""
    lane = make_lane(capacity=1)

    def work(fails: bool) -> int:
        if fails:
            raise error("worst")
        return threading.get_native_id()

    task = lane.task(work)
    before = task.enqueue(False).result(BOUND)
    items = [task.enqueue(True) for _ in range(3)]
    assert task.enqueue(False).result(BOUND) == before
    assert lane.background.wait_idle(BOUND)
    # A coroutine's StopIteration is made a RuntimeError by Python.
    raised = RuntimeError if (error, lane.kind) == (StopIteration, "asyncio") else error
    for item in items:
        assert item.status is Status.FAILED
        assert type(item.exception(0)) is raised
    assert len(lines(caplog, logging.ERROR)) == 3


# Capacity.


def test_capacity(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """As many items run at once as the capacity says, and never more."""
    lane = make_lane(capacity=3)
    started = lane.list()
    task = lane.holding(gate, partial(started.append, 1))
    items = [task.enqueue() for _ in range(10)]
    until(lambda: len(started) >= 3)
    time.sleep(0.05)
    assert len(started) == 3
    stats = lane.background.stats()
    # What a process has no use for yet waits in the journal, for any process; these are counted in none.
    assert (stats.queued, stats.running) == (0 if lane.durable else 7, 3)
    assert [item.status for item in items] == [Status.RUNNING] * 3 + [Status.QUEUED] * 7
    gate.set()
    assert lane.background.wait_idle(BOUND)
    assert lane.background.stats().succeeded == 10


def test_capacity_is_freed(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """Failing and cancelled items make room for the next ones as well."""
    lane = make_lane(capacity=1)
    for _ in range(3):
        running = hold_one(lane, gate)
        queued = lane.task(lambda: None).enqueue()
        assert queued.cancel()
        assert running.cancel()
        assert running.wait(BOUND)
        assert isinstance(lane.task(lambda: 1 / 0).enqueue().exception(BOUND), ZeroDivisionError)
    assert lane.task(lambda: 42).enqueue().result(BOUND) == 42


@in_memory
def test_queue_full(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """An item is refused while MAX_QUEUED items wait; there is room again when one of them has started."""
    lane = make_lane(capacity=2, BACKGROUND_MAX_QUEUED=3)
    holding = lane.holding(gate, lambda: None)
    items = [holding.enqueue() for _ in range(5)]
    with pytest.raises(QueueFull, match=r"^shop\.hold was not enqueued: 3 items wait.*BACKGROUND_MAX_QUEUED"):
        holding.enqueue()
    assert items[-1].cancel()
    items[-1] = holding.enqueue()
    with pytest.raises(QueueFull):
        holding.enqueue()
    gate.set()
    assert lane.background.wait_idle(BOUND)
    assert lane.background.stats()[2:] == (5, 0, 1, 0)


@durable
def test_queue_is_never_full_of_durable(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """Durable items wait on disk, however many; they all run."""
    lane = make_lane(capacity=2, BACKGROUND_MAX_QUEUED=3)
    holding = lane.holding(gate, lambda: None)
    items = [holding.enqueue() for _ in range(20)]
    gate.set()
    for item in items:
        assert item.wait(BOUND)
    assert lane.background.stats().succeeded == 20


@here_durable
def test_new_durable_ones_do_not_overtake(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """Items that wait in the journal start before any number of items that are enqueued later."""
    lane = make_lane(capacity=1)
    ran: list[int] = lane.list()

    def work(number: int) -> None:
        ran.append(number)
        if len(ran) < 100:
            task.enqueue(1_000 + len(ran))

    task = lane.task(work)
    hold_one(lane, gate)
    items = [task.enqueue(number) for number in range(5)]
    gate.set()
    for item in items:
        assert item.wait(BOUND)
    assert lane.background.wait_idle(BOUND)
    assert ran[:5] == list(range(5))


# Cancelling.


def test_cancel_queued(
    make_lane: Callable[..., Lane], gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A queued item that is cancelled never runs, and has ended at once."""
    caplog.set_level(logging.INFO)
    lane = make_lane(capacity=1)
    blocker = hold_one(lane, gate)
    ran: list[int] = lane.list()
    item = lane.task(ran.append).enqueue(1)
    assert item.cancel()
    assert item.status is Status.CANCELLED
    assert item.wait(0)
    with pytest.raises(ItemCancelledError, match=item.id):
        item.result(0)
    assert not item.cancel()
    assert item.started_at is None
    assert item.finished_at is not None
    assert lines(caplog) == [f"Item {item.id} (shop.work) cancelled"]
    gate.set()
    assert blocker.result(BOUND) is None
    assert lane.background.wait_idle(BOUND)
    assert ran == []


def test_cancel_running(lane: Lane, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """A running item that is cancelled, and ends because of that, is cancelled: quietly."""
    item = hold_one(lane, gate)
    assert item.cancel()
    assert item.wait(BOUND)
    with pytest.raises(ItemCancelledError, match=item.id):
        item.result(0)
    assert item.status is Status.CANCELLED
    assert item.token.reason is CancelReason.REQUESTED
    assert lines(caplog, logging.WARNING) == []
    assert not item.cancel()


def test_cancel_ignored(lane: Lane, gate: threading.Event) -> None:
    """An item that ignores its token has succeeded when it returns."""
    item = lane.stubborn(gate, lambda: current_item.token.reason).enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert item.cancel()
    assert item.cancel()
    assert not item.wait(0.02)
    gate.set()
    assert item.result(BOUND) is CancelReason.REQUESTED
    assert item.status is Status.SUCCEEDED


def test_cancel_and_another_failure(lane: Lane, gate: threading.Event) -> None:
    """An item that fails for another reason after it was asked to end has failed."""
    item = lane.stubborn(gate, lambda: 1 // 0).enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert item.cancel()
    gate.set()
    assert isinstance(item.exception(BOUND), ZeroDivisionError)
    assert item.status is Status.FAILED


def test_cancel_by_itself(lane: Lane) -> None:
    """An item may cancel itself."""

    def work() -> None:
        assert current_item.cancel()
        current_item.token.raise_if_cancelled()

    item = lane.task(work).enqueue()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert item.status is Status.CANCELLED


@pytest.mark.parametrize(
    "foreign",
    [
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        TimeoutError,
        lambda: ItemCancelledError("another item was cancelled"),
        lambda: ItemInterruptedError("another item was interrupted"),
        lambda: ItemTimeoutError("another item's time was up"),
    ],
)
def test_foreign_cancellation(
    lane: Lane, foreign: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A cancellation or timeout that is not the item's own is a failure, and is logged."""

    def work() -> None:
        raise foreign()

    item = lane.task(work).enqueue()
    assert item.wait(BOUND)
    assert item.exception(0) is not None
    assert item.status is Status.FAILED
    (record,) = records(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def test_foreign_cancellation_while_asked_to_end(lane: Lane, gate: threading.Event) -> None:
    """Another item's cancellation stays a failure, even if this item was asked to end as well."""

    def work() -> None:
        raise ItemCancelledError("another item was cancelled")

    item = lane.stubborn(gate, work).enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert item.cancel()
    gate.set()
    item.wait(BOUND)
    assert item.status is Status.FAILED


# Time limits.


def test_timeout(lane: Lane, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    """An item whose time is up is asked to end, and has failed with a typed error."""
    item = lane.holding(gate, lambda: None, timeout=0.05).enqueue()
    assert item.wait(BOUND)
    error = item.exception(0)
    assert isinstance(error, ItemTimeoutError)
    assert isinstance(error, TimeoutError)
    assert "0.05 s" in str(error)
    assert item.id in str(error)
    assert item.status is Status.FAILED
    assert item.token.reason is CancelReason.TIMEOUT
    assert lines(caplog, logging.WARNING) == [f"Item {item.id} (shop.hold) failed"]


def test_timeout_not_reached(lane: Lane) -> None:
    """An item that ends in time sees its remaining time, and is not asked to end."""

    def work() -> Any:
        return current_item.token.remaining, current_item.token.cancelled

    remaining, cancelled = lane.task(work, timeout=60).enqueue().result(BOUND)
    assert 50 < remaining <= 60
    assert not cancelled
    assert lane.task(lambda: current_item.token.remaining).enqueue().result(BOUND) is None


def test_timeout_ignored(lane: Lane, gate: threading.Event) -> None:
    """An item that returns in spite of its timeout has succeeded."""
    item = lane.stubborn(gate, lambda: 42, timeout=0.02).enqueue()
    until(lambda: item.token.cancelled)
    gate.set()
    assert item.result(BOUND) == 42
    assert item.status is Status.SUCCEEDED


def test_timeout_starts_with_the_run(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """The time in the queue does not count."""
    lane = make_lane(capacity=1)
    hold_one(lane, gate)
    item = lane.task(lambda: current_item.token.remaining, timeout=60).enqueue()
    assert item.token.remaining is None
    gate.set()
    assert item.result(BOUND) > 50


# Contexts.

variable: ContextVar[str] = ContextVar("variable", default="unset")


def test_fresh_context(lane: Lane) -> None:
    """No context variable flows from the view to the item, or from one item to the next."""

    def work() -> str:
        seen = variable.get()
        variable.set("by an item")
        return seen

    task = lane.task(work)
    token = variable.set("by the view")
    try:
        assert [task.enqueue().result(BOUND) for _ in range(3)] == ["unset"] * 3
        assert variable.get() == "by the view"
    finally:
        variable.reset(token)


@here
def test_app_context(lane: Lane) -> None:
    """An item has an app context of its own, and no request."""

    def work() -> Any:
        seen = g.get("by", "nobody")
        g.by = "an item"
        return current_app._get_current_object(), seen, has_request_context()  # type: ignore[attr-defined]

    task = lane.task(work)
    with lane.site.app.test_request_context():
        g.by = "the view"
        items = [task.enqueue() for _ in range(3)]
        for item in items:
            assert item.result(BOUND) == (lane.site.app, "nobody", False)
        assert g.by == "the view"


@here
def test_teardown(lane: Lane) -> None:
    """The app context is torn down, with the item's error, before the handle shows the end."""
    seen: list[Any] = []

    @lane.site.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        seen.append((g.number, current_item.id, error))

    def work(number: int) -> float:
        g.number = number
        return 1 / number

    task = lane.task(work)
    good = task.enqueue(1)
    assert good.wait(BOUND)
    assert seen == [(1, good.id, None)]
    bad = task.enqueue(0)
    assert bad.wait(BOUND)
    assert seen[1:] == [(0, bad.id, bad.exception(0))]


@here
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_teardown_fails(lane: Lane, error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """An error of the teardown fails the item, and hurts nothing else."""
    broken = [True]

    @lane.site.app.teardown_appcontext
    def teardown(_: BaseException | None) -> None:
        if broken:
            raise error("teardown")

    item = lane.task(lambda: 42).enqueue()
    assert item.wait(BOUND)
    assert type(item.exception(0)) is error
    assert item.status is Status.FAILED
    assert lines(caplog) == [f"Item {item.id} (shop.work) failed"]
    broken.clear()
    assert lane.task(lambda: 42).enqueue().result(BOUND) == 42


@here
def test_teardown_fails_too(lane: Lane, caplog: pytest.LogCaptureFixture) -> None:
    """The own error of an item that had failed stays, and both errors are logged."""

    @lane.site.app.teardown_appcontext
    def teardown(_: BaseException | None) -> None:
        raise ValueError("teardown")

    item = lane.task(lambda: 1 / 0).enqueue()
    assert item.wait(BOUND)
    assert isinstance(item.exception(0), ZeroDivisionError)
    logged = {type(record.exc_info[1]) for record in records(caplog) if record.exc_info}
    assert logged == {ValueError, ZeroDivisionError}


# Stopping.


@in_memory
def test_stop(lane: Lane, gate: threading.Event) -> None:
    """A stop asks running items to end, waits for them, and refuses what comes later."""
    item = hold_one(lane, gate)
    assert lane.background.stop(BOUND) == []
    assert item.status is Status.INTERRUPTED
    assert item.token.reason is CancelReason.SHUTDOWN
    with pytest.raises(ItemInterruptedError):
        item.result(0)
    with pytest.raises(Stopping, match=r"^shop\.work was not enqueued"):
        lane.task(lambda: None).enqueue()


@in_memory
def test_stop_drains_the_queue(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """Items that wait when the stop begins still run, as long as there is time."""
    lane = make_lane(capacity=1)
    running = lane.stubborn(gate, lambda: 1).enqueue()
    queued = [lane.task(lambda: current_item.token.reason).enqueue() for _ in range(5)]
    stopper = threading.Thread(target=lane.background.stop, args=(BOUND,))
    stopper.start()
    until(lambda: running.token.cancelled)
    gate.set()
    stopper.join(BOUND)
    assert not stopper.is_alive()
    assert running.result(0) == 1
    assert [item.result(0) for item in queued] == [CancelReason.SHUTDOWN] * 5


@here_in_memory
def test_stop_without_grace(
    make_lane: Callable[..., Lane], gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """An item that has not ended in time is returned, named in the log, and on record as interrupted."""
    lane = make_lane(capacity=1)
    running = lane.stubborn(gate, lambda: 42).enqueue()
    until(lambda: running.status is Status.RUNNING)
    ran: list[int] = lane.list()
    queued = lane.task(ran.append).enqueue(1)
    assert lane.background.stop(0) == [running, queued]
    for item in (running, queued):
        assert item.status is Status.INTERRUPTED
        assert item.wait(0)
        assert isinstance(item.exception(0), ItemInterruptedError)
        (line,) = [line for line in lines(caplog, logging.ERROR) if item.id in line]
        assert line.startswith(f"Item {item.id} ({item.task_name}) interrupted, 0.")
        assert "s old" in line
    gate.set()
    assert lane.background.wait_idle(BOUND)
    assert ran == []
    # The record is corrected.
    assert running.status is Status.SUCCEEDED
    assert running.result(0) == 42
    assert queued.status is Status.INTERRUPTED
    assert f"Item {running.id} (shop.stubborn) succeeded after all; it was reported as interrupted" in lines(
        caplog, logging.WARNING
    )


# Stopping with durable items: what has not ended is left to other processes, and to those that come.


@durable
def test_stop_of_durable(lane: Lane, gate: threading.Event) -> None:
    """A stop asks running items to end, waits for them, and leaves those that gave up to the next process."""
    item = hold_one(lane, gate)
    until(lambda: lane.entry(item).status is Status.RUNNING)
    assert lane.background.stop(BOUND) == []
    assert item.token.reason is CancelReason.SHUTDOWN
    assert not item.wait(0)
    assert item.status is Status.QUEUED
    assert item.attempt == 0
    assert (lane.entry(item).owner, lane.entry(item).crashes) == (None, 0)
    with pytest.raises(NotFinishedError):
        item.result(0)


@durable
def test_enqueue_after_the_stop_of_durable(lane: Lane) -> None:
    """A process that has stopped still enters items, which others run."""
    task = lane.task(lambda: 42)
    assert task.enqueue().result(BOUND) == 42
    assert lane.background.stop(BOUND) == []
    item = task.enqueue()
    assert not item.wait(0.05)
    assert item.status is Status.QUEUED
    assert lane.entry(item).owner is None


@durable
def test_stop_leaves_the_queue_of_durable(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """Items that wait when the stop begins do not run here any more; what runs has its time."""
    lane = make_lane(capacity=1)
    running = lane.stubborn(gate, lambda: 1).enqueue()
    until(lambda: running.status is Status.RUNNING)
    ran: list[int] = lane.list()
    task = lane.task(ran.append)
    queued = [task.enqueue(number) for number in range(5)]
    stopper = threading.Thread(target=lane.background.stop, args=(BOUND,))
    stopper.start()
    until(lambda: running.token.cancelled)
    gate.set()
    stopper.join(BOUND)
    assert not stopper.is_alive()
    assert running.result(0) == 1
    assert ran == []
    for item in queued:
        entry = lane.entry(item)
        assert (entry.status, entry.owner, entry.attempt) == (Status.QUEUED, None, 0)
        assert item.status is Status.QUEUED


@here_durable
def test_stop_of_durable_without_grace(
    make_lane: Callable[..., Lane], gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """An item that runs on is returned and logged as interrupted; its own end then counts."""
    lane = make_lane(capacity=1)
    running = lane.stubborn(gate, lambda: 42).enqueue()
    until(lambda: running.status is Status.RUNNING)
    queued = lane.task(lambda: None).enqueue()
    assert lane.background.stop(0) == [running]
    assert running.status is Status.INTERRUPTED
    assert lines(caplog, logging.ERROR) == []  # the item is not lost
    assert [
        line
        for line in lines(caplog, logging.WARNING)
        if f"Item {running.id} (shop.stubborn) interrupted" in line
    ]
    assert lane.entry(running).owner is not None
    gate.set()
    assert lane.background.wait_idle(BOUND)
    assert running.status is Status.SUCCEEDED
    assert running.result(0) == 42
    assert lane.entry(running).status is Status.SUCCEEDED
    assert (queued.status, lane.entry(queued).owner) == (Status.QUEUED, None)
    assert f"Item {running.id} (shop.stubborn) succeeded after all; it was reported as interrupted" in lines(
        caplog, logging.WARNING
    )


# Letting go.


@dataclass(eq=False)
class Thing:
    """An object whose deletion can be noticed, and that child processes may return."""


def is_gone(reference: weakref.ref[Any]) -> bool:
    """Whether only the weak reference is left; cycles do not count."""
    gc.collect()
    return reference() is None


def fail_deep(thing: Thing) -> None:
    """Fail with a cause whose frames hold the argument."""

    def inner(thing: Thing) -> None:
        raise KeyError("inner")

    try:
        inner(thing)
    except KeyError as error:
        raise ValueError("outer") from error


def raise_deep(thing: Thing, error: Exception) -> Exception:
    """The error, with a frame that holds the argument."""
    try:
        raise error
    except Exception as raised:
        return raised


def fail_twice(thing: Thing) -> None:
    """Fail with a cause and, apart from that, a context."""
    try:
        raise raise_deep(thing, KeyError("context"))
    except KeyError:
        raise ValueError("outer") from raise_deep(thing, OSError("cause"))


def fail_in_a_group(thing: Thing) -> None:
    """Fail with several errors at once, as task groups do."""
    raise ExceptionGroup("all", [raise_deep(thing, KeyError("one")), raise_deep(thing, KeyError("two"))])


def fail_in_a_circle(thing: Thing) -> None:
    """Fail with an error that is its cause's own context."""
    first, second = raise_deep(thing, KeyError("first")), raise_deep(thing, KeyError("second"))
    second.__context__ = first
    raise first from second


@here_in_memory
@pytest.mark.parametrize(
    "func",
    [
        lambda thing: None,
        lambda thing: 1 / 0,
        fail_deep,
        fail_twice,
        fail_in_a_group,
        fail_in_a_circle,
        lambda thing: current_item.cancel() and current_item.token.raise_if_cancelled(),  # type: ignore[func-returns-value]
    ],
    ids=["succeeds", "fails", "deep", "twice", "group", "circle", "cancelled"],
)
def test_lets_arguments_go(lane: Lane, func: Callable[[Thing], Any]) -> None:
    """When an item has ended, its arguments are free, although its handle, result and error are kept."""
    thing = Thing()
    reference = weakref.ref(thing)
    item = lane.task(func).enqueue(thing)
    del thing
    assert item.wait(2.0)
    assert lane.background.wait_idle(2.0)
    until(lambda: is_gone(reference), 2.0)


@here_in_memory
def test_lets_arguments_of_a_timeout_go(lane: Lane, gate: threading.Event) -> None:
    """An item that its timeout ended holds no argument either, through the cause of its error."""
    make = lane.background.task(timeout=0.02)

    def wait(thing: Thing) -> None:
        current_item.token.wait(BOUND)
        current_item.token.raise_if_cancelled()

    async def wait_async(thing: Thing) -> None:
        await asyncio.sleep(BOUND)

    thing = Thing()
    reference = weakref.ref(thing)
    item = (make(wait) if lane.kind == "thread" else make(wait_async)).enqueue(thing)
    del thing
    assert isinstance(item.exception(BOUND), ItemTimeoutError)
    assert lane.background.wait_idle(BOUND)
    until(lambda: is_gone(reference), 2.0)


@here_in_memory
def test_lets_arguments_of_queued_go(make_lane: Callable[..., Lane], gate: threading.Event) -> None:
    """An item that is cancelled in the queue lets its arguments go at once."""
    lane = make_lane(capacity=1)
    hold_one(lane, gate)
    thing = Thing()
    reference = weakref.ref(thing)
    item = lane.task(lambda thing: None).enqueue(thing)
    del thing
    assert reference() is not None
    assert item.cancel()
    until(lambda: is_gone(reference), 2.0)


def test_lets_results_go(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item without a handle is forgotten, with its result, when others have ended after it."""
    monkeypatch.setattr(ledger, "KEPT", 2)
    task = lane.task(lambda: Thing())
    references = []
    for _ in range(6):
        thing = task.enqueue().result(BOUND)
        references.append(weakref.ref(thing))
        del thing
        assert lane.background.wait_idle(BOUND)
    until(lambda: all(is_gone(reference) for reference in references[:4]), 2.0)
    # The journal knows the others, without what is not data.
    assert len(lane.background.items()) == (6 if lane.durable else 2)


@here
def test_idle_executor_lets_its_last_item_go(
    lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor that has nothing to do does not hold the item that it ran last."""
    monkeypatch.setattr(ledger, "KEPT", 1)
    reference = weakref.ref(lane.task(lambda: Thing()).enqueue().result(BOUND))
    other_kind = "asyncio" if lane.kind == "thread" else "thread"
    other = Lane(other_kind, lane.site, tmp_path, lane.durable).task(lambda: None)
    for _ in range(4):
        assert other.enqueue().wait(BOUND)
        assert lane.background.wait_idle(BOUND)
    until(lambda: is_gone(reference), 2.0)


# Only the event loop can do this.


def test_thousand_coroutines(site: Site) -> None:
    """A thousand coroutines wait at once, on one thread."""
    barrier = asyncio.Barrier(1_000)

    @site.background.task
    async def meet() -> int:
        await barrier.wait()
        return threading.get_ident()

    items = [meet.enqueue() for _ in range(1_000)]
    assert len({item.result(BOUND) for item in items}) == 1


def test_coroutines_are_not_called_early(
    make_site: Callable[..., Site], tmp_path: Path, gate: threading.Event
) -> None:
    """A coroutine that is cancelled in the queue was never made, so nothing warns that it was not awaited."""
    lane = Lane("asyncio", make_site(**SETTINGS["asyncio"](1)), tmp_path)
    hold_one(lane, gate)
    item = lane.task(lambda: None).enqueue()
    assert item.cancel()
    gate.set()
    assert lane.background.wait_idle(BOUND)
    gc.collect()


def test_coroutine_is_cancelled_at_its_await(site: Site) -> None:
    """A cancelled coroutine sees asyncio's own CancelledError, and can clean up with awaits."""
    seen: list[str] = []
    started = threading.Event()

    @site.background.task
    async def work() -> None:
        try:
            started.set()
            await asyncio.sleep(BOUND)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    item = work.enqueue()
    assert started.wait(BOUND)
    assert item.cancel()
    assert item.wait(BOUND)
    assert isinstance(item.exception(0), ItemCancelledError)
    assert seen == ["cleaned up"]


def test_coroutine_is_cancelled_when_the_time_is_up(site: Site) -> None:
    """At the end of the grace period, not before, coroutines are cancelled so that they can clean up."""
    seen: list[Any] = []
    started = threading.Event()

    @site.background.task
    async def work() -> None:
        token = current_item.token
        started.set()
        assert await token.wait_async(BOUND)
        seen.append(token.reason)
        try:
            await asyncio.sleep(BOUND)
        finally:
            seen.append("cleaned up")

    item = work.enqueue()
    assert started.wait(BOUND)
    assert site.background.stop(0.1) == [item]
    assert site.background.wait_idle(BOUND)
    assert seen == [CancelReason.SHUTDOWN, "cleaned up"]
    assert item.status is Status.INTERRUPTED
    assert isinstance(item.exception(0), ItemInterruptedError)


def test_coroutine_awaits_items(site: Site) -> None:
    """Coroutines await other items, on threads and on the loop, and see their errors."""

    @site.background.task
    def double(number: int) -> int:
        return 2 * number

    @site.background.task
    async def fail() -> None:
        raise KeyError("lost")

    @site.background.task
    async def work() -> list[Any]:
        doubled = await asyncio.gather(*(double.enqueue(number) for number in range(3)))
        with pytest.raises(KeyError):
            await fail.enqueue()
        return doubled

    assert work.enqueue().result(BOUND) == [0, 2, 4]


def test_cancelled_child_task_is_a_failure(site: Site) -> None:
    """A coroutine that ends with the cancellation of something that it awaited has failed."""

    @site.background.task
    async def work() -> None:
        child = asyncio.create_task(asyncio.sleep(BOUND))
        await asyncio.sleep(0)
        child.cancel()
        await child

    item = work.enqueue()
    assert isinstance(item.exception(BOUND), asyncio.CancelledError)
    assert item.status is Status.FAILED


def test_loop_survives_what_items_leave(site: Site) -> None:
    """A SystemExit in a callback or task that a coroutine left on the loop does not end the loop."""

    left = []

    @site.background.task
    async def leave(error: type[BaseException]) -> None:
        def fail() -> None:
            raise error

        async def fail_async() -> None:
            raise error

        asyncio.get_running_loop().call_soon(fail)
        left.append(asyncio.create_task(fail_async()))

    for error in (SystemExit, KeyboardInterrupt, ValueError):
        assert leave.enqueue(error).result(BOUND) is None
    until(lambda: all(task.done() for task in left))
    assert [type(task.exception()) for task in left] == [SystemExit, KeyboardInterrupt, ValueError]
    assert site.background.task(asyncio.sleep).enqueue(0, 42).result(BOUND) == 42


# Functions whose work goes on when they have returned.


class Custom:
    """An awaitable that is neither a coroutine nor a future."""

    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0.001).__await__()
        return threading.get_ident()


async def identify() -> int:
    """The thread on which this object is awaited."""
    await asyncio.sleep(0.001)
    return threading.get_ident()


@pytest.mark.parametrize("func", [identify, Custom], ids=["coroutine", "awaitable"])
def test_function_returns_an_awaitable(site: Site, func: Callable[[], Any]) -> None:
    """An awaitable that a function returns is awaited on the event loop; the item ends with it."""
    started_on = []

    @site.background.task
    def work() -> Any:
        started_on.append(threading.get_ident())
        return func()

    item = work.enqueue()
    assert item.result(BOUND) not in started_on
    assert item.status is Status.SUCCEEDED


def test_function_returns_an_item(site: Site, gate: threading.Event) -> None:
    """A function that returns an item ends when that item ends, with its result."""
    inner = site.background.task(lambda: gate.wait(BOUND) and 42)
    item = site.background.task(lambda: inner.enqueue()).enqueue()
    assert not item.wait(0.05)
    gate.set()
    assert item.result(BOUND) == 42


@pytest.mark.parametrize("proxy", [current_app, current_item], ids=["current_app", "current_item"])
def test_function_returns_a_proxy(site: Site, proxy: Any) -> None:
    """A proxy that a function returns is not awaited, even if its object is awaitable."""
    item = site.background.task(lambda: proxy).enqueue()
    assert item.wait(2.0)
    assert item.status is Status.SUCCEEDED


def test_function_returns_a_future(site: Site, gate: threading.Event) -> None:
    """A function that returns a Future ends when the Future ends, with its outcome."""
    with concurrent.futures.ThreadPoolExecutor() as pool:

        @site.background.task
        def work(func: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
            return pool.submit(func, *args)

        item = work.enqueue(gate.wait, BOUND)
        failing = work.enqueue(divmod, 1, 0)
        exiting = work.enqueue(lambda: (_ for _ in ()).throw(SystemExit))
        assert isinstance(failing.exception(BOUND), ZeroDivisionError)
        assert f"in work item {failing.id}" in failing.exception(0).__notes__[0]  # type: ignore[union-attr]
        assert isinstance(exiting.exception(BOUND), SystemExit)
        assert not item.wait(0.02)
        assert item.status is Status.RUNNING
        gate.set()
        assert item.result(BOUND) is True


def test_function_returns_a_future_that_is_done(site: Site) -> None:
    """A Future that has ended before it is returned is fine."""

    @site.background.task
    def work() -> concurrent.futures.Future[int]:
        future: concurrent.futures.Future[int] = concurrent.futures.Future()
        future.set_result(42)
        return future

    assert work.enqueue().result(BOUND) == 42


def test_function_returns_a_future_of_another_loop(site: Site, gate: threading.Event) -> None:
    """A future of an event loop that runs elsewhere can be returned too: the item ends when it does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def wait() -> int:
        while not gate.is_set():
            await asyncio.sleep(0.002)
        return 42

    async def begin() -> asyncio.Task[int]:
        return asyncio.create_task(wait())

    @site.background.task
    def work() -> Any:
        return asyncio.run_coroutine_threadsafe(begin(), loop).result(BOUND)

    try:
        item = work.enqueue()
        assert not item.wait(0.05)
        gate.set()
        assert item.result(BOUND) == 42
    finally:
        gate.set()
        until(lambda: not asyncio.all_tasks(loop))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BOUND)
        loop.close()


def test_returned_future_is_cancelled(site: Site) -> None:
    """Cancelling an item cancels the Future that it waits for; that is the item's own cancellation."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    item = site.background.task(lambda: future).enqueue()
    until(lambda: future._done_callbacks)  # type: ignore[attr-defined]
    assert item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert item.status is Status.CANCELLED
    assert future.cancelled()


def test_returned_future_is_cancelled_by_another(site: Site) -> None:
    """A Future that other code cancels fails the item."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    item = site.background.task(lambda: future).enqueue()
    until(lambda: future._done_callbacks)  # type: ignore[attr-defined]
    future.cancel()
    assert isinstance(item.exception(BOUND), concurrent.futures.CancelledError)
    assert item.status is Status.FAILED


def test_returned_awaitable_is_cancelled(site: Site) -> None:
    """Cancelling reaches what a function has returned to be awaited; so does a timeout."""
    awaited = threading.Event()

    async def sleep() -> None:
        awaited.set()
        await asyncio.sleep(BOUND)

    @site.background.task
    def work() -> Any:
        return sleep()

    item = work.enqueue()
    assert awaited.wait(BOUND)
    assert item.cancel()
    assert isinstance(item.exception(BOUND), ItemCancelledError)
    assert isinstance(work.using(timeout=0.02).enqueue().exception(BOUND), ItemTimeoutError)


def test_cancelled_before_it_returns_an_awaitable(site: Site, gate: threading.Event) -> None:
    """A cancellation that came while the function still ran reaches what it then returns."""

    @site.background.task
    def work() -> Any:
        assert gate.wait(BOUND)
        return asyncio.sleep(BOUND)

    item = work.enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert item.cancel()
    gate.set()
    assert isinstance(item.exception(BOUND), ItemCancelledError)


@pytest.mark.parametrize("how", ["coroutine", "future"])
def test_context_lives_until_the_end(site: Site, how: str, gate: threading.Event) -> None:
    """The app context and current_item last until a returned awaitable has ended."""
    torn_down = []

    @site.app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        torn_down.append((g.name, current_item.id))

    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    async def go_on() -> Any:
        g.name += " in the coroutine"
        return current_item.id

    @site.background.task
    def work() -> Any:
        g.name = "in the function"
        return go_on() if how == "coroutine" else future

    item = work.enqueue()
    if how == "future":
        until(lambda: future._done_callbacks)  # type: ignore[attr-defined]
        assert torn_down == []
        future.set_result(item.id)
    assert item.wait(BOUND)
    assert item.result(0) == item.id
    name = "in the function in the coroutine" if how == "coroutine" else "in the function"
    assert torn_down == [(name, item.id)]


def test_awaitable_after_the_stop(site: Site, gate: threading.Event) -> None:
    """A function that outlives the stop and then returns an awaitable leaves no thread behind."""

    @site.background.task
    def work() -> Any:
        assert gate.wait(BOUND)
        return asyncio.sleep(0, 42)

    item = work.enqueue()
    until(lambda: item.status is Status.RUNNING)
    assert site.background.stop(0) == [item]
    gate.set()
    assert site.background.wait_idle(BOUND)
    assert item.result(0) == 42
