"""Workers lose their connections while items run, and get the messages again: nothing runs beside itself."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage

from flask_background import Status

from ..helpers import BOUND, until
from ..redis_server import Redis
from . import shop
from .conftest import Broker, Worker, on_both

MakeWorker = Callable[..., Worker]
MakeApp = Callable[..., Flask]

# Redis gives a message out again soon, whether or not Celery hands it back.
SOON = {"broker_transport_options": {"visibility_timeout": 6, "unacked_restore_interval": 0.5}}


@pytest.fixture(autouse=True)
def nothing_queued(broker: Broker, redis: Redis) -> None:
    """What another test has left is no worker's business."""
    redis.forget_all()
    broker.server.forget_all()


def wait_until_received(worker: Worker, item_id: str, count: int) -> None:
    """Wait until the worker has got so many messages of an item."""
    until(lambda: worker.log.count(f"[{item_id}] received") >= count, 60)


def runs(worker: Worker, name: str) -> int:
    """How often an item that holds has begun to."""
    return sum(f"{name} runs in" in line for line in worker.notes)


@on_both
def test_broker_starts_anew(app: Flask, broker: Broker, make_worker: MakeWorker) -> None:
    """An item that runs meanwhile runs on, alone, and its outcome arrives; Redis is missed in one line."""
    worker = make_worker(celery=SOON if isinstance(broker.server, Redis) else {}, kill_after=0.5)
    item = shop.hold.using(max_crashes=1).enqueue("alive")
    worker.wait_for_note("alive runs")
    broker.server.stop()
    until(lambda: "Connection to broker lost" in worker.log)
    if isinstance(broker.server, Redis):  # which has the results, too
        until(lambda: "could not be looked after" in worker.log)
    broker.server.start()
    wait_until_received(worker, item.id, 3)  # at first, again, and after that was put off
    assert runs(worker, "alive") == 1
    assert (item.status, item.attempt) == (Status.RUNNING, 1)
    worker.let_go("alive")
    assert item.result(60) == "alive"
    assert (runs(worker, "alive"), item.attempt) == (1, 1)
    assert worker.log.count("could not be looked after") == isinstance(broker.server, Redis)
    assert shop.echo.enqueue(1).result(60) == 1


def test_connections_are_lost(app: Flask, redis: Redis, make_worker: MakeWorker) -> None:
    """Whichever worker gets the message again leaves the run alone; when that is killed, it runs again."""
    first = make_worker("--hostname", "first", celery=SOON, kill_after=0.5)
    item = shop.hold.enqueue("taken")
    first.wait_for_note("taken runs")
    second = make_worker("--hostname", "second", celery=SOON, kill_after=0.5)
    second.wait_until_ready()
    redis.drop_connections()
    wait_until_received(first, item.id, 3)  # they share a log
    assert runs(first, "taken") == 1
    assert item.attempt == 1
    pid = int(first.notes[0].split()[-1])
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    first.wait_for_note("taken runs", count=2)
    assert time.monotonic() - killed < 15  # 5 until it comes again, 4 without a sign, and for a busy machine
    first.let_go("taken")
    assert item.result(BOUND) == "taken"
    assert item.attempt == 2


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_broker_goes_as_it_gives_out(
    app: Flask, redis: Redis, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """A message that Redis has forgotten, and was not told to keep, is not lost."""
    monkeypatch.setenv("SHOP_HOLDS_MESSAGES", "1")
    worker = make_worker("--pool", pool, kill_after=0.5)
    item = shop.echo.enqueue("kept")
    worker.wait_for_note(f"{item.id} given out")
    redis.stop()
    worker.let_go(item.id)
    until(lambda: "Connection to broker lost" in worker.log)
    redis.start()
    assert item.result(60) == "kept"
    assert item.attempt == 1


def test_broker_goes_with_the_worker(
    app: Flask, redis: Redis, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the worker cannot give back by its end is named."""
    monkeypatch.setenv("SHOP_HOLDS_MESSAGES", "1")
    worker = make_worker(kill_after=0.5)
    item = shop.echo.enqueue("lost")
    worker.wait_for_note(f"{item.id} given out")
    redis.stop()
    try:
        worker.let_go(item.id)
        until(lambda: "Connection to broker lost" in worker.log)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(60)
        assert f"Redis, which is away, has given out and forgotten {item.id}: " in worker.log
    finally:
        redis.start()


def test_store_is_away(make_app: MakeApp, make_worker: MakeWorker, tmp_path: Path) -> None:
    """An item whose upload cannot be read just now is tried again, until it can."""
    store = tmp_path / "store"
    store.mkdir()
    with make_app(uploads=str(store), publish_timeout=BOUND).app_context():
        item = shop.read_and_fail.enqueue(FileStorage(io.BytesIO(b"text"), "a"), 0)
        (file,) = store.iterdir()
        file.rename(tmp_path / "away")
        file.mkdir()  # it cannot be opened, and is not missing
        worker = make_worker(uploads=str(store))
        until(lambda: f"Item {item.id} (tests.celery.shop.read_and_fail) is tried again" in worker.log, 60)
        file.rmdir()
        (tmp_path / "away").rename(file)
        assert item.result(60) == "text"
        assert item.attempt == 1
