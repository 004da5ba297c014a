"""Who waits is told by Redis; where that is not possible, or too many wait, they look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from unittest.mock import Mock

import pytest
from flask import Flask
from redis.client import PubSub

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.celery.record import Record
from flask_background.celery.records import Records
from flask_background.celery.redis.notifications import Listeners
from flask_background.errors import BrokerError

from ..helpers import BOUND
from ..redis_server import Redis
from . import shop
from .conftest import Worker

ENDED = Record("shop.echo", Status.SUCCEEDED, 1.5)
FOR_EVER = 60.0


@pytest.fixture
def listeners(app: Flask) -> Listeners:
    """Those of a process."""
    return Listeners(state_of(app).celery.cluster.client)


@pytest.fixture
def records(app: Flask) -> Records:
    """What they hear of."""
    return Records(state_of(app).celery.cluster.client)


def seconds(wait: Callable[[], object]) -> float:
    """How long that takes."""
    began = time.monotonic()
    wait()
    return time.monotonic() - began


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_told_of_an_end(listeners: Listeners, records: Records, status: Status) -> None:
    """Whatever that is, and for one after the other by the same connection."""
    client = records._celery.backend.client
    for _ in range(2):
        name = token_hex(12)
        with listeners.listen(name, BOUND) as hear:
            assert hear is not None
            assert seconds(lambda: hear(0.05)) >= 0.05
            records.write(name, ENDED._replace(status=status))
            assert seconds(lambda: hear(FOR_EVER)) < BOUND
    assert len(client.client_list(_type="pubsub")) <= 1


def test_too_many(listeners: Listeners) -> None:
    """The next one is not told; when another one has gone, it is."""
    with ExitStack() as stack:
        while stack.enter_context(listeners.listen(token_hex(12), BOUND)) is not None:
            assert len(listeners._free or ()) < 16
        assert listeners._free == []
    with listeners.listen(token_hex(12), BOUND) as hear:
        assert hear is not None


def test_few_connections(make_app: Callable[..., Flask]) -> None:
    """Where there may be few connections, listeners take one of four."""
    app = make_app(celery={"redis_max_connections": 7})
    listeners = Listeners(state_of(app).celery.cluster.client)
    with listeners.listen("a" * 24, BOUND) as first, listeners.listen("b" * 24, BOUND) as second:
        assert first is not None
        assert second is None


def test_connection_is_lost(listeners: Listeners, records: Records, redis: Redis) -> None:
    """Who listens meanwhile raises nothing, and hears of what comes after that, or waits for no longer."""
    name = token_hex(12)
    with listeners.listen(name, BOUND) as hear:
        assert hear is not None
        redis.stop()
        assert seconds(lambda: hear(0.2)) < BOUND
        redis.start()
        records.write(name, ENDED)
        assert seconds(lambda: hear(1.0)) < BOUND
    with listeners.listen(name, BOUND) as hear:
        records.write(name, ENDED)
        assert hear is None or seconds(lambda: hear(FOR_EVER)) < BOUND
    with listeners.listen(name, BOUND) as hear:
        assert hear is not None


def test_redis_is_away(listeners: Listeners, redis: Redis) -> None:
    """Nobody is told then."""
    redis.stop()
    try:
        with listeners.listen("c" * 24, BOUND) as hear:
            assert hear is None
    finally:
        redis.start()


def test_interrupted(listeners: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal's handler raises in the midst of it takes nobody's place for good."""
    with listeners.listen("e" * 24, BOUND):
        pass
    free = len(listeners._free or ())
    for method in ("subscribe", "unsubscribe"):
        with monkeypatch.context() as patch:
            patch.setattr(PubSub, method, Mock(side_effect=SystemExit))
            with pytest.raises(SystemExit), listeners.listen("e" * 24, BOUND):
                pass
        assert len(listeners._free or ()) == free
    with listeners.listen("e" * 24, BOUND) as hear:
        assert hear is not None


@pytest.mark.parametrize("timeout", [0.0, 0.1])
def test_short_waits(make_app: Callable[..., Flask], redis: Redis, timeout: float) -> None:
    """Whoever waits shortly for a Redis that hangs does not wait for somebody to tell it, too."""
    with make_app(publish_timeout=2.0).app_context():  # of which a look has 0.8
        item = shop.echo.enqueue(1)
        redis.pause()
        try:
            began = time.monotonic()
            with pytest.raises(BrokerError):
                item.wait(timeout)
            assert time.monotonic() - began < 2.0
        finally:
            redis.resume()


def test_other_result_backends(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """Whose records are not in Redis, looks."""
    app = make_app(celery={"result_backend": f"file://{tmp_path}"})
    with Listeners(state_of(app).celery.cluster.client).listen("d" * 24, BOUND) as hear:
        assert hear is None


def test_many_wait_for_one(worker: Worker, app: Flask) -> None:
    """More than are told of it wait for an item, and all of them see its end."""
    item = shop.hold.enqueue("awaited")
    worker.wait_for_note("awaited runs")
    ended: list[bool] = []
    threads = [threading.Thread(target=lambda: ended.append(item.wait(BOUND))) for _ in range(20)]
    for thread in threads:
        thread.start()
    worker.let_go("awaited")
    for thread in threads:
        thread.join(2 * BOUND)
    assert ended == [True] * 20
