"""Of many items none is lost, and none runs beside itself, whatever is killed or stopped meanwhile.

``make faults`` runs these tests at their full size, and prints how long items of dead workers have waited.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import pytest
from flask import Flask

from flask_background import WorkItem

from ..helpers import FULL, until
from ..redis_server import Redis
from . import shop
from .conftest import Worker, on_both

MakeWorker = Callable[..., Worker]

COUNT = 1_000 if FULL else 120
# How long the items of a dead worker may wait until they run again, in seconds: on a busy machine too.
AGAIN = 10.0 if FULL else 20.0

pytestmark = [pytest.mark.timeout(1_200 if FULL else 180), pytest.mark.usefixtures("nothing_queued")]


def check(worker: Worker, items: list[WorkItem[Any]], results: list[int]) -> None:
    """Every item has its result, and none has run beside itself."""
    assert [item.result(300) for item in items] == results
    assert not [line for line in worker.notes if "beside itself" in line]
    ended = Counter(line for line in worker.notes if line.endswith(" ends"))
    assert set(ended) == {f"page {number} ends" for number in results}


@on_both
def test_children_are_killed(app: Flask, make_worker: MakeWorker) -> None:
    """No item is lost when a worker's children are killed at any moment of a run."""
    worker = make_worker("--concurrency", "3")
    worker.wait_until_ready()
    items: list[WorkItem[Any]] = []
    for number in range(COUNT):
        items.append(shop.page.enqueue(number, 0.02))
        if number % 20 == 10:
            time.sleep(random.uniform(0, 0.2))
            with suppress(ProcessLookupError, IndexError):  # the last one's successor is on its way
                os.kill(random.choice(sorted(worker.children)), signal.SIGKILL)
    check(worker, items, list(range(COUNT)))


@on_both
def test_workers_are_killed(
    app: Flask, make_worker: MakeWorker, record_property: Callable[[str, object], None]
) -> None:
    """Items of workers that are killed whole run again within ten seconds."""
    workers = [make_worker("--hostname", f"w{number}") for number in range(2)]
    items = [shop.page.enqueue(number, 0.4) for number in range(COUNT)]
    killed_at: dict[int, float] = {}
    for number in range(12 if FULL else 2):
        until(lambda number=number: f"w{number + 1} ready." in workers[0].log, 120)  # type: ignore[misc]
        time.sleep(random.uniform(0, 1))
        victim = workers.pop(0)
        killed_at[victim.process.pid] = time.monotonic()
        victim.kill()
        workers.append(make_worker("--hostname", f"w{number + 2}"))
    check(workers[0], items, list(range(COUNT)))
    waited = waits(workers[0].notes, killed_at)
    assert waited
    print(f"dead workers' items ran again after {median(waited):.1f} s, at worst {max(waited):.1f} s")  # noqa: T201
    record_property("again after, s", sorted(waited))
    assert max(waited) < AGAIN


def waits(notes: list[str], killed_at: dict[int, float]) -> list[float]:
    """The seconds between the death of a worker and the next run of each of its items."""
    waited, begun = [], {}
    for line in notes:
        if match := re.fullmatch(r"page (\d+) begins in \d+ of (\d+) at ([\d.]+)", line):
            number, parent, at = match[1], int(match[2]), float(match[3])
            if number in begun and begun[number] in killed_at:
                waited.append(at - killed_at[begun[number]])
            begun[number] = parent
        elif match := re.fullmatch(r"page (\d+) ends", line):
            begun.pop(match[1], None)
    return waited


def test_redis_is_stopped(app: Flask, make_worker: MakeWorker, redis: Redis) -> None:
    """No item is lost when Redis is stopped as it hands messages out, and started again."""
    worker = make_worker("--concurrency", "3")
    worker.wait_until_ready()
    items = [shop.page.enqueue(number, 0.01) for number in range(COUNT)]
    try:
        for _ in range(6 if FULL else 2):
            time.sleep(random.uniform(0.1, 0.5))
            redis.stop()
            time.sleep(random.uniform(0, 2))
            redis.start()
            if worker.process.poll() is not None:  # as a process manager does
                worker = make_worker("--concurrency", "3")
    finally:
        if redis.process.poll() is not None:
            redis.start()

    def keep_one() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:
            worker = make_worker("--concurrency", "3")
        return all(item.wait(0.2) for item in items)

    until(keep_one, 300)
    check(worker, items, list(range(COUNT)))
