"""Log records of an item in a child process: handled by the worker's loggers, once, and bounded."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flask_background import current_item
from flask_background.core.events import Events
from flask_background.executors.processes import child_log
from flask_background.executors.processes.child_log import LogReceiver
from flask_background.executors.processes.messages import Logged
from flask_background.logging import ItemFilter

from ...children import SharedEvent
from ...helpers import BOUND, Site, until
from .conftest import ONE, Shop


class Handler(logging.Handler):
    """Keeps records, with the item that they were handled for."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[logging.LogRecord, str | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        item = current_item._get_current_object() if current_item else None  # type: ignore[attr-defined]
        self.records.append((record, item and item.id))

    @property
    def texts(self) -> list[str]:
        """The texts of the records."""
        return [record.getMessage() for record, _ in self.records]


@contextmanager
def handling(name: str, level: int = logging.NOTSET) -> Iterator[Handler]:
    """A handler of a logger of this process."""
    logger, handler = logging.getLogger(name), Handler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def test_record(shop: Shop) -> None:
    """A record is handled by the worker's logger of its name, in the context of its item."""

    def work() -> int:
        try:
            raise LookupError("no stock")
        except LookupError:
            logging.getLogger("shop.mail").exception("order %s", 7, stack_info=True)
        return os.getpid()

    before = time.time()
    with handling("shop.mail") as handler:
        item = shop.call(work)
        pid = item.result(BOUND)
    ((record, item_id),) = handler.records
    assert item_id == item.id
    assert (record.name, record.levelname, record.getMessage()) == ("shop.mail", "ERROR", "order 7")
    assert (record.process, record.funcName, record.filename) == (pid, "work", "test_child_log.py")
    assert before <= record.created <= time.time()
    text = logging.Formatter().format(record)
    assert "LookupError: no stock" in text
    assert "Stack (most recent call last)" in text


