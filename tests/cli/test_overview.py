"""``stats``, ``schedules``, ``processes`` and ``top``."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ..helpers import BOUND, ROOT, Script, Site
from .conftest import said
from .test_fields import documented

Command = Callable[..., Result]


def run_some(flask: Command) -> None:
    """Run an item that succeeds and one that fails, and leave one that waits."""
    assert said(flask("run", "double", "1", "--json"))
    assert said(flask("run", "fail", "--json"))
    assert flask("worker", "--burst").exit_code == 0
    assert said(flask("run", "double", "2", "--json"))


def test_stats(flask: Command) -> None:
    """The numbers by status, and how long the items of each task have waited and run."""
    run_some(flask)
    found = said(flask("stats", "--json"))
    assert found["counts"]["journal"] == {"queued": 1, "succeeded": 1, "failed": 1}
    assert found["period"] == 3600.0
    tasks = {task["name"]: task for task in found["tasks"]}
    assert (tasks["shop.fail"]["ended"], tasks["shop.fail"]["failed"]) == (1, 1)
    assert tasks["shop.fail"]["last_failure"]["error"] == "IndexError: list index out of range"
    assert 0 < tasks["shop.double"]["runs"]["p50"] <= tasks["shop.double"]["runs"]["p95"] < BOUND
    assert tasks["shop.greet"]["runs"] == {"items": 0, "mean": None, "p50": None, "p95": None}
    text = flask("stats", "--period", "2d").output
    assert re.search(r"^succeeded  1$", text, re.M)
    assert re.search(r"^shop\.fail +0 +0 +0 +1 +1 .* ago: IndexError: list index out of range$", text, re.M)


def test_schedules(site: Site, flask: Command) -> None:
    """The periodic tasks, and when they run next."""
    site.background.periodic(seconds=3600, name="shop.tidy")(lambda: None)
    (found,) = said(flask("schedules", "--json"))["schedules"]
    assert found["task"] == "shop.tidy"
    assert found["next_at"].endswith("+00:00")
    assert "shop.tidy" in flask("schedules").output


SERVER = """
import sys
from pathlib import Path
from flask import Flask
from flask_background import Background, current_item
app = Flask("shop")
app.config.update(BACKGROUND_JOURNAL=Path("journal").resolve(), BACKGROUND_RUN_IN_WEB=len(sys.argv) == 1)
background = Background(app)
@background.task(durable=True, describe=lambda: "the book")
def pack():
    import threading
    current_item.report_progress(1, 4, "wrapping")
    threading.Event().wait(60)
if len(sys.argv) == 1:
    with app.app_context():
        pack.enqueue()
        background.start()
        background.enqueue(__import__("time").sleep, 60)
        print("up", flush=True)
        __import__("time").sleep(60)
"""


@pytest.fixture
def shop(script: Callable[..., Script]) -> Path:
    """A process that runs two items, one of them in its memory; the folder of its program."""
    program = script(SERVER)
    program.wait_for("up")
    return Path(f"/proc/{program.process.pid}/cwd").resolve()


def command(folder: Path, *args: str) -> list[str]:
    """A command line, to run in the folder."""
    return [sys.executable, "-m", "flask", "--app", str(folder / "script.py"), "background", *args]


@pytest.mark.process
def test_processes_and_top(shop: Path) -> None:
    """Another process, its items in memory, and the running item are seen; the command is not."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def output(*args: str) -> str:
        line = command(shop, *args)
        return subprocess.run(line, cwd=shop, env=env, capture_output=True, text=True, check=True).stdout

    _, row = output("processes").splitlines()
    assert "0 queued, 1 running" in row
    assert "thread 2/" in row
    (process,) = json.loads(output("processes", "--json"))["processes"]
    assert process.keys() == documented("A process")
    assert {load["name"] for load in process["executors"]} == {"asyncio", "thread"}
    once = output("top", "--once")
    assert "\x1b" not in once
    assert re.search(r"^\w{24}  \w+\.pack  .* ago +25% wrapping  the book$", once, re.M)
    _watch_in_a_terminal(command(shop, "top", "--interval", "0.3"), shop, env)


def _watch_in_a_terminal(line: list[str], folder: Path, env: dict[str, str]) -> None:
    """Look at ``top`` in a terminal, end it by a key and by Ctrl-C, and find the terminal as it was."""
    for end in (b"q", signal.SIGINT):
        ours, its = pty.openpty()
        before = termios.tcgetattr(its)
        process = subprocess.Popen(line, cwd=folder, env=env, stdin=its, stdout=its, stderr=its)
        try:
            seen = _read(ours, lambda seen: seen.count(b"\x1b[H") >= 2)
            if isinstance(end, bytes):
                os.write(ours, end)
            else:
                process.send_signal(end)
            seen += _read(ours, lambda seen: b"\x1b[?1049l" in seen)
            assert process.wait(BOUND) == 0
        finally:
            process.kill()
            process.wait(BOUND)
        assert b"wrapping" in seen
        assert b"Traceback" not in seen
        assert termios.tcgetattr(its) == before
        os.close(ours)
        os.close(its)


def _read(terminal: int, is_enough: Callable[[bytes], bool]) -> bytes:
    """Read what a program writes until it is enough."""
    seen, end = b"", time.monotonic() + BOUND
    while not is_enough(seen):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65_536)
    return seen


def test_top_as_json(flask: Command) -> None:
    """``top --json`` prints what it sees once."""
    run_some(flask)
    found = said(flask("top", "--json"))
    assert [item["task"] for item in found["failed"]] == ["shop.fail"]
    assert found["running"] == []
