"""``flask background worker`` in processes of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_background import Background, Status, WorkItem

from ..helpers import slack
from .servers import ROOT, alive, eventually

APP = """
import os
import subprocess
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


@background.task(durable=True, name="convert")
def convert():
    subprocess.run(["sh", "-c", "(sleep 0.5; exit 3) & exit 0"])
    return subprocess.run(["sh", "-c", "exit 5"]).returncode
"""

PERIODIC = """

@background.periodic(seconds=0.2)
def poll():
    with open({log!r}, "a") as log:
        log.write(f"begin {{time.monotonic()}}\\n")
    time.sleep(0.7)
    with open({log!r}, "a") as log:
        log.write(f"end {{time.monotonic()}}\\n")
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

    def start(*options: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flask", "--app", "shop", "background", "worker", *options]
        environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, start_new_session=True, **more
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
    assert time.monotonic() - began < 4 + slack()  # the net is 5 s
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_grace_period(background: Background, worker: Start, number: signal.Signals) -> None:
    """Running items are waited for, queued ones are left, and one that ends itself is not charged."""
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
    """A burst ends when there is nothing left to run, and not before; it does not wait for paused items."""
    task = background.task(durable=True, name="work")(lambda seconds: None)
    items = [task.enqueue(0.05) for _ in range(40)]
    paused = background.task(durable=True, name="polite")(lambda: None)
    background.monitor.pause("task", "polite")
    waits = paused.enqueue()
    assert worker("--burst", "--executor", "thread").wait(30) == 0
    assert {item.status for item in items} == {Status.SUCCEEDED}
    assert waits.status is Status.QUEUED


def test_burst_after_a_crash(background: Background, worker: Start) -> None:
    """Items that a killed worker has left are run too."""
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
    """A killed worker's items are run again by another one at once, and it is replaced; TERM ends all."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(2)
    parent = worker("--count", "2")
    first = pid_of(item)
    assert first != parent.pid
    os.kill(first, signal.SIGKILL)
    killed_at = time.monotonic()
    second = eventually("another process", lambda: pid_of(item) not in (0, first) and pid_of(item), 10)
    assert time.monotonic() - killed_at < 4 + slack()
    assert item.result(10) == (second, 2)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(10) == 0
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def become_reaper() -> None:
    """Inherit orphans, as the first process of a container does."""
    assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER


def states_of_children(pid: int) -> dict[int, str]:
    """A process's children, with their states: Z is a zombie."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found[int(child)] = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return found


@pytest.mark.parametrize("count", [1, 2])
def test_orphans(background: Background, worker: Start, count: int) -> None:
    """The first process of a container takes no orphan for a worker of its own, and leaves no zombies."""
    task = background.task(durable=True, name="convert")(lambda: None)
    items = [task.enqueue() for _ in range(4)]
    parent = worker("--count", str(count), preexec_fn=become_reaper)
    assert [item.result(30) for item in items] == [5] * 4
    eventually("orphans are gone", lambda: len(states_of_children(parent.pid)) == count, 10)
    time.sleep(1)  # what takes an orphan for a worker would start another one by now
    assert len(states_of_children(parent.pid)) == count
    assert "Z" not in states_of_children(parent.pid).values()
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(10) == 0


def test_parent_is_killed(background: Background, worker: Start) -> None:
    """The workers of a killed parent end as after TERM, with the grace period."""
    item = background.task(durable=True, name="work")(lambda seconds: None).enqueue(2)
    parent = worker("--count", "2")
    pid = pid_of(item)
    workers = list(states_of_children(parent.pid))
    assert pid in workers
    parent.kill()
    parent.wait(10)
    assert item.result(10) == (pid, 1)
    eventually("the workers are gone", lambda: not any(map(alive, workers)), 10)


def test_worker_says_what_it_does(background: Background, worker: Start, tmp_path: Path) -> None:
    """A worker logs its start with its executors, the reason of its stop, and the worker that it replaces."""
    with (tmp_path / "said").open("w+") as said:
        parent = worker("--count", "2", "--executor", "thread", stderr=said)
        started = eventually("two workers", lambda: re.findall(STARTED, text_of(said))[1:], 20)
        assert started
        killed = next(iter(states_of_children(parent.pid)))
        os.kill(killed, signal.SIGKILL)
        eventually("a third worker", lambda: re.findall(STARTED, text_of(said))[2:], 20)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(10) == 0
        assert f"Worker {parent.pid} replaces worker {killed}, which has ended by signal 9\n" in text_of(said)
        assert text_of(said).count("stops: SIGTERM") == 2


STARTED = r"Worker \d+ started: runs items of thread from /.*\n"


def text_of(file: Any) -> str:
    """The content of a file."""
    return Path(file.name).read_text()


def test_burst_with_a_periodic_task(tmp_path: Path, worker: Start) -> None:
    """A burst ends although a task is due again sooner than it ends; no two items of the task overlap."""
    log = tmp_path / "log"
    with (tmp_path / "shop.py").open("a") as code:
        code.write(PERIODIC.format(log=str(log)))
    process = worker()
    eventually("two runs", lambda: log.exists() and log.read_text().count("end") >= 2, 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    words = [line.split()[0] for line in log.read_text().splitlines()]
    assert words == ["begin", "end"] * (len(words) // 2)
    assert worker("--burst").wait(20) == 0


@pytest.mark.parametrize(
    ("configured", "shows"),
    [
        ("", True),
        ("app.logger.setLevel('WARNING')", False),
        ("import logging; logging.basicConfig(level='WARNING')", False),
        ("import logging; logging.basicConfig(level='INFO')", True),
    ],
)
def test_says_what_it_does(
    background: Background, tmp_path: Path, worker: Start, configured: str, shows: bool
) -> None:
    """A worker says what it is, and its log shows each item, unless the app's own set-up says otherwise."""
    with (tmp_path / "shop.py").open("a") as code:
        code.write(f"{configured}\n")
    item = background.task(durable=True, name="work", describe=lambda seconds: "order 7")(
        lambda seconds: None
    ).enqueue(0)
    with (tmp_path / "said").open("wb") as said:
        process = worker("--burst", stderr=said)
        assert process.wait(30) == 0
    text = text_of(said)
    assert re.search(rf"Worker {process.pid} is for the app 'shop': \d+ at a time on", text)
    assert "3 tasks, 0 periodic; grace period 90 s\n" in text
    assert (f"Item {item.id} (work, order 7) succeeded" in text) is shows
