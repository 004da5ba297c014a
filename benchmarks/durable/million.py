"""How long a view waits for a journal with a million items: ``python -m benchmarks.durable.million``.

Each scenario fills a journal with rows of one kind, once few and once many. Then a process opens that
journal, runs items and does its upkeep, while two threads ask what views ask. The table has the median and
the worst wait of each question in milliseconds, and the ratio of the medians, many rows to few.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask

from flask_background import Background, Status
from flask_background.app_state import state_of
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal.row import ItemRow

from ..table import render

_HEADINGS = ("journal", "question", "few: median", "worst", "many: median", "worst", "ratio")
# What a view may wait, in milliseconds.
_GOAL = 50.0
_DAY = 86_400.0
_KEEP = 7 * _DAY
_CHUNK = 10_000


def _waiting(row: ItemRow, number: int, now: float) -> ItemRow:
    """All wait, and this process runs them."""
    return row


def _delayed(row: ItemRow, number: int, now: float) -> ItemRow:
    """All are due in a week."""
    return row._replace(due=now + 7 * _DAY)


def _unknown(row: ItemRow, number: int, now: float) -> ItemRow:
    """All wait for a task that no process has."""
    return row._replace(task="gone.task")


def _ended(row: ItemRow, number: int, now: float) -> ItemRow:
    """All have ended, one of a thousand badly; the oldest of them are pruned meanwhile."""
    finished = now - 2 * _KEEP * random.random()
    if number % 1_000 == 0:
        return row._replace(status=Status.FAILED, attempt=1, finished=finished, reason="a reason", fence=1)
    return row._replace(status=Status.SUCCEEDED, attempt=1, finished=finished, result="null", fence=1)


def _purged(row: ItemRow, number: int, now: float) -> ItemRow:
    """All have ended just now, and another process purges them meanwhile."""
    return _ended(row, number, now)._replace(finished=now)


_SCENARIOS: dict[str, Callable[[ItemRow, int, float], ItemRow]] = {
    "waiting": _waiting,
    "delayed": _delayed,
    "unknown": _unknown,
    "ended": _ended,
    "purged": _purged,
}


class _Shop:
    """An app whose views ask."""

    def __init__(self, folder: Path, runs: bool = True) -> None:
        self.folder = folder
        self.app = Flask("shop")
        self.app.logger.getChild("background").disabled = True
        self.app.config.update(
            BACKGROUND_JOURNAL=folder,
            BACKGROUND_RUN_IN_WEB=runs,
            BACKGROUND_KEEP=_KEEP,
            BACKGROUND_GRACE_PERIOD=5,
        )
        self.background = Background(self.app)
        self.work = self.background.task(durable=True, name="shop.work")(_work)
        self.rare = self.background.task(durable=True, name="shop.rare")(_work)

    def fill(self, kind: Callable[[ItemRow, int, float], ItemRow], count: int) -> None:
        """Fill the journal with rows of a kind, and close it."""
        first = self.work.enqueue()
        found = queries.get
        row = state_of(self.app).durable.session.writer.read(lambda db: found(db, first.id))
        assert row is not None
        first.wait(5)
        self.background.stop(0)
        now = time.time()
        db = sqlite3.connect(self.folder / "journal.sqlite3", isolation_level=None)
        db.execute("pragma synchronous = off")
        for start in range(0, count, _CHUNK):
            rows = []
            for number in range(start, min(start + _CHUNK, count)):
                enqueued = now - _DAY + _DAY * number / count
                item_id = f"{int(enqueued * 16) & 0xFFFF_FFFF:08x}{random.getrandbits(64):016x}"
                plain = row._replace(
                    id=item_id, enqueued=enqueued, due=enqueued, status=Status.QUEUED, owner=None, fence=0,
                    attempt=0, started=None, finished=None, result=None,
                )  # fmt: skip
                rows.append(kind(plain, number, now))
            db.execute("begin immediate")
            statements.insert_all(db, rows)
            db.execute("commit")
        db.execute("pragma wal_checkpoint(truncate)")
        db.close()


def _work() -> None:
    time.sleep(0.01)


def _questions(shop: _Shop) -> dict[str, Callable[[], object]]:
    """What a view asks and does."""
    background, work, rare = shop.background, shop.work, shop.rare
    with sqlite3.connect(shop.folder / "journal.sqlite3") as db:
        ids = [found for (found,) in db.execute("select id from item order by number desc limit 1000")]
    db.close()
    handles = [handle for item_id in ids[:50] if (handle := background.get(item_id)) is not None]

    def cancel() -> object:
        return rare.using(delay=3_600).enqueue().cancel()

    return {
        "get": lambda: background.get(random.choice(ids)),
        "status, wait(0)": lambda: random.choice(handles).wait(0),
        "items()": background.items,
        "items(status=failed)": lambda: background.items(status=Status.FAILED),
        "items(status=running)": lambda: background.items(status=Status.RUNNING),
        "items(task=rare)": lambda: background.items(task="shop.rare"),
        "items(both)": lambda: background.items(task="shop.rare", status=Status.SUCCEEDED),
        "stats": background.stats,
        "enqueue": work.enqueue,
        "enqueue with a key": work.using(key="only").enqueue,
        "enqueue and cancel": cancel,
    }


def _measure(folder: Path, name: str, seconds: float) -> dict[str, list[float]]:
    """The waits of each question, in milliseconds."""
    shop = _Shop(folder)
    shop.work.enqueue()
    questions = _questions(shop)
    times: dict[str, list[float]] = {question: [] for question in questions}
    purge = None
    if name == "purged":
        purge = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--purge", str(folder)], stdout=subprocess.DEVNULL
        )
    end = time.monotonic() + seconds

    def ask_again_and_again(about_lists: bool) -> None:
        asked = {name: ask for name, ask in questions.items() if name.startswith("items") is about_lists}
        while time.monotonic() < end:
            for question, ask in asked.items():
                began = time.perf_counter()
                try:
                    ask()
                except Exception as error:
                    print(f"{name}: {question}: {error}", file=sys.stderr)
                times[question].append((time.perf_counter() - began) * 1e3)
            time.sleep(0.05 if about_lists else 0.01)

    lists = threading.Thread(target=ask_again_and_again, args=(True,))
    lists.start()
    ask_again_and_again(False)
    lists.join()
    if purge is not None:
        purge.wait(600)
    shop.background.stop(0)
    return times


def _lines(names: list[str], rows: int, seconds: float) -> Iterator[tuple[str, ...]]:
    for name in names:
        figures: list[dict[str, list[float]]] = []
        for count in (1_000, rows):
            with TemporaryDirectory(prefix="benchmarks-") as folder:
                _run("--fill", folder, name, count)
                out = _run("--measure", folder, name, seconds)
                figures.append({})
                for line in out.splitlines():
                    question, *samples = line.split("\t")
                    figures[-1][question] = list(map(float, samples))
        few, many = figures
        for question in few:
            one, other = few[question], many[question]
            yield (
                name,
                question,
                f"{median(one):.2f}",
                f"{max(one):.1f}",
                f"{median(other):.2f}",
                f"{max(other):.1f}" + (" NO" if max(other) > _GOAL else ""),
                f"{median(other) / median(one):.1f}",
            )


def _run(*arguments: object) -> str:
    """Run a part of this program in a process of its own, whose journal is opened anew."""
    command = [sys.executable, "-m", __spec__.name, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class _Table:
    def __init__(self, rows: list[tuple[str, ...]]) -> None:
        self._rows = rows

    def lines(self) -> Iterator[tuple[str, ...]]:
        """The cells of each."""
        yield from self._rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable.million")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", choices=_SCENARIOS, nargs="*", default=list(_SCENARIOS))
    parser.add_argument("--fill", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--purge", help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.fill:
        folder, name, count = given.fill
        _Shop(Path(folder), runs=True).fill(_SCENARIOS[name], int(count))
    elif given.measure:
        folder, name, seconds = given.measure
        for question, samples in _measure(Path(folder), name, float(seconds)).items():
            print(question, *samples, sep="\t")
    elif given.purge:
        time.sleep(1)
        shop = _Shop(Path(given.purge), runs=False)
        shop.app.test_cli_runner().invoke(args=["background", "purge", "--yes"])
    else:
        rows = list(_lines(given.only, given.rows, given.seconds))
        print(render([_Table(rows)], _HEADINGS))


if __name__ == "__main__":
    main()
