"""The item: its status, its outcome, and waiting for its end."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.datastructures import FileStorage

from flask_background import Background, Status, WorkItem, current_item
from flask_background.core.status import Progress
from flask_background.errors import BackgroundError, NotFinishedError

from ..helpers import BOUND, ItemHost, make_item, until

FINAL = {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED}
ALLOWED = {
    (Status.QUEUED, Status.RUNNING),
    (Status.QUEUED, Status.CANCELLED),
    (Status.QUEUED, Status.INTERRUPTED),
    # What cannot be run is parked.
    (Status.QUEUED, Status.FAILED),
    (Status.RUNNING, Status.SUCCEEDED),
    (Status.RUNNING, Status.FAILED),
    (Status.RUNNING, Status.CANCELLED),
    (Status.RUNNING, Status.INTERRUPTED),
    # Another attempt.
    (Status.RUNNING, Status.QUEUED),
    # The record of what had not ended in time is corrected.
    (Status.INTERRUPTED, Status.RUNNING),
    (Status.INTERRUPTED, Status.SUCCEEDED),
    (Status.INTERRUPTED, Status.FAILED),
    (Status.INTERRUPTED, Status.CANCELLED),
}


@pytest.fixture
def item(background: Background, gate: threading.Event) -> WorkItem[int]:
    """An item that runs until the gate opens, and then returns 42."""
    return background.task(name="shop.send_mail")(lambda: int(gate.wait(BOUND)) * 42).enqueue()


@pytest.fixture
def failing(background: Background, gate: threading.Event) -> WorkItem[int]:
    """An item that runs until the gate opens, and then fails."""

    def fail() -> int:
        assert gate.wait(BOUND)
        raise KeyError("lost")

    return background.enqueue(fail)


def test_new() -> None:
    """A new item is queued, was never run, and has the time at which it was made."""
    item = make_item()
    assert item.status is Status.QUEUED
    assert item.task_name == "shop.send_mail"
    assert item.attempt == 0
    assert item.progress is item.started_at is item.finished_at is None
    assert not item.state
    assert item.enqueued_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - item.enqueued_at) < timedelta(seconds=BOUND)
    assert 0 <= item._age < BOUND


@pytest.mark.usefixtures("hasty")
def test_id() -> None:
    """Ids are 24 hexadecimal digits, and no two are the same, also when several threads make them."""
    items: list[WorkItem[object]] = []
    errors: list[BaseException] = []

    def make() -> None:
        try:
            items.extend(make_item() for _ in range(300))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert errors == []
    ids = {item.id for item in items}
    assert len(ids) == 2_400
    assert all(len(name) == 24 and set(name) <= set("0123456789abcdef") for name in ids)


def test_statuses() -> None:
    """The final statuses are final, and each status is a word."""
    assert {status for status in Status if status.is_final} == FINAL
    assert [str(status) for status in Status] == [
        "queued",
        "running",
        "succeeded",
        "failed",
        "cancelled",
        "interrupted",
    ]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Status, Status)))
def test_transitions(old: Status, new: Status) -> None:
    """An item goes from a status to those that the table allows, and to no other."""
    item = make_item()
    item._learn(old, None)
    if old is new or (old, new) in ALLOWED:
        item._move(new)
        assert item.status is new
    else:
        with pytest.raises(AssertionError, match=f"cannot go from {old} to {new}"):
            item._move(new)
        assert item.status is old


def test_progress(background: Background) -> None:
    """``progress`` is the last progress that the item reported."""
    seen: list[Progress | None] = []

    def work() -> None:
        seen.append(current_item.progress)
        current_item.report_progress(1)
        seen.append(current_item.progress)
        current_item.report_progress(2.5, 10, "halfway")

    item = background.enqueue(work)
    assert item.wait(BOUND)
    assert seen == [None, Progress(1, None, None)]
    assert item.progress == (2.5, 10, "halfway")


def test_cancel_asks_the_host() -> None:
    """``cancel`` and ``token`` come from the item's host."""
    host = ItemHost()
    item = make_item(host=host)
    assert item.cancel()
    assert host.cancelled == [item]
    assert item.token is host.source.token


def test_result(item: WorkItem[int], gate: threading.Event) -> None:
    """``result`` returns the function's return value, each time."""
    gate.set()
    assert item.wait()
    assert item.result() == item.result(0) == 42
    assert item.exception() is None
    assert item.started_at is not None
    assert item.finished_at is not None
    assert item.enqueued_at <= item.started_at <= item.finished_at


def test_error(failing: WorkItem[int], gate: threading.Event) -> None:
    """``result`` raises the function's exception, the same object each time."""
    gate.set()
    error = failing.exception()
    for _ in range(2):
        with pytest.raises(KeyError, match="lost") as caught:
            failing.result()
        assert caught.value is error


