"""A message is taken from Redis and kept there in one step; where that cannot be, as kombu does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from queue import Empty
from typing import Any

import pytest
from flask import Flask
from kombu.transport import redis as kombu_redis
from redis.exceptions import ResponseError

from flask_background.celery.redis.qos import outlive_redis

from ..helpers import until
from ..redis_server import Redis
from . import shop


@pytest.fixture(autouse=True)
def in_a_worker(monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
    """Channels are as they are in a worker's process."""
    for transport in (kombu_redis.Transport, kombu_redis.SentinelTransport):
        monkeypatch.setattr(transport, "Channel", transport.Channel)
    redis.forget_all()
    outlive_redis()


class Taker:
    """A consumer of the queue, which acknowledges nothing by itself."""

    def __init__(self, celery: Any, stack: ExitStack, no_ack: bool = False) -> None:
        self.connection = stack.enter_context(celery.connection_for_read())
        self.channel = self.connection.default_channel
        self.messages: list[Any] = []
        self.consumer = stack.enter_context(
            celery.amqp.TaskConsumer(
                self.channel, no_ack=no_ack, on_message=self.messages.append, accept=["json"]
            )
        )

    @property
    def ids(self) -> list[str]:
        """The items whose messages it has got."""
        return [message.headers["id"] for message in self.messages]

    def take(self, count: int = 1) -> None:
        """Wait until it has got so many."""

        def has_them() -> bool:
            try:
                self.connection.drain_events(timeout=0.1)
            except OSError:
                pass
            return len(self.messages) >= count

        until(has_them)


@pytest.fixture
def make_taker(make_app: Callable[..., Flask]) -> Iterator[Callable[..., Taker]]:
    """Makes them, with options for the broker."""
    with ExitStack() as stack:
        yield lambda celery, **how: Taker(celery, stack, **how)


@pytest.fixture
def kept(app: Flask) -> Callable[[], int]:
    """Counts what Redis keeps."""
    return lambda: _client(app).hlen("unacked")


def _client(app: Flask) -> Any:
    channel = app.extensions["celery"].connection_for_read().channel()
    return channel._create_client()


def test_in_one_step(app: Flask, make_taker: Any, kept: Callable[[], int], monkeypatch: Any) -> None:
    """All that waits is kept without a further question, comes in its order, and can be let go."""
    asked: list[str] = []
    append = kombu_redis.QoS.append
    monkeypatch.setattr(
        kombu_redis.QoS, "append", lambda qos, message, tag: (asked.append(tag), append(qos, message, tag))
    )
    ids = [shop.echo.enqueue(number).id for number in range(5)]
    taker = make_taker(app.extensions["celery"])
    taker.take(5)
    assert taker.ids == ids
    assert (kept(), asked) == (5, [])
    for message in taker.messages:
        message.ack()
    assert kept() == 0
    late = shop.echo.enqueue(5).id  # which is waited for
    taker.take(6)
    assert taker.ids[-1] == late
    assert kept() == 1


def test_answer_is_lost(app: Flask, make_taker: Any, kept: Callable[[], int], redis: Redis) -> None:
    """What Redis gives out as the connection ends is given out again, unchanged."""
    app.extensions["celery"].conf.broker_transport_options = {"visibility_timeout": 0}
    item = shop.echo.enqueue("text")
    taker = make_taker(app.extensions["celery"])
    taker.connection.transport.cycle._register_BRPOP(taker.channel)  # asks, and nobody reads the answer
    until(lambda: kept() == 1)
    assert redis.length("celery") == 0
    taker.channel._in_poll = None  # nor when it is closed
    other = make_taker(app.extensions["celery"])
    other.channel.qos.restore_visible(interval=1)
    other.take()
    assert other.ids == [item.id]
    assert other.messages[0].headers["redelivered"] is True


def test_looks_each_time_for_what_was_left(
    app: Flask, make_taker: Any, redis: Redis, monkeypatch: Any
) -> None:
    """Also where kombu has no setting for that, and would look every tenth time."""
    monkeypatch.delattr(kombu_redis.Channel, "unacked_restore_throttle", raising=False)
    app.extensions["celery"].conf.broker_transport_options = {"visibility_timeout": 0}
    shop.echo.enqueue("text")
    taker = make_taker(app.extensions["celery"])
    for count in (1, 2, 3):
        taker.take(count)
        assert redis.length("celery") == 0
        taker.channel.qos.restore_visible()
        assert redis.length("celery") == 1


