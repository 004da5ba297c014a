"""Items that a test runs, and the time that a test moves."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context, request, url_for
from werkzeug.datastructures import FileStorage

from flask_background import Background, CancelReason, Status, current_item, signals
from flask_background.errors import (
    BackgroundError,
    ItemCancelledError,
    ItemInterruptedError,
    ItemTimeoutError,
    NotFinishedError,
    ResultLostError,
    SerializationError,
    WaitError,
)
from flask_background.testing import (
    RecordedItems,
    assert_enqueued,
    expect_failures,
    fire_token,
    move_time,
    perform,
    record_items,
    run_due,
    run_items,
)

from ..helpers import Site, receiving

pytestmark = pytest.mark.usefixtures("items")


def test_items_wait(app: Flask, background: Background) -> None:
    """An item is queued until the test runs it, in a context of its own."""
    seen: list[Any] = []

    @background.task
    def work(value: int) -> int:
        seen.append((current_app.name, has_request_context(), g.get("user"), current_item.state.method))
        return value * 2

    with app.test_request_context("/orders", method="POST"):
        g.user = "visitor"
        item = work.enqueue(21)
    assert (item.status, item.started_at, seen) == (Status.QUEUED, None, [])
    assert background.stats().queued == 1
    assert run_items() == [item]
    assert (item.status, item.result(0), seen) == (Status.SUCCEEDED, 42, [("shop", False, None, "POST")])
    assert background.get(item.id) is item
    assert run_items() == []


def test_signals(app: Flask, background: Background) -> None:
    """The signals are those of every backend."""
    task = background.task(lambda: None)
    with receiving(signals.item_enqueued, app) as enqueued, receiving(signals.item_finished, app) as finished:
        item = task.enqueue()
        assert ([each["item"] for each in enqueued], finished) == ([item], [])
        run_items()
    assert [each["item"] for each in finished] == [item]


def test_run_items_waits_for_nothing(background: Background) -> None:
    """Delays and retries are run at once, and what items enqueue is run after them."""
    runs: list[str] = []

    @background.task(max_attempts=3, backoff=600)
    def fails() -> None:
        runs.append(f"fails {current_item.attempt}")
        if current_item.attempt < 3:
            raise OSError("no")
        last.enqueue()

    @background.task
    def last() -> None:
        runs.append("last")

    first, second = fails.using(delay=3600).enqueue(), last.enqueue()
    assert [item.id for item in run_items()][:2] == [first.id, second.id]
    assert runs == ["fails 1", "last", "fails 2", "fails 3", "last"]
    assert first.attempt == 3


def test_run_due_keeps_time(background: Background) -> None:
    """Each item runs at its time, in order; the item's times tell so."""
    runs: list[str] = []
    task = background.task(lambda name: runs.append(name))
    late = task.using(delay=timedelta(hours=2)).enqueue("late")
    soon = task.using(delay=60).enqueue("soon")
    absolute = task.using(run_at=datetime.now(UTC) + timedelta(hours=1)).enqueue("absolute")
    now = task.enqueue("now")
    assert run_due() == [now]
    assert run_due(59) == []
    assert run_due(2) == [soon]
    assert run_due(timedelta(days=1)) == [absolute, late]
    assert runs == ["now", "soon", "absolute", "late"]
    assert late.started_at is not None
    assert timedelta(hours=2) <= late.started_at - late.enqueued_at < timedelta(hours=2, minutes=1)
    assert task.enqueue("later").enqueued_at > late.enqueued_at + timedelta(hours=20)


def test_retries_keep_time(background: Background) -> None:
    """A retry follows when its back-off has passed, and what it enqueues then counts from there."""

    @background.task(max_attempts=3, backoff=60)
    def work() -> int:
        if current_item.attempt < 3:
            raise OSError("no")
        return current_item.attempt

    item = work.enqueue()
    assert run_due() == [item]
    assert (item.status, item.attempt) == (Status.QUEUED, 1)
    assert run_due(50) == []
    assert run_due(20) == [item]
    assert (item.status, item.attempt) == (Status.QUEUED, 2)
    assert run_due(120) == [item]
    assert item.result(0) == 3


def test_schedules(background: Background) -> None:
    """Periodic tasks are enqueued at each of their times; a schedule that is added later counts from then."""
    times: list[datetime] = []

    @background.periodic("0 3 * * *")
    def nightly() -> None:
        assert current_item.started_at is not None
        times.append(current_item.started_at)

    run_due(timedelta(days=3))
    assert len(times) == 3
    assert {(time.hour, time.minute) for time in times} == {(3, 0)}
    assert_enqueued(nightly, count=3)

    @background.periodic(seconds=30)
    def often() -> None:
        """Do nothing."""

    run_due(timedelta(minutes=2))
    assert_enqueued(often, count=4)
    run_items()
    assert_enqueued(often, count=4)


