"""How long the dashboard's pages take with a million items: ``python -m benchmarks.durable.pages``.

The journal has items of twenty tasks from a week, two in a hundred of them failed, some thousands that
wait, and the counts of two days. The table has the time of each page inside the server's process, in
milliseconds, and of the refreshes that the page's script asks for: the median, and the median of the time
on a CPU, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from flask import Flask
from flask.testing import FlaskClient

from flask_background import Background, Status
from flask_background.app_state import state_of
from flask_background.dashboard import create_dashboard
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal.row import ItemRow

from ..table import render

_HEADINGS = ("page", "median", "CPU", "goal", "refresh: median", "CPU", "goal")
_PAGES = {
    "overview": "/",
    "items": "/items",
    "items, failed": "/items?status=failed",
    "items, one task": "/items?task=shop.task7",
    "items, a pattern": "/items?task=shop.task1*&status=failed",
    "items, a text that is there": "/items?text=smtp",
    "items, a text that is not": "/items?text=nowhere",
    "items, an executor that has none": "/items?executor=other",
    "items, a day": "/items?since={day}&until={next}",
    "item": "/items/{item}",
    "tasks": "/tasks",
    "tasks, 24 hours": "/tasks?period=24h",
    "schedules": "/schedules",
    "processes": "/processes",
    "confirm": "/confirm/retry?status=failed",
    "confirm, a text": "/confirm/delete?text=smtp",
}
_GOAL, _REFRESH_GOAL = 100.0, 20.0
_TASKS = 20
_WEEK = 7 * 86_400.0
_CHUNK = 10_000


def _work() -> None:
    pass


def _make(folder: Path) -> tuple[Flask, Background]:
    app = Flask("shop")
    app.logger.getChild("background").disabled = True
    app.config.update(
        SECRET_KEY="of the benchmark",
        BACKGROUND_JOURNAL=folder,
        BACKGROUND_RUN_IN_WEB=False,
        BACKGROUND_GRACE_PERIOD=5,
        BACKGROUND_KEEP=4 * _WEEK,
    )
    background = Background(app)
    for number in range(_TASKS):
        background.task(durable=True, name=f"shop.task{number}")(_work)
    background.periodic(seconds=3600, name="shop.tidy")(_work)
    app.register_blueprint(create_dashboard(allow=lambda: "admin"), url_prefix="/background")
    return app, background


def _fill(folder: Path, count: int) -> str:
    """Fill the journal; return the id of a failed item."""
    app, background = _make(folder)
    with app.app_context():
        task = background.task(durable=True, name="shop.first")(_work)
        first = task.enqueue()
        row = state_of(app).durable.session.writer.read(lambda db: queries.get(db, first.id))
        background.stop(0)
    assert row is not None
    now, failed = time.time(), ""
    db = sqlite3.connect(folder / "journal.sqlite3", isolation_level=None)
    db.execute("pragma synchronous = off")
    for start in range(0, count, _CHUNK):
        rows = [_row(row, number, count, now) for number in range(start, min(start + _CHUNK, count))]
        failed = next((each.id for each in rows if each.status is Status.FAILED), failed)
        db.execute("begin immediate")
        statements.insert_all(db, rows)
        db.execute("commit")
    db.execute(
        "insert into ended select task, status, count(*) from item where finished is not null group by 1, 2"
    )
    minute = int(now // 60)
    db.execute("begin")
    db.executemany(
        "insert into tally values (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (at, f"shop.task{task}", status, waited, waited // 2, random.randrange(1, 9), 1.0, 1.0)
            for at in range(minute - 2880, minute + 1)
            for task in range(_TASKS)
            for status, buckets in (("succeeded", range(3, 8)), ("failed", range(4, 5)))
            for waited in buckets
        ),
    )
    db.execute("commit")
    db.execute("analyze")
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    return failed


def _row(row: ItemRow, number: int, count: int, now: float) -> ItemRow:
    enqueued = now - _WEEK + _WEEK * number / count
    plain = row._replace(
        id=f"{number:08x}{random.getrandbits(64):016x}",
        task=f"shop.task{number % _TASKS}",
        enqueued=enqueued,
        due=enqueued,
        owner=None,
        fence=1,
        attempt=1,
        description=f"order {number}",
    )
    if number >= count - 3_000:
        return plain._replace(status=Status.QUEUED, attempt=0, fence=0)
    times = {"started": enqueued + 1, "finished": enqueued + 2}
    if number % 50 == 0:
        return plain._replace(status=Status.FAILED, reason=f"smtp {number} refused", **times)
    return plain._replace(status=Status.SUCCEEDED, result="null", **times)


def _time(ask: Callable[[], int], rounds: int) -> tuple[float, float]:
    times, computed = [], []
    for _ in range(rounds + 1):
        begun, cpu = time.perf_counter(), time.process_time()
        status = ask()
        times.append(1000 * (time.perf_counter() - begun))
        computed.append(1000 * (time.process_time() - cpu))
        assert status == 200, status
    return median(times[1:]), median(computed[1:])  # the first one compiles the template


class _Line(NamedTuple):
    """One page in the table."""

    cells: tuple[str, ...]

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Return the only line."""
        yield self.cells


def _measure(client: FlaskClient, path: str, rounds: int) -> tuple[str, ...]:
    live = {"X-Background-Live": "1"}
    page = _time(lambda: client.get(path).status_code, rounds)
    refresh = _time(lambda: client.get(path, headers=live).status_code, rounds)
    cells = []
    for (middle, cpu), goal in ((page, _GOAL), (refresh, _REFRESH_GOAL)):
        cells += [f"{middle:.1f}", f"{cpu:.1f}", "yes" if middle <= goal else "NO"]
    return tuple(cells)


def main() -> None:
    """Fill a journal, ask for all pages, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable.pages")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="keep the journal here, or take one that is here")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "journal"
        known = folder / "item.json"
        if known.exists():
            item = json.loads(known.read_text())
        else:
            item = _fill(folder, options.rows)
            known.write_text(json.dumps(item))
        app, background = _make(folder)
        day = time.time() - 3 * 86_400
        names = {"item": item, "day": _iso(day), "next": _iso(day + 86_400)}
        client = app.test_client()
        lines = [
            _Line((name, *_measure(client, "/background" + path.format(**names), options.rounds)))
            for name, path in _PAGES.items()
        ]
        with app.app_context():
            background.stop(0)
        print(render(lines, _HEADINGS))


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


if __name__ == "__main__":
    main()