def test_log_of_the_app(
    shop: Shop, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flask's default handler does not print what the app's own logger is given."""

    def work() -> None:
        from flask import current_app

        current_app.logger.warning("low on paper")

    shop.call(work).result(BOUND)
    assert caplog.text.count("low on paper") == 1
    assert "low on paper" not in capfd.readouterr().err


def test_level(make_shop: Callable[..., Shop]) -> None:
    """The levels of the worker's loggers apply in the child."""

    def work() -> list[bool]:
        for name in ("shop.mail", "shop.mail.queue", "shop.pdf"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "%s %d", name, level)
        logger = logging.getLogger("shop.mail")
        return [logger.isEnabledFor(level) for level in (logging.DEBUG, logging.INFO)]

    with handling("shop", logging.NOTSET) as handler, handling("shop.mail", logging.INFO):
        logging.getLogger("shop.mail.queue")
        assert make_shop(**ONE).call(work).result(BOUND) == [False, True]
    assert handler.texts == [
        "shop.mail 20",
        "shop.mail 30",
        "shop.mail.queue 20",
        "shop.mail.queue 30",
        "shop.pdf 30",
    ]


def test_level_that_was_raised_later(shop: Shop) -> None:
    """A record that the worker's logger no longer lets pass is not handled."""

    def work() -> None:
        logging.getLogger("shop.mail").error("sent")

    with handling("shop.mail", logging.INFO) as handler:
        shop.pid()
        logging.getLogger("shop.mail").setLevel(logging.CRITICAL)
        shop.call(work).result(BOUND)
    assert handler.texts == []


CONFIGURED = """
import logging, sys
from tests.children import create_app
{configure}
"""


@pytest.mark.parametrize(
    ("configure", "is_forwarded"),
    [
        ("logging.basicConfig(level=logging.INFO)", False),
        ("logging.getLogger('shop').addHandler(logging.StreamHandler())", False),
        ("logging.getLogger('shop').addHandler(logging.NullHandler())", True),
        ("logging.getLogger().addHandler(logging.NullHandler())", True),
        ("logging.getLogger('other').addHandler(logging.StreamHandler())", True),
    ],
)
def test_app_that_configures_its_log(
    make_shop: Callable[..., Shop],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    configure: str,
    is_forwarded: bool,
) -> None:
    """A record is handled once: in the child if the app has given it a handler there, else in the worker."""

    def work() -> None:
        logging.getLogger("shop.mail").error("no paper")

    (tmp_path / "configured.py").write_text(CONFIGURED.format(configure=configure))
    with pytest.MonkeyPatch.context() as patch, handling("shop.mail") as handler:
        patch.syspath_prepend(tmp_path)
        make_shop(**ONE, BACKGROUND_APP="configured:create_app").call(work).result(BOUND)
    assert handler.texts == ["no paper"] * is_forwarded
    assert capfd.readouterr().err.count("no paper") == (not is_forwarded)


def test_records_that_cannot_be_sent(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    """Those of a forked process, and of a thread that its item has left, are printed as Flask prints them."""

    def work(gate: SharedEvent, done: SharedEvent) -> None:
        log = logging.getLogger("shop.mail")

        def later() -> None:
            gate.wait()
            log.error("from a thread")
            done.set()

        threading.Thread(target=later).start()
        forked = multiprocessing.get_context("fork").Process(target=log.error, args=("from a fork",))
        forked.start()
        forked.join()

    gate, done = SharedEvent(shop.folder / "gate"), SharedEvent(shop.folder / "done")
    with handling("shop.mail") as handler:
        shop.call(work, gate, done).result(BOUND)
        gate.set()
        until(done.is_set)
    assert handler.texts == []
    printed = capfd.readouterr().err
    for what in ("from a fork", "from a thread"):
        assert re.search(rf"^\[.*\] ERROR in \w+: {what}$", printed, re.MULTILINE)


def test_long_record(shop: Shop) -> None:
    """A long text comes without its middle."""

    def work() -> None:
        logging.getLogger("shop.mail").error("a" * 50_000 + "z" * 50_000)

    with handling("shop.mail") as handler:
        shop.call(work).result(BOUND)
    (text,) = handler.texts
    assert len(text) < 20_000
    assert re.fullmatch(r"a{9950}\.\.\. \(cut: 80,100 characters\) \.\.\.z{9950}", text)


def test_flood(shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more records than the worker handles in a second the rest is counted, and the item goes on."""
    monkeypatch.setattr(child_log, "_MOST", 10)

    def work() -> None:
        log = logging.getLogger("shop.mail")
        for number in range(2_000):
            log.error("number %d", number)

    with handling("shop.mail") as handler:
        shop.call(work).result(BOUND)
    left_out = sum(map(int, re.findall(r"(\d+) log records of child process \d+ were left out", caplog.text)))
    assert left_out
    assert len(handler.texts) + left_out == 2_000


def test_record_that_cannot_be_formatted(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    """The child prints what is wrong with it, as logging always does, and the item goes on."""

    def work() -> int:
        logging.getLogger("shop.mail").error("%d", "many")
        return 42

    assert shop.call(work).result(BOUND) == 42
    assert "--- Logging error ---" in capfd.readouterr().err


def test_handler_that_fails(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    """A filter of the worker that raises costs the item nothing."""

    def work() -> int:
        logging.getLogger("shop.mail").error("sent")
        return 42

    def broken(record: logging.LogRecord) -> bool:
        raise LookupError("no filter")

    with handling("shop.mail"):
        logging.getLogger("shop.mail").addFilter(broken)
        try:
            assert shop.call(work).result(BOUND) == 42
        finally:
            logging.getLogger("shop.mail").removeFilter(broken)
    assert "LookupError: no filter" in capfd.readouterr().err


def test_record_while_another_is_sent(shop: Shop) -> None:
    """A signal handler that logs while its thread sends a record does not stop the child for good."""

    def work() -> int:
        import signal

        log = logging.getLogger("shop.mail")
        signal.signal(signal.SIGALRM, lambda *_: log.error("alarm"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for _ in range(300):
                log.error("x" * 20_000)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return 42

    assert shop.call(work).result(BOUND) == 42


def test_made_up_names(make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that makes up loggers does not fill the worker's memory with them."""
    monkeypatch.setattr(child_log, "_new_names", set())
    monkeypatch.setattr(child_log, "_MOST_NEW", 3)
    receiver, events = LogReceiver(), Events(make_site().app)
    handler = Handler()
    events.log.addHandler(handler)
    for number in range(5):
        name = f"made.up.{number}.{time.monotonic()}"
        receiver.receive(Logged(name, 40, f"no. {number}", "", "", 1.0, "x.py", 1, "f", "t"), 1, events)
    assert handler.texts == ["no. 3", "no. 4"]
    assert len(child_log._new_names) == 3


@pytest.mark.parametrize(
    "odd", [{"level": 10**5000}, {"line": -(10**5000)}, {"created": math.nan}, {"created": -math.inf}]
)
def test_odd_numbers(make_site: Callable[..., Site], odd: dict[str, float]) -> None:
    """A record with numbers that no record has is handled with others."""
    receiver, events = LogReceiver(), Events(make_site().app)
    record = Logged(events.log.name, 40, "odd", "", "", 1.0, "x.py", 1, "f", "t")._replace(**odd)  # type: ignore[arg-type]
    handler = Handler()
    events.log.addHandler(handler)
    receiver.receive(record, 1, events)
    ((handled, _),) = handler.records
    assert logging.Formatter("%(asctime)s %(levelname)s %(lineno)d").format(handled)


def test_filter(shop: Shop) -> None:
    """The worker's filter puts the item on the lines of a child."""

    def work() -> None:
        logging.getLogger("shop.mail").warning("hello")

    with handling("shop.mail") as handler:
        handler.addFilter(ItemFilter())
        item = shop.call(work)
        assert item.wait(BOUND)
    ((record, _),) = handler.records
    found = [record.__dict__[name] for name in ("item_id", "task", "attempt")]
    assert found == [item.id, "shop.work", 1]


def test_filter_in_the_child(shop: Shop) -> None:
    """A filter works in a child, whose app may have handlers of its own."""

    def work() -> list[object]:
        record = logging.makeLogRecord({})
        ItemFilter().filter(record)
        return [record.__dict__[name] for name in ("item_id", "task", "attempt")]

    item = shop.call(work)
    assert item.result(BOUND) == [item.id, "shop.work", 1]
