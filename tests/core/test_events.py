"""Events: one log line for each, with item and task, and one signal."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask

from flask_background import Background, Status, signals
from flask_background.concurrency import native
from flask_background.concurrency.clock import CLOCK
from flask_background.core.events import Events
from flask_background.errors import ItemInterruptedError, QueueFull

from ..helpers import (
    BOUND,
    STARTS_THREADS_AT_THE_END,
    Script,
    Site,
    lines,
    make_item,
    receiving,
    records,
    until,
)


@pytest.fixture
def events(app: Flask, caplog: pytest.LogCaptureFixture) -> Events:
    """The events of an app; the log is captured from level DEBUG."""
    caplog.set_level(logging.DEBUG)
    return Events(app)


def test_logger(app: Flask, events: Events) -> None:
    """The logger is a child of the app's logger: it has the same handlers, and a level of its own."""
    assert events.log.parent is app.logger
    assert events.log.name == f"{app.logger.name}.background"


@pytest.mark.parametrize(
    ("kept", "lost", "line"),
    [
        (0, 0, "Stopped: all items done in "),
        (1, 0, r"Stopped after \d\.\d s: 1 item runs again, 0 lost"),
        (2, 1, r"Stopped after \d\.\d s: 2 items run again, 1 lost"),
        (0, 1, r"Stopped after \d\.\d s: 0 items run again, 1 lost"),
    ],
)
def test_end_of_a_stop(
    events: Events, caplog: pytest.LogCaptureFixture, kept: int, lost: int, line: str
) -> None:
    """The log says how a stop has ended: a durable item runs again, and is no error; another one is lost."""
    events.stopping(3, 90.0, "")
    unfinished = [make_item() for _ in range(kept + lost)]
    for item in unfinished[:kept]:
        item._host = Mock(keeps_items=True, clock=CLOCK)
    for item in unfinished:
        events.finished(item, (Status.INTERRUPTED, None, ItemInterruptedError("time is up")))
    events.stopped(unfinished)
    assert re.match(line, lines(caplog)[-1])
    levels = [record.levelno for record in caplog.records if "interrupted, " in record.message]
    assert levels == [logging.WARNING] * kept + [logging.ERROR] * lost


def test_end_of_a_stop_without_items(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    """The log has no line about a stop that did not wait for items."""
    events.stopping(0, 90.0, "")
    events.stopped([])
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("status", "corrects", "level", "line"),
    [
        (Status.SUCCEEDED, False, logging.INFO, "succeeded"),
        (Status.CANCELLED, False, logging.INFO, "cancelled"),
        (Status.FAILED, False, logging.ERROR, "failed"),
        (
            Status.SUCCEEDED,
            True,
            logging.WARNING,
            "succeeded after all; it was reported as interrupted",
        ),
        (
            Status.CANCELLED,
            True,
            logging.WARNING,
            "cancelled after all; it was reported as interrupted",
        ),
        (Status.FAILED, True, logging.ERROR, "failed after all; it was reported as interrupted"),
        (Status.INTERRUPTED, False, logging.ERROR, "interrupted, 0.0 s old: time is up"),
    ],
)
def test_finished(
    events: Events,
    caplog: pytest.LogCaptureFixture,
    status: Status,
    corrects: bool,
    level: int,
    line: str,
) -> None:
    """Each end is one line, of a level that fits; a failure comes with its traceback."""
    item = make_item()
    error = {Status.FAILED: KeyError("lost"), Status.INTERRUPTED: ItemInterruptedError("time is up")}.get(
        status
    )
    events.finished(item, (status, None, error), corrects)
    (record,) = records(caplog)
    assert record.getMessage() == f"Item {item.id} (shop.send_mail) {line}"
    assert record.levelno == level
    assert bool(record.exc_info) is (status is Status.FAILED)


def test_way_of_an_item(background: Background, events: Events, caplog: pytest.LogCaptureFixture) -> None:
    """At level DEBUG the log has each step of an item once."""
    item = background.task(name="shop.work")(lambda secret: None).enqueue("s3cret")
    assert item.wait(BOUND)
    name = f"Item {item.id} (shop.work)"
    assert lines(caplog) == [f"{name} enqueued", f"{name} started", f"{name} succeeded"]
    assert "s3cret" not in caplog.text


