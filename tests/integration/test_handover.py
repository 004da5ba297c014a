"""Deploys of a gunicorn with two workers: items in memory that have not started go to the next workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ..helpers import FULL, slack
from .servers import ROOT, alive, eventually

# Of both workers together.
ITEMS = 5_000 if FULL else 300
KINDS = ("gthread", "gevent", "sync") if FULL else ("gthread",)

APP = """
import logging
import os
import time
from pathlib import Path
from flask import Flask
from flask_background import Background

folder = Path({folder!r})
logging.basicConfig(format="%(asctime)s.%(msecs)03d %(process)d %(message)s", datefmt="%H:%M:%S")
app = Flask("shop", instance_path=str(folder / "instance"))
app.config["BACKGROUND_WORKERS"] = 1
background = Background(app)
is_filled = False


@background.task(name="shop.save")
def save(number):
    with open(folder / "runs", "a") as runs:
        runs.write(f"{{number}} {{os.getpid()}}\\n")


def hold():
    while not (folder / "go").exists():
        time.sleep(0.02)


@app.get("/fill/<int:start>/<int:count>")
def fill(start, count):
    global is_filled
    filled, is_filled = is_filled, True
    if filled:
        return {{"pid": os.getpid(), "ids": []}}
    background.enqueue(hold)  # the only thread; other processes could not find this function
    calls = [save.call(number) for number in range(start, start + count)]
    return {{"pid": os.getpid(), "ids": [item.id for item in background.enqueue_many(calls)]}}


@app.get("/status/<item_id>")
def status(item_id):
    item = background.get(item_id)
    return {{"pid": os.getpid(), "status": item and item.status}}
"""


class Shop:
    """A gunicorn that can be stopped and started again, and what its items did."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self._kind = kind
        (folder / "shop.py").write_text(APP.format(folder=str(folder)))
        self.log_file = folder / "log"
        self.server: subprocess.Popen[bytes]
        self.pids: set[int] = set()

    @property
    def log(self) -> str:
        """The output of all servers so far."""
        return self.log_file.read_text()

    def start(self, graceful: int) -> None:
        """Start gunicorn, which may kill a worker after so many seconds, and wait until it listens."""
        self.log_file.touch()
        seen = self.log.count("Listening at")
        with self.log_file.open("ab") as log:
            self.server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "-w", "2", "-k", self._kind),
                    *(() if self._kind == "sync" else ("--threads", "2")),
                    *("--graceful-timeout", str(graceful), "shop:app"),
                ],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}", "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually("it listens", lambda: self.log.count("Listening at") > seen)

    def get(self, path: str) -> dict[str, object]:
        """Ask the app."""
        url = re.findall(r"Listening at: (http://[\d.:]+)", self.log)[-1]
        with urllib.request.urlopen(url + path, timeout=20) as response:
            answer: dict[str, object] = json.load(response)
        return answer

    def fill(self, start: int) -> list[str]:
        """Queue half of the items in each worker, behind one that does not end; return all ids."""
        (self.folder / "go").unlink(missing_ok=True)
        filled: dict[object, object] = {}
        ids: list[str] = []

        def fill_another() -> bool:
            answer = self.get(f"/fill/{start + len(ids)}/{ITEMS // 2}")
            found = answer["ids"]
            assert isinstance(found, list)
            if found:
                filled[answer["pid"]] = True
                ids.extend(found)
            return len(filled) == 2

        eventually("both workers are filled", fill_another)
        self.pids |= {int(str(pid)) for pid in filled}
        return ids

    def runs(self) -> Counter[int]:
        """How often each item has run."""
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(int(line.split()[0]) for line in lines)

    def took(self, pid: int) -> float:
        """How long a worker has handed over, in seconds, after it had named its other item as interrupted."""
        began, ended = (
            datetime.strptime(found, "%H:%M:%S.%f")
            for pattern in ("Item .* interrupted", "Stopping: .* handed over")
            for found in re.findall(rf"^(\S+) {pid} {pattern}", self.log, re.MULTILINE)[:1]
        )
        return (ended - began).total_seconds()


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The server, stopped with its workers when the test is over."""
    shop = Shop(tmp_path, request.param)
    yield shop
    (tmp_path / "go").touch()
    if shop.server.poll() is None:
        shop.server.terminate()
        shop.server.wait(20)
    for pid in shop.pids:
        eventually(f"worker {pid} ends", lambda pid=pid: not alive(pid))  # type: ignore[misc]


def test_reload_and_restart(shop: Shop) -> None:
    """HUP, and then TERM and a new start: every item that was queued in memory runs once, under its id.

    The app has no durable task and no journal, and its workers of after the HUP get no request: they started
    before the old ones made one.
    """
    shop.start(3)
    ids = shop.fill(0)
    assert not (shop.folder / "instance").exists()
    first = set(shop.pids)
    shop.server.send_signal(signal.SIGHUP)
    eventually(f"all have run\n{shop.log}", lambda: len(shop.runs()) == ITEMS, 60)
    assert shop.runs() == Counter(range(ITEMS))
    assert all(alive(pid) for pid in first)  # after HUP nobody kills them: their other items go on
    (shop.folder / "go").touch()
    for pid in first:
        eventually(f"worker {pid} ends", lambda pid=pid: not alive(pid))  # type: ignore[misc]
    assert {shop.get(f"/status/{item_id}")["status"] for item_id in (ids[0], ids[-1])} == {"succeeded"}

    shop.fill(ITEMS)
    second = shop.pids - first
    shop.server.send_signal(signal.SIGTERM)
    shop.server.wait(20)
    assert len(shop.runs()) == ITEMS
    shop.start(3)
    eventually(f"all have run\n{shop.log}", lambda: len(shop.runs()) == 2 * ITEMS, 60)
    assert shop.runs() == Counter(range(2 * ITEMS))

    log = shop.log
    for pid in shop.pids:
        assert re.search(rf" {pid} Stopping: {ITEMS // 2} items that had not started handed over", log), log
    # gunicorn may end a worker just before its last line.
    assert re.search(rf"Stopped after .* s: {ITEMS // 2} items handed over, 0 run again, 0 lost", log)
    took = {pid: shop.took(pid) for pid in shop.pids}
    # The host kills one second after the record.
    assert all(took[pid] < 0.9 + slack() for pid in second), took


def test_second_signal(shop: Shop) -> None:
    """A second signal ends the wait long before its time, and the items are handed over all the same."""
    shop.start(30)
    shop.fill(0)
    shop.server.send_signal(signal.SIGTERM)
    eventually("both workers stop", lambda: shop.log.count("Stopping: waiting up to 29 s") == 2)
    time.sleep(0.3)  # less than that might be one press of Ctrl-C
    shop.server.send_signal(signal.SIGINT)
    shop.server.wait(20)
    assert shop.log.count(f"Stopping: {ITEMS // 2} items that had not started handed over") == 2, shop.log
    (shop.folder / "go").touch()
    shop.start(30)
    eventually(f"all have run\n{shop.log}", lambda: len(shop.runs()) == ITEMS, 60)
    assert shop.runs() == Counter(range(ITEMS))
