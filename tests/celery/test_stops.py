"""How workers stop: in time, and with nothing lost, whatever their items do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_background import Status

from ..helpers import BOUND, until
from ..redis_server import Redis
from . import shop
from .conftest import Worker, on_both

MakeWorker = Callable[..., Worker]

pytestmark = pytest.mark.usefixtures("nothing_queued")

# The pools where an item runs on a main thread, so that it can be ended.
on_main_thread = pytest.mark.parametrize("pool", ["prefork", "solo"])


@on_both
def test_worker_stops(app: Flask, make_worker: MakeWorker) -> None:
    """TERM fires the tokens at once; running items may end, and queued ones wait for another worker."""
    first = make_worker(flask=True)
    items = [shop.hold.enqueue(name) for name in ("one", "two", "three")]
    first.wait_for_note("one runs")
    first.wait_for_note("two runs")
    first.process.send_signal(signal.SIGTERM)
    first.wait_for_note("one was asked to end: shutdown")
    assert first.process.poll() is None
    for name in ("one", "two"):
        first.let_go(name)
    assert first.process.wait(BOUND) == 0
    assert [item.result(BOUND) for item in items[:2]] == ["one", "two"]
    assert items[2].status is Status.QUEUED
    second = make_worker()
    second.let_go("three")
    assert items[2].result(60) == "three"
    assert items[2].attempt == 1


@on_both
def test_cold_stop(app: Flask, make_worker: MakeWorker) -> None:
    """QUIT ends a running item, which goes back to the queue without a crash on record."""
    first = make_worker()
    item = shop.hold.using(max_crashes=1).enqueue("cut")
    first.wait_for_note("cut runs")
    first.process.send_signal(signal.SIGQUIT)
    assert first.process.wait(BOUND) == 0
    assert (item.status, item.attempt) == (Status.QUEUED, 0)
    second = make_worker()
    second.wait_for_note("cut runs", count=2)
    second.let_go("cut")
    assert item.result(BOUND) == "cut"
    assert item.attempt == 1


@on_main_thread
@on_both
def test_grace_period(app: Flask, make_worker: MakeWorker, pool: str) -> None:
    """An item that outlasts the grace period is named, goes back to the queue, and is not counted."""
    first = make_worker("--pool", pool, grace_period=1)
    item = shop.hold.using(max_crashes=1).enqueue("held")
    first.wait_for_note("held runs")
    first.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    first.wait_for_note("held was asked to end: shutdown")
    assert first.process.wait(BOUND) == 0
    assert 0.9 < time.monotonic() - began < 8  # 1, and what a busy machine needs
    assert (item.status, item.attempt) == (Status.QUEUED, 0)
    assert first.log.count(f"Item {item.id} (tests.celery.shop.hold) interrupted") == 1
    second = make_worker()
    second.wait_for_note("held runs", count=2)
    second.let_go("held")
    assert item.result(BOUND) == "held"
    assert item.attempt == 1


def test_grace_period_of_threads(app: Flask, make_worker: MakeWorker) -> None:
    """In a pool of threads the worker names an item that outlasts the grace period, and waits for it."""
    worker = make_worker("--pool", "threads", grace_period=0.1)
    item = shop.hold.enqueue("held")
    worker.wait_for_note("held runs")
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: f"Item {item.id} goes on beyond the grace period" in worker.log)
    assert worker.process.poll() is None
    worker.let_go("held")
    assert worker.process.wait(BOUND) == 0
    assert item.result(BOUND) == "held"


@on_both
def test_item_that_cannot_be_stopped(app: Flask, make_worker: MakeWorker) -> None:
    """A process that is deep in C, and hears of nothing, holds up no stop."""
    first = make_worker(grace_period=0.5)
    item = shop.jam.enqueue("jam")
    first.wait_for_note("jam runs")
    children = first.children
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(BOUND) == 0
    until(lambda: not any(os.path.exists(f"/proc/{child}/exe") for child in children))
    assert (item.status, item.attempt) == (Status.QUEUED, 0)
    second = make_worker()
    second.let_go("jam")
    assert item.result(60) == "jam"
    assert item.attempt == 1


@on_main_thread
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal(app: Flask, make_worker: MakeWorker, pool: str, number: signal.Signals) -> None:
    """One more signal, some seconds later, ends the wait. The exit status is Celery's."""
    worker = make_worker("--pool", pool, grace_period=600)
    item = shop.hold.enqueue("held")
    worker.wait_for_note("held runs")
    worker.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    worker.wait_for_note("held was asked to end: shutdown")
    until(lambda: time.monotonic() - began > 2.5)
    worker.process.send_signal(number)
    worker.process.wait(BOUND)
    assert (item.status, item.attempt) == (Status.QUEUED, 0)
    assert f"Item {item.id} (tests.celery.shop.hold) interrupted" in worker.log


@on_both
def test_cold_stop_while_it_starts(app: Flask, make_worker: MakeWorker) -> None:
    """QUIT before a worker is ready ends it as well, though it takes an item: with solo, that holds it up."""
    item = shop.hold.enqueue("held")
    worker = make_worker("--pool", "solo", grace_period=600)
    until(lambda: "mingle: searching" in worker.log, 60)
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.process.wait(BOUND) == 0
    assert (item.status, item.attempt) == (Status.QUEUED, 0)


def test_signal_to_all_processes(app: Flask, make_worker: MakeWorker) -> None:
    """TERM to the children as well, as from systemd, does not cost their items the grace period."""
    worker = make_worker()
    item = shop.hold.enqueue("held")
    worker.wait_for_note("held runs")
    os.killpg(worker.process.pid, signal.SIGTERM)
    worker.wait_for_note("held was asked to end: shutdown")
    worker.let_go("held")
    assert worker.process.wait(BOUND) == 0
    assert item.result(BOUND) == "held"
    assert item.attempt == 1


def test_stopped_by_remote_control(app: Flask, make_worker: MakeWorker) -> None:
    """Celery's remote command gives items the grace period, too, and no more."""
    worker = make_worker(grace_period=1)
    item = shop.hold.enqueue("held")
    worker.wait_for_note("held runs")
    app.extensions["celery"].control.shutdown()
    worker.wait_for_note("held was asked to end: shutdown")
    assert worker.process.wait(BOUND) == 0
    assert (item.status, item.attempt) == (Status.QUEUED, 0)


def test_pool_that_cannot_be(make_worker: MakeWorker) -> None:
    """Greenlets are refused when the worker starts."""
    worker = make_worker("--pool", "gevent")
    assert worker.process.wait(BOUND) != 0
    assert "flask-background: a pool of greenlets (celery.concurrency.gevent) cannot run items" in worker.log


def test_worker_within_a_process(script: Callable[..., Any], redis: Redis) -> None:
    """A worker on a thread, as Celery's own test tools start one, does not end the process with it."""
    program = script(
        f"""
        import time
        from celery.contrib.testing.worker import start_worker
        from tests.celery import shop
        urls = {{"broker_url": "{redis.url}/0", "result_backend": "{redis.url}/1"}}
        app = shop.create_app(BACKGROUND_CELERY=urls, BACKGROUND_GRACE_PERIOD=0.1)
        worker = start_worker(app.extensions["celery"], pool="threads", perform_ping_check=False)
        with app.app_context(), worker:
            assert shop.echo.enqueue(42).result(60) == 42
        time.sleep(1)  # ten times what items would have had
        print("good", flush=True)
        """
    )
    until(lambda: "good" in program.said or program.process.poll() is not None, 60)
    assert program.ends() == 0
    assert "good" in program.said, program.said
