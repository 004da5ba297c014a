"""Shared helpers: bounded waits, an app with its Background, and scripts in processes of their own."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest
from blinker import NamedSignal
from flask import Flask
from flask.testing import FlaskClient

from flask_background import Background, Status, WorkItem
from flask_background.app_state import state_of
from flask_background.concurrency.clock import CLOCK
from flask_background.core.callee import Callee
from flask_background.core.token import CancellationSource
from flask_background.local.backend import LocalBackend

if TYPE_CHECKING:
    from _thread import LockType

T = TypeVar("T")

ROOT = Path(__file__).parents[1]

# What should happen at once has to happen within so many seconds, on a slow and busy machine too.
#: Marks a test of items that start threads at the end of a process.
STARTS_THREADS_AT_THE_END = pytest.mark.xfail(
    sys.version_info[:3] in {(3, 12, 0), (3, 12, 1)},
    reason="Python 3.12.0 and 3.12.1 start no thread once the main thread has ended",
)

BOUND = 40.0
# BACKGROUND_MAX_PAYLOAD, as it is by default.
MAX_BYTES = 1_000_000
# Before a change lands: more examples and orders of events than while somebody writes code.
CI = "CI" in os.environ
# ``make faults``: everything at its full size.
FULL = os.environ.get("FAULTS") == "full"


# Numbers of seconds that end with no test, some of which no lock and no clock takes.
FOREVER = [1e9, 1e12, 1e300, math.inf, sys.maxsize, 10**400]


def callbacks_are_over() -> None:
    """Wait until no callback runs on a thread for such."""
    until(lambda: not any(thread.name == "background-callbacks" for thread in our_threads()))


def until(look: Callable[[], T], seconds: float = BOUND) -> T:
    """Call a function until it returns a true value, and return that."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"nothing was seen in {seconds} s"
        time.sleep(0.001)
    return seen


def stands_still(pid: int) -> bool:
    """Whether a process has been stopped: SIGSTOP takes a moment."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def slack() -> float:
    """Return the seconds that anything may take longer because the machine has far more to do than it can."""
    return 0.2 * max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 3)


def free_port() -> int:
    """Find a port for a server.

    It is none of those that the system gives to clients: one could take it while the server is down.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def our_threads() -> list[threading.Thread]:
    """The threads that the package has started."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("background-")]


class Site(NamedTuple):
    """An app and its Background."""

    app: Flask
    background: Background

    @property
    def client(self) -> FlaskClient:
        """A new client of the app."""
        return self.app.test_client()

    @property
    def backend(self) -> LocalBackend:
        """The app's backend in this process."""
        backend: LocalBackend = state_of(self.app).backend
        return backend


def fill(site: Site, gate: threading.Event, count: int) -> list[WorkItem[Any]]:
    """Enqueue so many items that wait for the gate, and wait until the first one runs."""
    items = [site.background.enqueue(gate.wait, BOUND) for _ in range(count)]
    until(lambda: items[0].status is Status.RUNNING)
    return items


class ItemHost:
    """Holds items that no backend has."""

    lending = None
    clock = CLOCK

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock: LockType = threading.Lock()
        self.source = CancellationSource()
        self.cancelled: list[WorkItem[Any]] = []

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Remember the items that were cancelled."""
        self.cancelled.append(item)
        return True

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """One source for all items."""
        return self.source


def make_callee(func: Callable[..., Any] = lambda *args: None, **options: Any) -> Callee:
    """A callee, as items have it."""
    return Callee.of_task(func, {"name": "shop.send_mail", **options})


def make_item(*args: Any, host: Any = None, **callee: Any) -> WorkItem[Any]:
    """An item that no host runs."""
    return WorkItem(make_callee(**callee), args, {}, None, host or ItemHost())


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The lines that the package has logged."""
    return [record for record in caplog.records if record.name.endswith(".background")]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[str]:
    """The package's log, without what is below level."""
    return [record.getMessage() for record in records(caplog) if record.levelno >= level]


@contextmanager
def receiving(signal: NamedSignal, sender: Any) -> Iterator[list[dict[str, Any]]]:
    """Collect what a signal sends."""
    received: list[dict[str, Any]] = []

    def receive(sender: Any, **values: Any) -> None:
        received.append(values)

    with signal.connected_to(receive, sender):
        yield received


class Script:
    """A Python program in a process of its own; ``within``: a command that runs it, such as ``unshare``."""

    def __init__(self, folder: Path, *sources: str, within: Sequence[str] = ()) -> None:
        path = folder / "script.py"
        path.write_text("".join(textwrap.dedent(source) for source in sources))
        self._log = folder / "script.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*within, sys.executable, str(path)],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """The output of the script so far."""
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        """Wait until the script writes this text."""

        def look() -> bool:
            running = self.process.poll() is None
            if words in self.said:
                return True
            assert running, f"it ended without saying {words!r}:\n{self.said}"
            assert time.monotonic() < end, f"it did not say {words!r} in {BOUND} s:\n{self.said}"
            return False

        end = time.monotonic() + BOUND
        until(look, 2 * BOUND)

    def send(self, number: int) -> None:
        """Send the script a signal."""
        self.process.send_signal(number)

    def ends(self, seconds: float = BOUND) -> int:
        """Wait for the script's end, and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in {seconds} s:\n{self.said}")

    def kill(self) -> None:
        """End the process, and close its files."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(BOUND)
