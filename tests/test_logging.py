"""The log: the fields of the lines about items, and the filter that puts the item on the app's own lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_background import Background, current_item
from flask_background.errors import QueueFull
from flask_background.logging import ItemFilter

from .helpers import BOUND, Site, records, until

FIELDS = ("item_id", "task", "attempt", "status", "wait", "duration", "description")


@pytest.fixture
def written() -> Iterator[list[str]]:
    """The lines of the app's logger, as a handler with the filter writes them."""
    written: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Handler()
    handler.addFilter(ItemFilter())
    handler.setFormatter(logging.Formatter("%(item_id)s %(task)s %(attempt)s %(message)s"))
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def said(message: str) -> None:
    """Log a line of the app."""
    logging.getLogger("shop").warning(message)


def test_filter(background: Background, written: list[str]) -> None:
    """Inside an item a line has the item's id, its task and the run's number; outside there is a dash."""

    @background.task(name="shop.work", max_attempts=2, backoff=0)
    def work() -> None:
        said("in a function")
        assert current_item.attempt == 2

    @background.task(name="shop.wait")
    async def wait() -> None:
        await asyncio.sleep(0)
        said("in a coroutine")

    item, other = work.enqueue(), wait.enqueue()
    assert item.wait(BOUND)
    assert other.wait(BOUND)
    said("outside")
    assert f"{item.id} shop.work 1 in a function" in written
    assert f"{item.id} shop.work 2 in a function" in written
    assert f"{other.id} shop.wait 1 in a coroutine" in written
    assert "- - - outside" in written


def test_filter_of_our_lines(background: Background, written: list[str]) -> None:
    """The lines of the package have the item that they are about, wherever they are logged."""
    item = background.task(name="shop.work", max_attempts=1)(lambda: int("no")).enqueue()
    assert item.wait(BOUND)
    assert any(line.startswith(f"{item.id} shop.work 1 Item {item.id}") for line in written)


def test_filter_keeps_others(background: Background) -> None:
    """A line that has one of these fields keeps it, and None may stand for what is missing."""
    record = logging.makeLogRecord({"task": "of the app"})
    assert ItemFilter(missing=None).filter(record)
    assert (record.__dict__["task"], record.__dict__["item_id"]) == ("of the app", None)


def test_filter_in_a_direct_call(background: Background, written: list[str]) -> None:
    """A direct call has an item of its own, so its lines have that one's id."""

    @background.task(name="shop.work")
    def work() -> str:
        said("direct")
        return current_item.id

    assert f"{work()} shop.work 1 direct" in written


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line, which all have to be there."""
    return {name: record.__dict__[name] for name in FIELDS}


@pytest.mark.parametrize("durable", [False, True])
def test_fields(
    make_site: Callable[..., Site], tmp_path: Any, caplog: pytest.LogCaptureFixture, durable: bool
) -> None:
    """Each line about an item has all fields: those of a retry, and of all ends."""
    site = make_site(BACKGROUND_JOURNAL=tmp_path / "journal")
    caplog.set_level(logging.DEBUG, "shop.background")

    @site.background.task(
        name="shop.work", durable=durable, max_attempts=2, backoff=0, describe=lambda what: f"about {what}"
    )
    def work(what: str) -> None:
        if what == "fails" or current_item.attempt == 1:
            raise ValueError(what)

    with site.app.app_context():
        good, bad = work.enqueue("works"), work.enqueue("fails")
        assert good.wait(BOUND)
        assert bad.wait(BOUND)
        assert site.background.wait_idle(BOUND)
    for item, last in ((good, "succeeded"), (bad, "failed")):
        found = [one for one in map(fields_of, records(caplog)) if one["item_id"] == item.id]
        assert {one["task"] for one in found} == {"shop.work"}
        assert [one["status"] for one in found] == ["queued", "running", "queued", "running", last]
        assert [one["attempt"] for one in found] == [0, 1, 1, 2, 2]
        assert all(one["wait"] >= 0.0 for one in found)
        assert [one["duration"] is None for one in found] == [True, False, False, False, False]
    assert {one["description"] for one in found} == {"about fails"}


def test_retry(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """A retry is one warning, one bounded line with the error's type and text; the end has the traceback."""

    @background.task(max_attempts=2, backoff=0)
    def fail() -> None:
        raise ValueError("two\nlines " + 10_000 * "x")

    assert fail.enqueue().wait(BOUND)
    retried, failed = [one for one in records(caplog) if one.levelno >= logging.WARNING]
    assert (retried.levelno, failed.levelno) == (logging.WARNING, logging.ERROR)
    assert retried.exc_info is None
    message = retried.getMessage()
    assert "ValueError: two lines xxx" in message
    assert "\n" not in message
    assert len(message) < 1_000
    assert failed.exc_info is not None


def test_cancelled_and_refused(make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture) -> None:
    """An item that never ran has fields, too; of one that was refused the task is known."""
    site = make_site(BACKGROUND_MAX_QUEUED=1, BACKGROUND_EXECUTORS={"one": {"kind": "thread", "workers": 1}})
    caplog.set_level(logging.INFO, "shop.background")
    task = site.background.task(name="shop.work", executor="one")(lambda: None)
    with site.app.app_context():
        items = [task.using(delay=60).enqueue() for _ in range(2)]
        with pytest.raises(QueueFull):
            task.enqueue()
        for item in items:
            assert item.cancel()
    refused, *cancelled = map(fields_of, records(caplog))
    assert refused == dict.fromkeys(FIELDS) | {"task": "shop.work"}
    assert [(one["item_id"], one["status"], one["attempt"]) for one in cancelled] == [
        (item.id, "cancelled", 0) for item in items
    ]
    assert {one["duration"] for one in cancelled} == {None}


def test_errors_about_items(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is no outcome has the fields of its item."""

    @background.around_enqueue
    def broken(task_name: str) -> Iterator[None]:
        yield
        raise OSError

    item = background.enqueue(int)
    assert item.wait(BOUND)
    (record,) = [one for one in records(caplog) if one.levelno == logging.ERROR]
    assert fields_of(record)["item_id"] == item.id
    until(lambda: item.status.is_final)