def test_quiet_by_default(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """With Flask's default logging, items that succeed or are cancelled write nothing."""
    assert background.enqueue(lambda: None).wait(BOUND)
    assert lines(caplog) == []


def test_refused(events: Events, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is a warning, and a signal with the task's name and the error."""
    error = QueueFull("shop.work was not enqueued: full")
    with receiving(signals.item_refused, app) as received:
        events.refused("shop.work", error)
    assert received == [{"task_name": "shop.work", "error": error}]
    (record,) = records(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "An item (shop.work) was refused: shop.work was not enqueued: full"


def test_dropped(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    """A dropped item's line tells the kind of the view's error, but not its text, which may hold secrets."""
    item = make_item()
    events.dropped(item, "its view ended with KeyError")
    assert lines(caplog, logging.WARNING) == [
        f"Item {item.id} (shop.send_mail) dropped: its view ended with KeyError"
    ]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, []),
        (1, ["Stopping: waiting up to 90 s for 1 item; Ctrl-C ends the wait"]),
        (2, ["Stopping: waiting up to 90 s for 2 items; Ctrl-C ends the wait"]),
    ],
)
def test_stopping(
    events: Events, app: Flask, caplog: pytest.LogCaptureFixture, count: int, said: list[str]
) -> None:
    """A stop logs the number of items that it waits for, if there are any, and always sends its signal."""
    with receiving(signals.stopping, app) as received:
        events.stopping(count, 90.0, "; Ctrl-C ends the wait")
    assert lines(caplog) == said
    assert received == [{"grace": 90.0}]


def test_stopped(events: Events, app: Flask) -> None:
    """The end of a stop sends a signal with a list of the unfinished items, which is the receiver's own."""
    unfinished = [make_item()]
    with receiving(signals.stopped, app) as received:
        events.stopped(unfinished)
    assert received == [{"unfinished": unfinished}]
    assert received[0]["unfinished"] is not unfinished


def test_trouble(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    """An error that affects no item is logged with its traceback."""
    events.log_error("The watch failed", KeyError("lost"))
    (record,) = records(caplog)
    assert record.getMessage() == "The watch failed"
    assert record.exc_info is not None


def test_broken_log_hurts_no_item(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's logging reports a handler that raises, and the item ends all the same."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise OSError("disk full")
            except OSError:
                self.handleError(record)

    handler = Broken()
    site.app.logger.addHandler(handler)
    try:
        item = site.background.enqueue(lambda: 1 / 0)
        assert isinstance(item.exception(BOUND), ZeroDivisionError)
        assert site.background.wait_idle(BOUND)
    finally:
        site.app.logger.removeHandler(handler)
    assert "disk full" in capsys.readouterr().err


def test_filter_that_raises_hurts_no_item(make_site: Callable[..., Site]) -> None:
    """A log filter of the app's that raises does not keep an item from ending."""

    def broken(record: logging.LogRecord) -> bool:
        raise KeyError("filter")

    site = make_site(BACKGROUND_WORKERS=1)
    log = site.backend.events.log
    log.addFilter(broken)
    try:
        failed = site.background.enqueue(lambda: 1 / 0)
        assert failed.wait(2.0)
        assert site.background.enqueue(threading.get_ident).wait(2.0)
        assert site.background.wait_idle(2.0)
    finally:
        log.removeFilter(broken)


# Receivers.


def test_receivers_are_the_sender_apps(make_site: Callable[..., Site]) -> None:
    """Signals are sent by the app itself, so that a receiver can listen to one of several."""
    one, two = make_site(), make_site()
    senders: list[Any] = []

    def receive(sender: Any, **_: Any) -> None:
        senders.append(sender)

    with receiving(signals.item_finished, two.app) as of_two, signals.item_finished.connected_to(receive):
        for site in (one, one, two):
            assert site.background.enqueue(lambda: None).wait(BOUND)
    assert senders == [one.app, one.app, two.app]
    assert len(of_two) == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("item_enqueued", ValueError),
        ("item_started", ValueError),
        ("item_finished", ValueError),
        # On an item's thread nothing is raised from outside, so whatever a receiver raises is its own error.
        ("item_started", SystemExit),
        ("item_finished", SystemExit),
        ("item_finished", KeyboardInterrupt),
    ],
)
def test_receiver_fails(
    make_site: Callable[..., Site], name: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver's error is logged and hurts neither the item, nor the next ones, nor other receivers."""
    site = make_site(BACKGROUND_WORKERS=1)
    signal = getattr(signals, name)

    def fail(sender: Flask, **_: Any) -> None:
        raise error("receiver")

    with signal.connected_to(fail, site.app), receiving(signal, site.app) as received:
        items = [site.background.enqueue(lambda: 42) for _ in range(3)]
        for item in items:
            assert item.result(2.0) == 42
        assert site.background.wait_idle(2.0)
    assert [values["item"] for values in received] == items
    logged = [record for record in records(caplog) if record.exc_info]
    assert len(logged) == 3
    assert signal.name in logged[0].getMessage()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_enqueue_is_cut_short(app: Flask, background: Background, error: type[BaseException]) -> None:
    """Ctrl-C, or a worker's exit, in a receiver in the view does not keep the item from starting."""

    def fail(sender: Flask, **_: Any) -> None:
        raise error

    with signals.item_enqueued.connected_to(fail, app), suppress(error):
        background.enqueue(lambda: None)
    assert background.wait_idle(2.0)


# Receivers on service threads.


def on_service_thread(func: Callable[[], None]) -> None:
    """Have a service thread call func, and wait for it."""
    done = threading.Event()
    native.start_thread(lambda: (func(), done.set())[0], "background-test")
    assert done.wait(2.0)


def test_slow_receiver_holds_up_no_service_thread(events: Events, app: Flask, gate: threading.Event) -> None:
    """A receiver that blocks holds up no service thread; receivers are called in the order of events."""
    told: list[str] = []

    def receive(sender: Flask, **values: Any) -> None:
        gate.wait(BOUND)
        told.append("finished" if "item" in values else "stopped" if "unfinished" in values else "stopping")

    item = make_item()
    every = (signals.stopping, signals.item_finished, signals.stopped)
    with ExitStack() as stack:
        for each in every:
            stack.enter_context(each.connected_to(receive, app))
        on_service_thread(lambda: events.stopping(1, 90.0, ""))
        on_service_thread(lambda: events.finished(item, (Status.CANCELLED, None, None)))
        events.stopped([])  # on this thread, and yet not before what comes first
        assert told == []
        assert not events.wait_for_receivers(0.01)
        gate.set()
        assert events.wait_for_receivers(BOUND)
    assert told == ["stopping", "finished", "stopped"]


def test_receiver_on_another_thread_fails(
    events: Events, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a receiver on another thread is logged, and the next receiver is called."""

    def fail(sender: Flask, **_: Any) -> None:
        raise SystemExit("receiver")

    with signals.stopping.connected_to(fail, app), receiving(signals.stopping, app) as received:
        on_service_thread(lambda: events.stopping(0, 1.0, ""))
        on_service_thread(lambda: events.stopping(0, 2.0, ""))
        assert events.wait_for_receivers(BOUND)
    assert received == [{"grace": 1.0}, {"grace": 2.0}]
    assert [line for line in lines(caplog) if "failed" in line] == ["A receiver of stopping failed"] * 2


def test_receiver_waits_for_its_own_item(events: Events, app: Flask) -> None:
    """A receiver on another thread may ask for the result of the item whose end is reported."""
    item = make_item()
    waited: list[bool] = []

    def receive(sender: Flask, item: Any) -> None:
        waited.append(item.wait(0))

    with signals.item_finished.connected_to(receive, app):
        on_service_thread(lambda: events.finished(item, (Status.CANCELLED, None, None)))
        assert events.wait_for_receivers(BOUND)
    assert waited == [True]


@pytest.mark.parametrize("durable", [False, pytest.param(True, marks=pytest.mark.process)])
def test_slow_receiver_holds_up_no_other_item(
    make_site: Callable[..., Site], tmp_path: Path, gate: threading.Event, durable: bool
) -> None:
    """While a receiver blocks, other items run, end and are reported; its own item has not ended yet."""
    site = make_site(BACKGROUND_WORKERS=4, BACKGROUND_JOURNAL=tmp_path / "journal")
    work = site.background.task(name="work", durable=durable)(lambda slow: slow)

    def receive(sender: Flask, item: Any) -> None:
        if item.result(0):
            gate.wait(BOUND)

    with signals.item_finished.connected_to(receive, site.app):
        slow = work.enqueue(True)
        until(lambda: slow.status is Status.SUCCEEDED)
        for _ in range(10):
            assert work.enqueue(False).wait(5.0)
        assert work.using(delay=0.02).enqueue(False).wait(5.0)
        assert not slow.wait(0.01)
        gate.set()
        assert slow.wait(BOUND)
        assert site.background.wait_idle(BOUND)


@STARTS_THREADS_AT_THE_END
@pytest.mark.parametrize("name", ["stopping", "stopped"])
def test_slow_receiver_does_not_hold_the_stop_up(script: Callable[..., Script], name: str) -> None:
    """A process with a receiver that hangs ends only a little later."""
    program = script(
        f"""
        import signal, threading, time
        from flask import Flask
        from flask_background import Background, current_item, signals
        app = Flask("shop")
        app.config["BACKGROUND_GRACE_PERIOD"] = 0.5
        background = Background(app)

        @signals.{name}.connect
        def receive(sender, **_):
            print("receiver called", flush=True)
            if threading.current_thread() is not threading.main_thread():
                time.sleep(60)

        background.enqueue(time.sleep, 60)
        time.sleep(0.2)
        print("main done", flush=True)
        """
    )
    program.wait_for("main done")
    began = time.monotonic()
    assert program.ends() == 0, program.said
    assert time.monotonic() - began < 8.0
    assert "receiver called" in program.said
    assert "interrupted" in program.said
