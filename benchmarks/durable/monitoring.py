"""The time of each method of ``Background.monitor``: ``python -m benchmarks.durable.monitoring``.

The journal has a million ended items of 20 tasks, one of a hundred failed, 100,000 that wait, and the
tally of two days. Nothing else runs. The table has the time of each question in milliseconds: of the first
time, and of the times after that, as a page that refreshes itself asks; and the processor's time,
which is of more use on a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from flask import Flask

from flask_background import Background, Status
from flask_background.app_state import state_of
from flask_background.durable.journal import queries, statements, tally
from flask_background.durable.journal.row import ItemRow
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import ItemQuery

from ..table import render

_HEADINGS = ("question", "first, ms", "then: median", "worst", "CPU: first", "median", "goal")
# What a refresh may take, and what a search and a count may, in milliseconds.
_GOAL, _SEARCH = 20.0, 60.0
_ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
_TASKS = 20
_DAY = 86_400.0
_CHUNK = 10_000
_ERROR = json.dumps({"type": "builtins.ValueError", "message": "no such order", "trace": "Traceback\n" * 20})


def _work() -> None:
    pass


def _make_app(folder: Path) -> tuple[Flask, Background]:
    app = Flask("shop")
    app.logger.getChild("background").disabled = True
    # Nothing runs, is pruned or is parked while questions are asked.
    app.config.update(BACKGROUND_JOURNAL=folder, BACKGROUND_RUN_IN_WEB=False, BACKGROUND_KEEP=30 * _DAY)
    background = Background(app)
    for number in range(_TASKS):
        background.task(durable=True, name=f"shop.work{number}")(_work)
    background.task(name="shop.memory")(_work)
    background.periodic(seconds=3_600, name="shop.tick")(_work)
    return app, background


def _fill(app: Flask, background: Background, folder: Path, ended: int, waiting: int) -> None:
    """Fill the journal as such items would have."""
    with app.app_context():
        first = background.task(durable=True, name="shop.first")(_work).enqueue()
        row = state_of(app).durable.session.writer.read(lambda db: queries.get(db, first.id))
        assert row is not None
        background.stop(0)
    db = sqlite3.connect(folder / "journal.sqlite3", isolation_level=None)
    db.execute("pragma synchronous = off")
    now = time.time()
    for start in range(0, ended + waiting, _CHUNK):
        rows = [
            _row(row, number, now - 2 * _DAY * (1 - number / (ended + waiting)), is_ended=number < ended)
            for number in range(start, min(start + _CHUNK, ended + waiting))
        ]
        db.execute("begin immediate")
        statements.insert_all(db, rows)
        db.execute("commit")
    # Rows that are entered as ended have passed no trigger.
    db.execute("delete from ended")
    db.execute(
        "insert into ended select task, status, count(*) from item where finished is not null group by 1, 2"
    )
    minute = int(now // 60)
    db.execute("begin immediate")
    for back in range(tally.KEPT_MINUTES):
        step = 1 if back < 15 else tally.STEP if back < 200 else tally.COARSE_STEP
        if (minute - back) % step == 0:
            tally.add(db, _tally(minute - back))
    db.execute("commit")
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


def _row(row: ItemRow, number: int, enqueued: float, *, is_ended: bool) -> ItemRow:
    plain = row._replace(
        id=f"{int(enqueued * 16) & 0xFFFF_FFFF:08x}{random.getrandbits(64):016x}",
        task=f"shop.work{number % _TASKS}",
        description=f"order {number}",
        enqueued=enqueued,
        due=enqueued,
        status=Status.QUEUED,
        owner=None,
        fence=0,
    )
    if not is_ended:
        return plain
    times = {"attempt": 1, "fence": 1, "started": enqueued + 0.1, "finished": enqueued + 0.3}
    if random.random() < 0.01:
        return plain._replace(status=Status.FAILED, error=_ERROR, **times)
    return plain._replace(status=Status.SUCCEEDED, result="null", **times)


def _tally(minute: int) -> Iterator[tally.TallyRow]:
    """Rows of a minute in which items of each task waited and ran for ten different times."""
    for number in range(_TASKS):
        for bucket in range(10):
            for status in ("succeeded", "failed")[: 1 + (bucket == 0)]:
                yield tally.TallyRow(
                    minute, f"shop.work{number}", status, bucket % 4, bucket // 3, 5, 0.5, 0.2
                )


def _questions(monitor: Monitor) -> dict[str, tuple[Callable[[], object], float]]:
    """The questions of pages, and the time that each may take."""
    second = monitor.items(limit=50).next
    an_id = monitor.items(ItemQuery(status=Status.FAILED), limit=1).items[0].id
    now = datetime.now(UTC)

    def items(**query: object) -> Callable[[], object]:
        return lambda: monitor.items(ItemQuery(**query))  # type: ignore[arg-type]

    def count(**query: object) -> Callable[[], object]:
        return lambda: monitor.count(ItemQuery(**query))  # type: ignore[arg-type]

    a_day_ago = now - timedelta(days=1)
    yesterday = {"since": now - timedelta(hours=25), "until": now - timedelta(hours=24)}
    return {
        "items()": (items(), _GOAL),
        "items(after=...)": (lambda: monitor.items(after=second), _GOAL),
        "items(status=failed)": (items(status=Status.FAILED), _GOAL),
        "items(status=running): none": (items(status=Status.RUNNING), _GOAL),
        "items(task=...)": (items(task="shop.work3"), _GOAL),
        "items(task=shop.*, status=failed)": (items(task="shop.*", status=Status.FAILED), _GOAL),
        "items(an hour of yesterday)": (items(**yesterday), _GOAL),
        "items(an hour of yesterday, failed)": (items(status=Status.FAILED, **yesterday), _GOAL),
        "items(executor=thread)": (items(executor="thread"), _GOAL),
        "items(key=...): none": (items(key="none"), _SEARCH),
        "items(text=...): an early one": (items(text="order 10"), _SEARCH),
        "items(text=...): none": (items(text="nowhere"), _SEARCH),
        "items(text=..., status=failed)": (items(text="no such", status=Status.FAILED), _GOAL),
        "get()": (lambda: monitor.get(an_id), _GOAL),
        "count()": (monitor.count, _GOAL),
        "count(status=failed)": (count(status=Status.FAILED), _GOAL),
        "count(task=...)": (count(task="shop.work3"), _GOAL),
        "count(text=...)": (count(text="nowhere"), _SEARCH),
        "count(executor=thread)": (count(executor="thread"), _SEARCH),
        "count(until a day ago)": (count(until=a_day_ago), _SEARCH),
        "count(an hour of yesterday)": (count(**yesterday), _GOAL),
        "count(an hour of yesterday, failed)": (count(status=Status.FAILED, **yesterday), _GOAL),
        "count(ended a day ago), as purge": (
            lambda: monitor.count([ItemQuery(status=status, ended_before=a_day_ago) for status in _ENDED]),
            _SEARCH,
        ),
        "count(ended a day ago, failed)": (count(status=Status.FAILED, ended_before=a_day_ago), _SEARCH),
        "items(ended a day ago)": (items(ended_before=a_day_ago), _GOAL),
        "counts()": (monitor.counts, _GOAL),
        "tally(an hour)": (lambda: monitor.tally(now - timedelta(hours=1), now), _GOAL),
        "tally(3 hours, by 5 minutes)": (
            lambda: monitor.tally(now - timedelta(hours=3), now, timedelta(minutes=5)),
            _GOAL,
        ),
        "tally(a day, by hour)": (
            lambda: monitor.tally(now - timedelta(days=1), now, timedelta(hours=1)),
            _GOAL,
        ),
        "tasks()": (monitor.tasks, _GOAL),
        "schedules()": (monitor.schedules, _GOAL),
        "processes()": (monitor.processes, _GOAL),
        "pauses()": (monitor.pauses, _GOAL),
    }


class _Table:
    def __init__(self, monitor: Monitor, seconds: float) -> None:
        self._monitor = monitor
        self._seconds = seconds

    def lines(self) -> Iterator[tuple[str, ...]]:
        """The cells of each."""
        for question, (ask, goal) in _questions(self._monitor).items():
            times, cpu = [], []
            end = time.monotonic() + self._seconds
            while len(times) < 4 or time.monotonic() < end:
                began, cpu_began = time.perf_counter(), time.thread_time()
                ask()
                times.append((time.perf_counter() - began) * 1e3)
                cpu.append((time.thread_time() - cpu_began) * 1e3)
            first, *then = times
            yield (
                question,
                f"{first:.1f}",
                f"{median(then):.2f}",
                f"{max(then):.1f}",
                f"{cpu[0]:.1f}",
                f"{median(cpu[1:]):.2f}",
                f"{goal:g}" + ("" if median(then) <= goal else " NO"),
            )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable.monitoring")
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each question")
    parser.add_argument("--folder", type=Path, help="where the journal is kept for the next measurement")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        place = given.folder or Path(folder)
        if not (place / "journal.sqlite3").exists():
            _fill(*_make_app(place), place, given.ended, given.waiting)
        app, background = _make_app(place)
        with app.app_context():
            background.start()
            print(render([_Table(background.monitor, given.seconds)], _HEADINGS))
            background.stop(0)


if __name__ == "__main__":
    main()
