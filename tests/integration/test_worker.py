"""``flask background worker`` in processes of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from flask_background import Background, Status, WorkItem

from .servers import ROOT, eventually

APP = """
import os
import time
from flask import Flask
from flask_background import Background, current_item
from flask_background.cli.commands import background as group

app = Flask("shop", instance_path={folder!r})
app.config["BACKGROUND_RUN_IN_WEB"] = False
app.cli.add_command(group)
background = Background(app)


@background.task(durable=True, name="work")
def work(seconds):
    end = time.monotonic() + seconds
    current_item.report_progress(0, seconds, str(os.getpid()))
    while time.monotonic() < end:
        time.sleep(0.02)
    return os.getpid(), current_item.attempt


@background.task(durable=True, name="polite")
def polite():
    current_item.report_progress(0, 1, str(os.getpid()))
    current_item.token.wait(60)
    current_item.token.raise_if_cancelled()
"""


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Background]:
    """The same app in this process, which only enqueues."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["BACKGROUND_RUN_IN_WEB"] = False
    background = Background(app)
    with app.app_context():
        yield background
        background.stop(0)


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Start]:
    """Starts workers; those that are left are killed."""
    (tmp_path / "shop.py").write_text(APP.format(folder=str(tmp_path / "instance")))
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flask", "--app", "shop", "background", "worker", *options]
        environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, start_new_session=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def pid_of(item: WorkItem[object]) -> int:
    """The process that runs the item."""
    progress = eventually("its progress", lambda: item.progress, 20)
    return int(progress.message or "0")


def test_runs_what_the_web_leaves(background: Background, worker: Start) -> None:
    """Items wait for a worker, which is woken for those that come later; TERM ends it, with status 0."""
    task = background.task(durable=True, name="work")(lambda seconds: None)
    early = task.enqueue(0)
    assert early.status is Status.QUEUED
    process = worker()
    assert early.result(20) == (process.pid, 1)
    began = time.monotonic()
    assert task.enqueue(0).result(10) == (process.pid, 1)
    assert time.monotonic() - began < 4  # the net is 5 s
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_grace_period(background: Background, worker: Start, number: signal.Signals) -> None:
    """What runs is waited for; what has not started is left, and what ends itself is not charged."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(1.5)
    polite = background.task(durable=True, name="polite")(lambda: None).enqueue()
    process = worker()
    assert pid_of(item) == pid_of(polite) == process.pid
    process.send_signal(number)
    assert process.wait(10) == 0
    assert item.result(0) == (process.pid, 1)
    assert (polite.status, polite.attempt) == (Status.QUEUED, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_whole_group(background: Background, worker: Start, number: signal.Signals) -> None:
    """Ctrl-C, or TERM by systemd, comes to a child twice, and counts once; what runs has its grace period."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(2)
    parent = worker("--count", "2")
    pid = pid_of(item)
    os.killpg(parent.pid, number)
    assert parent.wait(10) == 0
    assert item.result(0) == (pid, 1)


def test_second_press(background: Background, worker: Start) -> None:
    """A Ctrl-C that comes later than that ends the wait, and the item is left to others."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(60)
    parent = worker("--count", "2")
    pid_of(item)
    end = time.monotonic() + 20
    while parent.poll() is None:
        assert time.monotonic() < end
        os.killpg(parent.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            parent.wait(0.6)
    assert item.status is not Status.SUCCEEDED


def test_burst(background: Background, worker: Start) -> None:
    """A burst ends when there is nothing left to run, and not before."""
    task = background.task(durable=True, name="work")(lambda seconds: None)
    items = [task.enqueue(0.05) for _ in range(40)]
    assert worker("--burst", "--executor", "thread").wait(30) == 0
    assert {item.status for item in items} == {Status.SUCCEEDED}


def test_burst_after_a_crash(background: Background, worker: Start) -> None:
    """What a worker that was killed has left is run too."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(1)
    first = worker()
    assert pid_of(item) == first.pid
    background.stop(0)  # or this process might free the item
    first.kill()
    first.wait(10)
    second = worker("--burst")
    assert second.wait(30) == 0
    assert item.result(0) == (second.pid, 2)


def test_one_of_several_dies(background: Background, worker: Start) -> None:
    """Its items are run again by another one at once, and it is replaced; TERM ends all."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(2)
    parent = worker("--count", "2")
    first = pid_of(item)
    assert first != parent.pid
    os.kill(first, signal.SIGKILL)
    killed_at = time.monotonic()
    second = eventually("another process", lambda: pid_of(item) not in (0, first) and pid_of(item), 10)
    assert time.monotonic() - killed_at < 4
    assert item.result(10) == (second, 2)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(10) == 0
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