@pytest.mark.parametrize("timeout", [0.02, 0, -1])
def test_not_finished(item: WorkItem[int], timeout: float) -> None:
    """The error of a wait that ends too early names the item; such waits leave nothing behind."""
    until(lambda: item.status is Status.RUNNING)
    assert not item.wait(timeout)
    with pytest.raises(NotFinishedError, match=rf"^item {item.id} .* has not ended, after .* running"):
        item.result(timeout)
    with pytest.raises(TimeoutError):
        item.exception(timeout)
    assert not item._waiters


def test_wait_wakes_all(item: WorkItem[int], gate: threading.Event) -> None:
    """The end of an item wakes all waiters, with or without a limit."""
    woken: list[bool] = []
    waiting = threading.Semaphore(0)

    def wait(timeout: float | None) -> None:
        waiting.release()
        woken.append(item.wait(timeout))

    waiters = [threading.Thread(target=wait, args=(timeout,)) for timeout in (None, BOUND) * 4]
    for waiter in waiters:
        waiter.start()
        assert waiting.acquire(timeout=BOUND)
    gate.set()
    for waiter in waiters:
        waiter.join(BOUND)
    assert woken == [True] * 8


@pytest.mark.usefixtures("hasty")
def test_no_waiter_misses_the_end(background: Background) -> None:
    """A thread that begins to wait just as the item ends is woken too."""
    for _ in range(300):
        item = background.enqueue(lambda: 42)
        other = threading.Thread(target=item.wait, args=(BOUND,))
        other.start()
        assert item.result(BOUND) == 42
        other.join(BOUND)
        assert not other.is_alive()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("ask", ["wait", "result", "await"])
def test_told_last(background: Background, caplog: pytest.LogCaptureFixture, ask: str) -> None:
    """When a waiter sees the end, the log has it, its signal was sent, and the item's uploads are closed."""
    for _ in range(100):
        upload = FileStorage(io.BytesIO(b"picture"))
        stream = upload.stream
        item = background.enqueue(lambda photo: 1 / 0, upload)
        with suppress(ZeroDivisionError):
            if ask == "wait":
                item.wait(BOUND)
            elif ask == "result":
                item.result(BOUND)
            else:
                asyncio.run(asyncio.wait_for(item, BOUND))
        assert f"Item {item.id} " in caplog.text
        assert stream.closed
        caplog.clear()


def test_await(item: WorkItem[int], gate: threading.Event) -> None:
    """Coroutines can await an item, several at once, before and after its end."""

    async def main() -> list[int]:
        waiting = asyncio.gather(*(asyncio.wait_for(item, BOUND) for _ in range(3)))
        await asyncio.sleep(0.01)
        gate.set()
        return [*await waiting, await item]

    assert asyncio.run(main()) == [42] * 4


def test_await_raises(failing: WorkItem[int], gate: threading.Event) -> None:
    """Awaiting a failed item raises its error."""
    gate.set()

    async def main() -> None:
        await failing

    with pytest.raises(KeyError, match="lost"):
        asyncio.run(main())


def test_await_can_be_given_up(item: WorkItem[int]) -> None:
    """A cancelled await leaves the item as it is, and no waiter behind."""

    async def main() -> None:
        await asyncio.wait_for(item, 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert not item.status.is_final
    assert not item._waiters


def test_await_on_a_loop_that_is_gone(
    background: Background, item: WorkItem[int], gate: threading.Event
) -> None:
    """A loop that was closed while it waited for an item does not disturb the item's end."""
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await item

    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.set()
    assert item.result(BOUND) == 42
    assert background.wait_idle(BOUND)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_await_on_a_loop_that_is_just_going(
    background: Background, item: WorkItem[int], gate: threading.Event
) -> None:
    """A loop that is closed just as the item ends does not disturb the end either."""

    class Late(asyncio.SelectorEventLoop):
        seems_open = True

        def is_closed(self) -> bool:
            return not self.seems_open and super().is_closed()

        def _check_closed(self) -> None:
            if super().is_closed():
                raise RuntimeError("Event loop is closed")

    loop = Late()

    async def wait() -> None:
        await item

    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.set()
    ended = item.wait(2.0)
    loop.seems_open = False
    assert ended
    assert background.wait_idle(2.0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_in_another_process() -> None:
    """Waiting for an item of another process raises an error that says where to wait."""
    host = ItemHost()
    host.pid += 1
    item = make_item(host=host)
    with pytest.raises(BackgroundError, match=f"{item.id} belongs to process {host.pid}"):
        item.wait(0)
    with pytest.raises(BackgroundError, match="forked"):
        item.result()


def test_repr_shows_no_arguments() -> None:
    """The repr of an item shows its id, task and status, not its arguments, which may be secret."""
    item = make_item("s3cret")
    assert repr(item) == f"<WorkItem {item.id} shop.send_mail queued>"
