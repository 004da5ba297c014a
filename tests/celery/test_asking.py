"""Questions to Redis: each thread has a connection for them, which nobody else's answer comes by."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_background import Status
from flask_background.app_state import state_of
from flask_background.celery.redis.connection import ask, surely

from ..helpers import BOUND
from ..redis_server import Redis
from . import shop


@pytest.fixture
def backend(app: Flask) -> Any:
    """Celery's, with a number in it."""
    backend = state_of(app).celery.cluster.client.backend
    backend.client.set("number", 1)
    return backend


def number(client: Any) -> int:
    """A question."""
    return int(client.get("number"))


def connection_of(backend: Any) -> int:
    """Which connection a question goes by."""
    return int(ask(backend, lambda client: client.client_id()))


def test_one_connection(backend: Any) -> None:
    """One question after the other goes by the same one; another thread has its own."""
    assert connection_of(backend) == connection_of(backend)
    ids: list[int] = []
    celery = backend.app
    thread = threading.Thread(target=lambda: ids.append(connection_of(celery.backend)))
    thread.start()
    thread.join(BOUND)
    assert ids != [connection_of(backend)]


def test_shared_backend(make_app: Callable[..., Flask]) -> None:
    """Where all threads share Celery's backend, none keeps a connection."""
    app = make_app(celery={"result_backend_thread_safe": True})
    backend = state_of(app).celery.cluster.client.backend
    backend.client.set("number", 1)
    assert ask(backend, number) == 1
    assert not hasattr(backend, "_kept_client")


def test_cut_off(backend: Any) -> None:
    """What ends a question before its answer is read leaves the answer to nobody."""

    class Cut(BaseException):
        pass

    def ask_and_leave(client: Any) -> None:
        client.connection.send_command("GET", "number")
        raise Cut

    first = connection_of(backend)
    with pytest.raises(Cut):
        ask(backend, ask_and_leave)
    assert ask(backend, lambda client: client.ping()) is True
    assert connection_of(backend) != first


def test_asked_meanwhile(backend: Any) -> None:
    """Who asks while a question is put, as a signal's handler may, does so by another connection."""

    def ask_and_be_interrupted(client: Any) -> tuple[int, int, bytes]:
        return connection_of(backend), int(client.client_id()), client.get("number")

    inner, outer, answer = ask(backend, ask_and_be_interrupted)
    assert inner != outer
    assert answer == b"1"
    assert ask(backend, number) == 1


def test_one_connection_for_all(make_app: Callable[..., Flask]) -> None:
    """Where there may be but one, these questions do not keep it from others."""
    app = make_app(celery={"redis_max_connections": 1})
    with app.app_context():
        assert shop.echo.using(key=f"one {os.getpid()}").enqueue(1).status is Status.QUEUED


def test_wrong_question(backend: Any) -> None:
    """What Redis refuses is raised at once."""
    asked: list[Any] = []

    def wrong(client: Any) -> None:
        asked.append(client)
        client.lpush("number", 1)

    with pytest.raises(Exception, match="WRONGTYPE"):
        surely(backend, wrong)
    assert len(asked) == 1
    assert ask(backend, number) == 1


def test_connections_are_lost(backend: Any, redis: Redis) -> None:
    """A question is asked again when the connection has ended."""
    for _ in range(2):
        assert ask(backend, number) == 1
        redis.drop_connections()
        assert ask(backend, number) == 1
        redis.drop_connections()
        assert surely(backend, number) == 1


def test_redis_is_gone(backend: Any, redis: Redis) -> None:
    """That is raised, and is over when Redis is there again."""
    redis.stop()
    try:
        for put in (ask, surely):
            with pytest.raises(backend.connection_errors):
                put(backend, number)
    finally:
        redis.start()
    assert ask(backend, number) == 1


def test_redis_hangs(make_app: Callable[..., Flask], redis: Redis) -> None:
    """That is waited for once, by a connection that was there as by a new one."""
    app = make_app(publish_timeout=1.0)  # of which a question has 0.4
    backend = state_of(app).celery.cluster.client.backend
    for put in (ask, surely):
        ask(backend, lambda client: client.ping())
        redis.pause()
        try:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(backend.connection_errors):
                    put(backend, number)
                assert 0.3 < time.monotonic() - began < 0.75
        finally:
            redis.resume()


def test_forked(backend: Any) -> None:
    """A child has a connection of its own, and the parent goes on with its."""
    mine = connection_of(backend)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, str(connection_of(backend)).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as answer:
        child = int(answer.read())
    assert child != mine == connection_of(backend)
