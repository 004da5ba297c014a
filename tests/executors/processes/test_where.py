"""The log of a child that is killed or crashes says where the child was."""

from __future__ import annotations

import logging
import os
import re
import signal
import stat
import threading
import time
from collections.abc import Callable

import pytest

from flask_background import Status
from flask_background.errors import ItemCrashedError, ItemTimeoutError

from ...children import SharedEvent
from ...helpers import BOUND, lines, slack, until
from .conftest import ONE, Shop


def killed(caplog: pytest.LogCaptureFixture) -> str:
    """The line about the kill."""
    (line,) = until(lambda: [line for line in lines(caplog, logging.WARNING) if "is killed" in line])
    return line


@pytest.mark.parametrize("name", ["spin", "hog"])
def test_timeout(shop: Shop, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """An item that ignores its token is named with its line, also while it holds the GIL in C."""
    item, pid = shop.begin(name, timeout=0.2)
    assert isinstance(item.exception(BOUND), ItemTimeoutError)
    line = killed(caplog)
    assert re.match(
        rf"Item {item.id} \(shop\.{name}\): its child process {pid} is killed, 0\.2 s after it was asked to"
        rf' end\. It was here:\nCurrent thread .*\n  File ".*children\.py", line \d+ in {name}$',
        line,
    )


def test_cancelled(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A child that is killed because its item was cancelled has a line of its own."""
    item, _ = shop.begin("spin")
    item.cancel()
    assert item.wait(BOUND)
    assert item.status is Status.CANCELLED
    assert "in spin" in killed(caplog)


def test_other_threads(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The threads that the item has started are shown, and ours are not."""

    def work(begun: SharedEvent) -> None:
        def count_sheep() -> None:
            begun.set()
            time.sleep(60)

        thread = threading.Thread(target=count_sheep)
        thread.start()
        thread.join()

    begun = SharedEvent(shop.folder / "begun")
    item = shop.call(work, begun)
    until(begun.is_set)
    item.cancel()
    line = killed(caplog)
    assert line.index("in work\n") < line.index("in count_sheep\n")
    assert "child_listener" not in line
    assert "child_main" not in line


def test_grace_period_is_over(make_shop: Callable[..., Shop], caplog: pytest.LogCaptureFixture) -> None:
    """All busy children are named before the line that ends the stop."""
    shop = make_shop()
    for name in ("spin", "hog"):
        shop.begin(name)
    began = time.monotonic()
    shop.background.stop(0.1)
    assert time.monotonic() - began < 2.0 + slack()
    said = lines(caplog, logging.WARNING)
    about = [line for line in said if "is killed, the grace period is over. It was here:" in line]
    assert len(about) == 2
    assert "in spin" in "".join(about)
    assert "in hog" in "".join(about)
    assert said.index(about[-1]) < next(
        at for at, line in enumerate(said) if line.startswith("Stopped after")
    )


def test_child_that_does_not_answer(make_shop: Callable[..., Shop], caplog: pytest.LogCaptureFixture) -> None:
    """It is killed all the same, soon."""
    shop = make_shop(**ONE)
    item, pid = shop.begin("spin")
    os.kill(pid, signal.SIGSTOP)
    item.cancel()
    assert item.wait(BOUND)
    assert killed(caplog).endswith("It did not say where it was")


def test_crash(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The error of a crash says where it happened, and so does the log."""
    error = shop.tasks["segfault"].enqueue().exception(BOUND)
    assert isinstance(error, ItemCrashedError)
    (note, *_) = error.__notes__
    assert re.search(r"^it was here:\n", note)
    assert "in segfault" in note
    assert "in segfault" in caplog.text


def test_bytes_in_between(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that an item has written into the pipe by mistake are no stack, and keep no stack out."""

    def work(begun: SharedEvent) -> None:
        for number in range(3, 20):
            try:
                if stat.S_ISFIFO(os.fstat(number).st_mode) and not os.get_blocking(number):
                    os.write(number, b"oops\n" * 50_000)
            except OSError:
                pass
        begun.set()
        while True:
            pass

    begun = SharedEvent(shop.folder / "begun")
    item = shop.call(work, begun)
    until(begun.is_set)
    item.cancel()
    line = killed(caplog)
    assert "in work" in line
    assert "oops" not in line