def test_schedule_does_not_overlap(background: Background) -> None:
    """While an item of a periodic task waits for its next attempt, no other is enqueued."""

    @background.periodic(seconds=60, max_attempts=2, backoff=150)
    def often() -> None:
        if current_item.attempt == 1:
            raise OSError("no")

    run_due(205)
    assert_enqueued(often, count=1)
    run_due(60)
    assert_enqueued(often, count=2)


def test_timeouts(background: Background) -> None:
    """A token fires when the time that a running item took is moved past its timeout."""
    seen: list[Any] = []

    @background.task(timeout=30)
    def work() -> None:
        move_time(timedelta(seconds=25))
        seen.append((current_item.token.cancelled, round(current_item.token.remaining or 0)))
        move_time(10)
        current_item.token.raise_if_cancelled()

    @background.task(timeout=30)
    async def forever() -> None:
        move_time(31)
        await asyncio.sleep(3600)

    items = [work.enqueue(), forever.enqueue()]
    with expect_failures(ItemTimeoutError, count=2) as failed:
        run_items()
    assert failed == items
    assert seen == [(False, 5)]


def test_timeouts_pass_by_themselves(background: Background) -> None:
    """Time passes for items that wait in earnest, too."""
    task = background.task(timeout=0.05)(lambda: current_item.token.wait(20))
    assert perform(task) is True


def test_endless(background: Background) -> None:
    """An item that enqueues itself for ever does not keep the test for ever."""

    @background.task
    def again() -> None:
        again.enqueue()

    again.enqueue()
    with pytest.raises(BackgroundError, match=r"enqueues itself.*run_due"):
        run_items()
    with pytest.raises(BackgroundError, match="enqueues itself"):
        run_due()


def test_endless_with_a_delay(background: Background) -> None:
    """An item that enqueues itself with a delay runs as often as time passes."""

    @background.task
    def again() -> None:
        again.using(delay=60).enqueue()

    again.enqueue()
    run_due(timedelta(minutes=10, seconds=1))
    assert_enqueued(again, count=12)


def test_waits(app: Flask, background: Background) -> None:
    """Nobody waits for an item that nothing will run: the wait says what to do."""
    item = background.task(lambda: 42).enqueue()
    assert item.wait(3600) is False
    for wait in (item.result, item.exception):
        with pytest.raises(NotFinishedError, match=r"waits until the test runs it: call .*run_items\(\)"):
            wait(3600)
    with pytest.raises(WaitError, match="run_items"):
        item.wait()
    assert background.wait_idle(3600) is False
    with pytest.raises(WaitError, match="run_items"):
        background.wait_idle()

    async def view() -> None:
        await item

    with pytest.raises(WaitError, match="run_items"):
        asyncio.run(view())
    run_items()
    assert item.result() == 42
    assert background.wait_idle()


def test_waits_in_items(background: Background) -> None:
    """An item that waits for another one gets it, as its executor would have run it."""
    inner = background.task(name="inner")(lambda value: value + 1)

    @background.task
    def outer() -> int:
        return inner.enqueue(1).result() + inner.enqueue(2).result(1)

    @background.task
    async def coroutine() -> int:
        return await inner.enqueue(3)

    @background.task
    def delayed() -> bool:
        return inner.using(delay=60).enqueue(1).wait(5)

    items = [outer.enqueue(), coroutine.enqueue(), delayed.enqueue()]
    run_items()
    assert [item.result(0) for item in items] == [5, 4, False]


def test_cancel(background: Background) -> None:
    """A cancelled item does not run."""
    item = background.task(lambda: 1 / 0).enqueue()
    assert item.cancel()
    assert run_items() == []
    assert item.status is Status.CANCELLED
    assert not item.cancel()


def test_coroutines_and_futures(background: Background) -> None:
    """Coroutines run on a loop of their own, and Futures are waited for."""

    @background.task
    async def work() -> int:
        await asyncio.sleep(0)
        return 42

    with ThreadPoolExecutor(1) as pool:
        items = [work.enqueue(), background.enqueue(lambda: pool.submit(lambda: 42))]
        run_items()
    assert [item.result(0) for item in items] == [42, 42]


def test_data(background: Background) -> None:
    """A durable task's arguments and result become data, as in the journal, or are refused."""
    seen: list[Any] = []

    @background.task(durable=True, max_attempts=2)
    def work(values: list[Any]) -> Any:
        seen.append(values)
        values.append(3)
        if current_item.attempt == 1:
            raise OSError("no")
        return {"values": values, "odd": object} if len(seen) > 2 else values

    given = [1, 2]
    item = work.enqueue(given)
    given.append("too late")
    run_items()
    assert (item.result(0), seen) == ([1, 2, 3], [[1, 2, 3], [1, 2, 3]])
    lost = work.enqueue(given)
    run_items()
    with pytest.raises(ResultLostError):
        lost.result(0)
    with pytest.raises(SerializationError, match="values"):
        work.enqueue({1})


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("size", [3, 600_000])
def test_uploads(site: Site, durable: bool, size: int) -> None:
    """An upload waits with its item, beyond the request, for each attempt anew."""

    @site.background.task(durable=durable, max_attempts=2)
    def count(file: FileStorage) -> int:
        read = len(file.read())
        if current_item.attempt == 1:
            raise OSError("no")
        return read

    @site.app.post("/")
    def upload() -> str:
        return count.enqueue(request.files["file"]).id

    response = site.client.post("/", data={"file": (io.BytesIO(b"x" * size), "a.txt")})
    item = site.background.get(response.text)
    response.close()
    response.request.input_stream.close()
    assert item is not None
    run_items()
    assert item.result(0) == size


