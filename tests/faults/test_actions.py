"""Pauses, bulk retries and bulk cancels while four processes run items, and are killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import ItemQuery

from ..helpers import FULL, slack, until
from ..integration.servers import ROOT, Server, alive, gunicorn
from .conftest import TIMEOUT, Tell
from .crowd import create_app
from .record import Mark, Record, marks

#: After a pause has returned, the last run of a paused task has begun within so many seconds: a thread that
#: was about to begin may have to wait for its turn.
BOUND = 0.1

_SECONDS = 600.0 if FULL else 4.0
_SETTINGS = {"durability": "process", "workers": 4}


class Row(NamedTuple):
    """An item in the journal, at the end."""

    id: str
    task: str
    status: str
    finished: float | None
    reason: str | None


@dataclass(slots=True)
class Story:
    """What was done, by ``time.monotonic()``."""

    pauses: list[tuple[float, float]] = field(default_factory=list)
    kills: int = 0
    retried: int = 0
    cancelled: int = 0


class Crowd:
    """A gunicorn with two workers, two processes of the command ``worker``, and what they do."""

    def __init__(self, server: Server, folder: Path, monitor: Monitor) -> None:
        self._server, self._folder, self.monitor = server, folder, monitor
        self._record = Record(server.record)
        self._workers = [self._start(), self._start()]
        self._chance = random.Random(7)
        self._calm = threading.Event()
        self._client = threading.Thread(target=self._enqueue)
        self._client.start()
        self.story = Story()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flask", "--app", "tests.faults.crowd:create_app", "background"]
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "worker"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _enqueue(self) -> None:
        """Be a client that enqueues items again and again, and notes those that were accepted."""
        while not self._calm.wait(0.05):
            for item_id in self._server.try_get("/enqueue").get("ids", ()):
                self._record.mark("ack", item_id)

    def act(self) -> None:
        """Pause and resume, retry, cancel, and kill, each once."""
        story, monitor = self.story, self.monitor
        monitor.pause("task", "paused")
        began = time.monotonic()
        self._kill()
        story.retried += monitor.retry(ItemQuery(task="flaky"))
        story.cancelled += monitor.cancel(ItemQuery(task="cancelled", status=Status.QUEUED))
        time.sleep(self._chance.uniform(0, 0.3))
        story.pauses.append((began, time.monotonic()))
        monitor.resume("task", "paused")
        time.sleep(self._chance.uniform(0, 0.2))

    def _kill(self) -> None:
        pids = [process.pid for process in self.monitor.processes(0.0) if not process.is_this]
        if not pids:
            return
        victim = self._chance.choice(pids)
        self._record.mark("kill", "-", victim)
        os.kill(victim, signal.SIGKILL)
        self.story.kills += 1
        for number, worker in enumerate(self._workers):
            if worker.pid == victim:
                worker.wait()
                self._workers[number] = self._start()

    def calm(self) -> None:
        """Enqueue and kill no more, and wait until every item has ended, those that failed after retries."""
        self._calm.set()
        self._client.join()

        def look() -> bool:
            self.story.retried += self.monitor.retry(ItemQuery(status=Status.FAILED))
            left = {row.status for row in self.rows()} - {"succeeded", "cancelled"}
            return not left

        until(look, 60)

    def rows(self) -> list[Row]:
        """All items in the journal."""
        path = self._folder / "journal" / "journal.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found = db.execute("select id, task, status, finished, reason from item").fetchall()
        return [Row._make(row) for row in found]

    def marks(self) -> list[Mark]:
        """The record so far."""
        return sorted(marks(self._server.record.read_bytes()), key=lambda mark: mark.at)

    def close(self) -> None:
        """End the processes."""
        self._calm.set()
        self._client.join()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(30)
        self._record.close()


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """Four processes that run items; this process only acts."""
    with _crowd(tmp_path, monkeypatch) as crowd:
        yield crowd


@contextmanager
def _crowd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    settings = {"journal": str(folder / "journal"), **_SETTINGS}
    for name, value in (*settings.items(), ("record", folder / "record")):
        key = "RECORD" if name == "record" else f"FLASK_BACKGROUND_{name.upper()}"
        monkeypatch.setenv(key, str(value))
    with ExitStack() as stack:
        server = stack.enter_context(
            gunicorn(
                folder, "-k", "gthread", "--workers", "2", app="tests.faults.crowd:create_app()", **settings
            )
        )
        app = create_app()
        app.config["BACKGROUND_RUN_IN_WEB"] = False
        state_of(app).runs_durable = False
        with app.app_context():
            monitor: Monitor = app.extensions["background"].monitor
            crowd = Crowd(server, folder, monitor)
            stack.callback(crowd.close)
            yield crowd
            app.extensions["background"].stop(0)


@pytest.mark.timeout(TIMEOUT)
def test_actions_under_kills(crowd: Crowd, tell: Tell) -> None:
    """Nothing is lost, nothing runs twice at once, and no run of a paused task begins."""
    until(lambda: len(crowd.monitor.processes(0.0)) == 5)
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        crowd.act()
    crowd.calm()
    recorded, rows, story = crowd.marks(), {row.id: row for row in crowd.rows()}, crowd.story
    kills = {mark.who: mark.at for mark in recorded if mark.kind == "kill"}
    acknowledged = {mark.what for mark in recorded if mark.kind == "ack"}
    runs = _runs_of(recorded)

    lost = [item for item in acknowledged if item not in rows]
    assert lost == []
    ended = {item for item, its in runs.items() if any(stop is not None for _, stop, _ in its)}
    assert {row.id for row in rows.values() if row.status == "succeeded"} <= ended
    assert {row.task for row in rows.values() if row.status == "cancelled"} <= {"cancelled"}

    for item, its in runs.items():
        for (_, stop, who), (begin, _, _) in pairwise(its):
            over = min(stop or float("inf"), kills.get(who, float("inf")))
            assert begin >= over, f"{rows[item]} ran twice at once: {its}, {kills}"
            if rows[item].task != "flaky":  # which is run again because it was retried
                assert who in kills, f"{rows[item]} ran again though nothing was killed: {its}"

    late = [
        begin - paused
        for item, its in runs.items()
        if rows[item].task == "paused"
        for begin, _, _ in its
        for paused, resumed in story.pauses
        if paused < begin < resumed
    ]
    tell(
        f"{len(rows)} items, {sum(map(len, runs.values()))} runs, {story.kills} kills, {len(story.pauses)}"
        f" pauses, {story.retried} retried, {story.cancelled} cancelled; runs that began in a pause:"
        f" {len(late)}, the last {1000 * max(late, default=0.0):.1f} ms after pause() had returned"
    )
    assert max(late, default=0.0) < BOUND + slack()
    assert story.kills
    assert story.retried
    assert story.cancelled
    assert len(runs) > 50
    assert all(alive(worker.pid) for worker in crowd._workers)


def _runs_of(recorded: list[Mark]) -> dict[str, list[tuple[float, float | None, int]]]:
    """The runs of each item: when each began, when it ended, and in which process."""
    runs: defaultdict[str, list[tuple[float, float | None, int]]] = defaultdict(list)
    for mark in recorded:
        if mark.kind == "begin":
            runs[mark.what].append((mark.at, None, mark.who))
        elif mark.kind == "end":
            for number, (begin, stop, who) in enumerate(runs[mark.what]):
                if who == mark.who and stop is None:
                    runs[mark.what][number] = begin, mark.at, who
    return runs
