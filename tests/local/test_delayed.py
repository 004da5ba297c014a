"""Items in memory that wait for their time or their next attempt, and keys."""

from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.datastructures import FileStorage

from flask_background import Background, Status, current_item, signals
from flask_background.errors import ConfigurationError, ItemInterruptedError, Stopping

from ..helpers import BOUND, Site, lines, receiving, until


def test_attempts(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Another run follows a failed one; handle, signal and log show each attempt."""
    seen: list[int] = []

    @site.background.task(max_attempts=3, backoff=0.01)
    def work() -> str:
        seen.append(current_item.attempt)
        if len(seen) < 3:
            raise OSError("no")
        return "done"

    with receiving(signals.item_retried, site.app) as retried:
        item = work.enqueue()
        assert item.result(BOUND) == "done"
    assert seen == [1, 2, 3]
    assert (item.attempt, item.status) == (3, Status.SUCCEEDED)
    assert [(values["item"], type(values["error"]), values["delay"]) for values in retried] == [
        (item, OSError, 0.01),
        (item, OSError, 0.01),
    ]
    assert [line for line in lines(caplog) if "failed in attempt 2 of 3" in line]


def test_last_attempt_fails(background: Background) -> None:
    """The item fails when no attempt is left, or when its error is not retried."""
    runs: list[int] = []

    @background.task(max_attempts=2, backoff=0, retry_on=(OSError,))
    def work(error: type[Exception]) -> None:
        runs.append(1)
        raise error("no")

    assert isinstance(work.enqueue(OSError).exception(BOUND), OSError)
    assert len(runs) == 2
    assert isinstance(work.enqueue(KeyError).exception(BOUND), KeyError)
    assert len(runs) == 3


def test_waiting_counts(site: Site) -> None:
    """An item that waits for its next attempt is queued, so the app is not idle."""

    @site.background.task(max_attempts=2, backoff=0.2)
    def work() -> None:
        if current_item.attempt == 1:
            raise OSError("no")

    item = work.enqueue()
    until(lambda: item.attempt == 1 and item.status is Status.QUEUED)
    assert site.background.stats().queued == 1
    assert not site.background.wait_idle(0)
    assert site.background.wait_idle(BOUND)
    assert item.status is Status.SUCCEEDED


def test_upload_is_read_again(background: Background) -> None:
    """The next attempt reads an upload from its beginning."""
    seen: list[bytes] = []

    @background.task(max_attempts=2, backoff=0)
    def work(upload: FileStorage) -> None:
        seen.append(upload.read())
        if len(seen) == 1:
            raise OSError("no")

    assert work.enqueue(FileStorage(io.BytesIO(b"abc"), "a")).exception(BOUND) is None
    assert seen == [b"abc", b"abc"]


def test_delay(background: Background) -> None:
    """An item starts at its time, and not before."""
    task = background.task(time.time)
    began = time.time()
    items = [
        task.using(delay=0.2).enqueue(),
        task.using(delay=timedelta(seconds=0.2)).enqueue(),
        task.using(run_at=datetime.now(UTC) + timedelta(seconds=0.2)).enqueue(),
    ]
    assert {item.status for item in items} == {Status.QUEUED}
    for item in items:
        assert 0.19 < item.result(BOUND) - began < 2


def test_cancel_while_waiting(background: Background) -> None:
    """The item never runs."""
    runs: list[int] = []
    item = background.task(lambda: runs.append(1)).using(delay=0.05).enqueue()
    assert item.cancel()
    assert item.status is Status.CANCELLED
    assert background.task(time.time).using(delay=0.1).enqueue().wait(BOUND)
    assert runs == []


def test_stop_names_those_that_wait(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Waiting items are interrupted and named at once, because their time cannot come."""
    task = site.background.task(max_attempts=2, backoff=60)(lambda: [][0])
    failed = task.enqueue()
    delayed = task.using(delay=60).enqueue()
    until(lambda: failed.attempt == 1 and failed.status is Status.QUEUED)
    began = time.monotonic()
    assert site.background.stop() == []
    assert time.monotonic() - began < 5
    for item, words in ((failed, "its attempt 2"), (delayed, "its time")):
        error = item.exception(0)
        assert isinstance(error, ItemInterruptedError)
        assert words in str(error)
        assert [line for line in lines(caplog) if item.id in line and "interrupted" in line]
    with pytest.raises(Stopping):
        task.using(delay=60).enqueue()


def test_key(background: Background, gate: threading.Event) -> None:
    """While an item of the task with the key is in flight, enqueue returns that item."""
    task = background.task(name="receipt")(lambda number: gate.wait(BOUND) and number)
    other = background.task(name="invoice")(lambda: None)
    first = task.using(key="42").enqueue(1)
    assert task.using(key="42").enqueue(2) is first
    assert task.using(key="43").enqueue(3) is not first
    assert other.using(key="42").enqueue() is not first
    gate.set()
    assert first.result(BOUND) == 1
    assert background.wait_idle(BOUND)
    assert task.using(key="42").enqueue(2).result(BOUND) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay"),
        ({"run_at": datetime(2030, 1, 1)}, "time zone"),
        ({"delay": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"delay": 1, "when": "response"}, "when"),
        ({"key": ""}, "key"),
        ({"durable": "yes"}, "durable"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_crashes": 0}, "max_crashes"),
    ],
)
def test_options_that_are_wrong(background: Background, options: dict[str, object], words: str) -> None:
    """The error names the option, the value and what is allowed."""
    task = background.task(lambda: None)
    with pytest.raises(ConfigurationError, match=words):
        task.using(**options)  # type: ignore[arg-type]