def test_handed_back(app: Flask, make_taker: Any, kept: Callable[[], int], redis: Redis) -> None:
    """A message that is handed back is in its queue again."""
    shop.echo.enqueue("text")
    taker = make_taker(app.extensions["celery"])
    taker.take()
    taker.messages[0].requeue()
    assert (kept(), redis.length("celery")) == (0, 1)


def test_priorities_and_prefixes(make_app: Callable[..., Flask], make_taker: Any) -> None:
    """Kombu's names for its keys are used, whatever is set."""
    options = {"global_keyprefix": "my:", "priority_steps": [0, 5], "queue_order_strategy": "priority"}
    app = make_app(celery={"broker_transport_options": options})
    with app.app_context():
        item = shop.echo.enqueue("text")
        celery = app.extensions["celery"]
        celery.send_task("other", priority=9)
        taker = make_taker(celery)
        taker.take(2)
        assert item.id in taker.ids
        client = taker.channel._create_client()
        assert client.hlen("unacked") == 2
        for message in taker.messages:
            message.ack()
        assert client.hlen("unacked") == 0


def test_not_for_those_that_acknowledge_nothing(app: Flask, make_taker: Any, kept: Callable[[], int]) -> None:
    """Nothing is kept that nobody will acknowledge; when those have gone, it is."""
    shop.echo.enqueue(1)
    careless = make_taker(app.extensions["celery"], no_ack=True)
    careless.take()
    assert kept() == 0
    careless.consumer.cancel()
    shop.echo.enqueue(2)
    assert not careless.channel._careless


def test_no_room(app: Flask, make_taker: Any, redis: Redis) -> None:
    """A message that Redis gives out, and has no room to keep, is given back as soon as there is some."""
    client = _client(app)
    taker = make_taker(app.extensions["celery"])
    taker.channel._runs_scripts = False
    item = shop.echo.enqueue("text")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError):
            taker.take()
        taker.channel.qos.restore_visible(interval=100)  # which Redis refuses
        assert redis.length("celery") == 0
    finally:
        client.config_set("maxmemory", 0)
    taker.channel.qos.restore_visible(interval=100)
    assert redis.length("celery") == 1
    taker.take()
    assert taker.ids == [item.id]


def test_no_scripts(app: Flask, make_taker: Any, kept: Callable[[], int], monkeypatch: Any) -> None:
    """Where Redis refuses scripts, messages are taken as kombu does."""
    client = _client(app)
    name, password = "noscripts", "secret"
    client.acl_setuser(
        name, enabled=True, passwords=[f"+{password}"], keys="*", channels="*", commands=["+@all", "-eval"]
    )
    celery = app.extensions["celery"]
    items = [shop.echo.enqueue(number).id for number in range(2)]
    celery.conf.broker_read_url = celery.conf.broker_url.replace("//", f"//{name}:{password}@")
    taker = make_taker(celery)
    with pytest.raises(ResponseError):
        taker.channel._create_client().eval("return 1", 0)
    taker.take(2)
    assert taker.ids == items
    assert kept() == 2


@pytest.mark.parametrize("tag", [None, [1], 7])
def test_odd_tags(app: Flask, make_taker: Any, redis: Redis, tag: object) -> None:
    """Nothing is taken that could not be kept."""
    where = {"exchange": "", "routing_key": "celery"}
    _client(app).lpush("celery", json.dumps({"properties": {"delivery_info": where, "delivery_tag": tag}}))
    taker = make_taker(app.extensions["celery"])
    taker.connection.transport.cycle._register_BRPOP(taker.channel)
    with pytest.raises(Empty):
        taker.channel._brpop_read()
    assert redis.length("celery") == 1
    redis.forget_all()


def test_what_it_does_not_understand(app: Flask, make_taker: Any, redis: Redis) -> None:
    """Such a message does not hold up the worker for ever: it is left to kombu."""
    client = _client(app)
    client.lpush("celery", "nonsense")
    taker = make_taker(app.extensions["celery"])
    item = shop.echo.enqueue(1)
    with pytest.raises(ValueError, match="Expecting value"):
        taker.take()
    taker.take()
    assert taker.ids == [item.id]