def test_perform(app: Flask, background: Background) -> None:
    """One call of a task runs as an item does, and gives its result or its error; nothing is recorded."""

    @background.task(max_attempts=5, when="response")
    def work(value: int, fails: bool = False) -> Any:
        if fails:
            raise OSError("no")
        return value, current_item.attempt, current_app.name, url_for("static", filename="a", _external=True)

    @background.task
    async def coroutine(value: int) -> int:
        return value

    with app.test_request_context(base_url="https://shop.example"):
        assert perform(work, 1) == (1, 1, "shop", "https://shop.example/static/a")
    with pytest.raises(OSError, match="no"):
        perform(work, 1, fails=True)
    with pytest.raises(TypeError):
        perform(work)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes a task, not"):
        perform(print)
    assert perform(coroutine, 42) == 42
    with pytest.raises(AssertionError, match="nothing"):
        assert_enqueued(work)
    assert run_items() == []


def test_perform_with_any_backend(app: Flask, background: Background) -> None:
    """A task is performed here whatever the backend; items that it enqueues go there."""
    app = Flask("other")
    other = Background(app)
    child = other.task(name="child", backend="immediate")(lambda: current_item.id)
    parent = other.task(name="parent", durable=True)(lambda: child.enqueue().result(0))
    with record_items(app) as items:
        assert perform(parent) == items[0].item.id
    assert not other.stats().queued


def test_perform_durable_methods(background: Background) -> None:
    """A call that enqueue refuses is refused here, too."""
    task = background.task(durable=True)(lambda value: value)
    with pytest.raises(SerializationError):
        perform(task, object())


@pytest.mark.parametrize(
    ("reason", "error", "status"),
    [
        (CancelReason.SHUTDOWN, ItemInterruptedError, Status.INTERRUPTED),
        (CancelReason.REQUESTED, ItemCancelledError, Status.CANCELLED),
        (CancelReason.TIMEOUT, ItemTimeoutError, Status.FAILED),
    ],
)
def test_token(background: Background, reason: CancelReason, error: Any, status: Status) -> None:
    """A test fires the token in place of something that the item does, or before it runs."""
    steps: list[Any] = []

    @background.task(timeout=60)
    def work() -> None:
        for number in range(3):
            current_item.token.raise_if_cancelled()
            steps.append(number)
            step()

    def step() -> None:
        fire_token(reason=reason, remaining=7)
        steps.append(round(current_item.token.remaining or 0))

    with pytest.raises(error):
        perform(work)
    assert steps == [0, 7]
    item = work.enqueue()
    fire_token(item, reason)
    if status is Status.FAILED:
        with expect_failures(error):
            run_items()
    else:
        run_items()
    assert (item.status, steps) == (status, [0, 7])
    with pytest.raises(RuntimeError, match="outside of an item"):
        fire_token()


def test_token_of_a_coroutine(background: Background) -> None:
    """What a coroutine awaits is cancelled by a request, and by a stop only if it looks at its token."""

    @background.task
    async def work() -> None:
        fire_token(reason=CancelReason.REQUESTED)
        await asyncio.sleep(3600)

    @background.task
    async def looks() -> bool:
        fire_token()
        return await current_item.token.wait_async(3600)

    with pytest.raises(ItemCancelledError):
        perform(work)
    assert perform(looks) is True


def test_token_of_a_direct_call(background: Background) -> None:
    """A task that is called as a function has a token to fire, too."""

    @background.task
    def work() -> bool:
        fire_token()
        return current_item.token.cancelled

    assert work()


@pytest.fixture
def other() -> Iterator[Flask]:
    """An app whose items wait for nothing."""
    app = Flask("other")
    Background(app)
    with app.app_context():
        yield app


@pytest.mark.parametrize("run", [run_items, run_due])
def test_other_backends(other: Flask, run: Any) -> None:
    """Only the manual backend's items can be run; the error says how to have it."""
    with pytest.raises(RuntimeError, match=r"BACKGROUND_BACKEND = 'manual'"):
        run()


@pytest.mark.parametrize("time", [-1, timedelta(days=-1), float("nan"), float("inf")])
def test_time_does_not_go_back(time: Any) -> None:
    """Time passes forward, and by a number of seconds."""
    for move in (run_due, move_time):
        with pytest.raises(ValueError, match="from 0 to a hundred years"):
            move(time)


def test_stop(background: Background, items: RecordedItems) -> None:
    """A stop does not wait for items that nobody runs, and ends them."""
    item = background.task(lambda: None).using(delay=5).enqueue()
    assert background.stop() == []
    assert item.status is Status.CANCELLED
    assert not items[0].is_enqueued
