"""Channels to Redis that keep their client, also when their connections are lost."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from kombu.transport.redis import Channel

from flask_background.celery.redis.kombu_client import keep_client

from ..redis_server import Redis
from . import shop


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The clients that channels make from now on."""
    made: list[Any] = []
    make = Channel._create_client

    def create(channel: Any, asynchronous: bool = False) -> Any:
        client = make(channel, asynchronous)
        if not asynchronous:
            made.append(client)
        return client

    monkeypatch.setattr(Channel, "_create_client", create)
    return made


def test_one_client_for_all_messages(app: Flask, redis: Redis, made: list[Any]) -> None:
    """However many items are enqueued; and they arrive."""
    redis.forget_all()
    shop.echo.enqueue(0)  # which connects
    del made[:]
    for number in range(10):
        shop.echo.enqueue(number)
    assert len(made) <= 1
    assert redis.length("celery") == 11


def test_new_client_with_new_connections(app: Flask, made: list[Any]) -> None:
    """A channel whose pool is another one does not go on with the old one's client."""
    with app.extensions["celery"].connection_for_write() as connection, connection.channel() as channel:
        keep_client(channel)
        keep_client(channel)
        del made[:]
        for _ in range(2):
            with channel.conn_or_acquire() as client:
                assert client.ping()
        channel._disconnect_pools()
        with channel.conn_or_acquire() as client:
            assert client.ping()
            with channel.conn_or_acquire(client) as same:
                assert same is client
        assert len(made) == 2


def test_other_channels() -> None:
    """What is no channel to Redis is left as it is."""
    channel = object()
    keep_client(channel)
    assert not hasattr(channel, "conn_or_acquire")
