"""Durable items under a real gunicorn with two workers, whatever happens to these."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from flask_background import Background, Status, WorkItem

from ..helpers import slack
from .servers import ROOT, eventually

APP = """
import os
import time
from flask import Flask
from flask_background import Background, current_item

app = Flask("shop", instance_path={folder!r})
app.config.update({settings!r})
app.logger.setLevel("INFO")
background = Background(app)


def tell(what):
    with open({runs!r}, "a") as runs:
        runs.write(f"{{what}} {{os.getpid()}} {{current_item.attempt}} {{time.monotonic()}}\\n")


@background.task(durable=True, name="work")
def work(seconds):
    tell("begin")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_item.report_progress(seconds - (end - time.monotonic()), seconds)
        time.sleep(0.02)
    tell("end")
    return current_item.attempt


@background.task(name="keep")
def keep(seconds):
    time.sleep(seconds)


@background.task(durable=True, name="both")
def both(seconds):
    keep.enqueue(seconds)
    work(seconds)


@background.task(durable=True, name="poison")
def poison():
    tell("begin")
    os._exit(1)
"""


PATIENT = """

from flask_background.durable import backlog

backlog._STUCK = 60.0  # items that wait here go to nobody else
"""


class Run(NamedTuple):
    """The line that an item wrote when it began or ended."""

    what: str
    pid: int
    attempt: int
    at: float


class Shop:
    """A server, and the same app in this process, which only enqueues and looks."""

    def __init__(self, folder: Path, worker_class: str, preload: bool, **settings: Any) -> None:
        self._folder = folder
        self._runs = folder / "runs"
        source = APP.format(folder=str(folder / "instance"), runs=str(self._runs), settings=settings)
        (folder / "shop.py").write_text(source)
        self._options = ["-k", worker_class, "-w", "2", *["--preload"][: int(preload)]]
        self.log = folder / "log"
        self.server: subprocess.Popen[bytes]
        app = Flask("shop", instance_path=str(folder / "instance"))
        app.config["BACKGROUND_RUN_IN_WEB"] = False
        self.background = Background(app)
        self.context = app.app_context()
        self.tasks: dict[str, Any] = {
            name: self.background.task(durable=True, name=name)(lambda *args: None)
            for name in ("work", "both", "poison")
        }

    def start(self) -> None:
        """Start gunicorn, which never gets a request."""
        options = ["-b", "127.0.0.1:0", "--graceful-timeout", "6", "--timeout", "30", *self._options]
        command = [sys.executable, "-m", "gunicorn", *options, "shop:app"]
        environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{self._folder}"}
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                command, cwd=self._folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def enqueue(self, name: str, *args: Any) -> WorkItem[Any]:
        """Enqueue in this process; the workers are woken."""
        item: WorkItem[Any] = self.tasks[name].enqueue(*args)
        return item

    def runs(self, what: str) -> list[Run]:
        """The lines that items have written so far."""
        if not self._runs.exists():
            return []
        lines = [line.split() for line in self._runs.read_text().splitlines()]
        found = [Run(line[0], int(line[1]), int(line[2]), float(line[3])) for line in lines]
        return [run for run in found if run.what == what]

    def began(self, count: int) -> Run:
        """Wait until so many runs have begun, and return the last one."""
        eventually(f"run {count}", lambda: len(self.runs("begin")) >= count, 20)
        return self.runs("begin")[-1]

    def end(self) -> None:
        """End the server, and the app here."""
        if self.server.poll() is None:
            self.server.terminate()
            self.server.wait(30)
        self.background.stop(0)


@pytest.fixture(params=[("sync", False), ("gthread", True), ("gevent", False)], ids=lambda kind: str(kind[0]))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """A running server."""
    shop = Shop(tmp_path, *request.param)
    shop.start()
    with shop.context:
        yield shop
        shop.end()


def test_killed_worker(shop: Shop) -> None:
    """Another worker runs the item at once, as the second attempt; it is told of it, and does not poll."""
    item = shop.enqueue("work", 1.0)
    first = shop.began(1)
    os.kill(first.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    second = shop.began(2)
    assert second.pid != first.pid
    assert second.at - killed_at < 4 + slack()  # the net is 5 s
    assert item.result(20) == 2
    assert len(shop.runs("end")) == 1


def test_killed_server(shop: Shop, tmp_path: Path) -> None:
    """The next server runs the item when it starts, without any request."""
    item = shop.enqueue("work", 1.0)
    first = shop.began(1)
    workers = children(shop.server.pid)
    assert first.pid in workers
    for number in (signal.SIGSTOP, signal.SIGKILL):  # a worker that saw the master die would begin to stop
        for pid in (shop.server.pid, *workers):
            os.kill(pid, number)
    shop.server.wait(10)
    assert not item.status.is_final
    shop.start()
    assert item.result(20) == 2


def test_reload(shop: Shop) -> None:
    """Running items finish, waiting ones go to the successors; none is charged or run twice."""
    items = [shop.enqueue("work", 1.0) for _ in range(20)]
    shop.began(4)
    shop.server.send_signal(signal.SIGHUP)
    assert [item.result(30) for item in items] == [1] * 20
    assert len(shop.runs("begin")) == len(shop.runs("end")) == 20


def test_item_that_outlives_the_grace_period(shop: Shop) -> None:
    """The item runs again when its process is dead, not before, and that counts as no crash."""
    item = shop.enqueue("work", 7.0)
    first = shop.began(1)
    shop.server.send_signal(signal.SIGTERM)
    shop.server.wait(20)
    assert eventually("its release", lambda: not alive(first.pid), 10)
    shop.start()
    second = shop.began(2)
    assert second.attempt == 1
    assert item.result(30) == 1


@pytest.fixture
def small_shop(tmp_path: Path) -> Iterator[Shop]:
    """A server whose workers run two items at the same time, and keep more that wait."""
    shop = Shop(tmp_path, "gthread", False, BACKGROUND_WORKERS=2, BACKGROUND_GRACE_PERIOD=4)
    source = tmp_path / "shop.py"
    source.write_text(source.read_text() + PATIENT)
    shop.start()
    with shop.context:
        yield shop
        shop.end()


def stop(shop: Shop) -> str:
    """Stop the server, and return what it logged while it stopped."""
    before = len(shop.log.read_text())
    shop.server.terminate()
    shop.server.wait(30)
    return shop.log.read_text()[before:]


def test_log_of_a_stop_without_loss(small_shop: Shop) -> None:
    """Items that run are done, items that wait are handed back, and no process is said to have died."""
    for item in [small_shop.enqueue("work", 0) for _ in range(6)]:
        assert item.wait(20)  # the runs are short, so the workers claim items ahead
    items = [small_shop.enqueue("work", 1.0) for _ in range(12)]
    small_shop.began(6 + 4)
    said = stop(small_shop)
    assert len(small_shop.runs("end")) < 6 + 12
    assert re.search(r"Stopping: waiting up to \d+ s for 2 items", said)
    assert re.search(r"Stopping: [1-4] items? that had not started handed back to the journal", said)
    seconds = [float(found) for found in re.findall(r"Stopped: all items done in (\d+\.\d) s", said)]
    assert len(seconds) == 2
    assert max(seconds) < 5
    small_shop.start()
    assert [item.result(30) for item in items] == [1] * 12
    said += stop(small_shop)
    for word in ("ERROR", "died", "lost", "interrupted", "run again", "runs again"):
        assert word not in said


def test_log_of_a_stop_that_is_too_short(small_shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells the item that runs again from the item that is lost, and a stop from a crash."""
    small_shop.enqueue("both", 30.0)
    first = small_shop.began(1)
    said = stop(small_shop)
    eventually("its end", lambda: not alive(first.pid), 10)
    ends = re.findall(r"(\w+) in events: Item \w+ \((\w+)\) interrupted, [^:]*: (it runs again)?", said)
    assert sorted(ends) == [("ERROR", "keep", ""), ("WARNING", "both", "it runs again")]
    assert re.search(r"Stopped after [45]\.\d s: 1 item runs again, 1 lost", said)
    small_shop.start()
    assert small_shop.began(2).attempt == 1
    said += stop(small_shop) + caplog.text  # this process may have been the first to see the worker dead
    assert re.search(r"1 item of process \d+, which stopped before they had ended, will be run again", said)
    assert "died" not in said


def test_poison(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """An item that takes three workers down is parked, and the log says so; others go on."""
    item = shop.enqueue("poison")
    assert item.wait(30)
    assert item.status is Status.FAILED
    assert "died in 3 of its runs" in str(item.exception(0))
    assert len(shop.runs("begin")) == 3
    assert shop.enqueue("work", 0).result(20) == 1
    told = f"Item {item.id} (poison) failed"  # by whoever was first to see the last one dead
    eventually("the log", lambda: told in shop.log.read_text() + caplog.text)


def test_progress_from_another_process(shop: Shop) -> None:
    """Every process sees the item's progress."""
    item = shop.enqueue("work", 1.5)
    seen: set[float] = set()

    def look() -> bool:
        progress = item.progress
        if progress is not None:
            seen.add(progress.done)
        return item.status.is_final

    eventually("its end", look, 20)
    assert len(seen) > 2


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
