"""Lets a worker live on when Redis, as the broker, is away for a while, and lose no message by that.

Kombu 5.7 hands messages back, and acknowledges them, also by a connection that was lost and has been taken
apart. What that raises Celery takes for the worker's end. Such messages come again by the visibility timeout.

Where Redis forgets a message as it gives it out, and is told to keep it then, it may go between the two. So
nobody else has the message: it is given back when Redis is there again.
"""

from __future__ import annotations

from typing import Any

from celery.signals import worker_shutdown
from celery.utils.log import get_logger
from kombu.transport.redis import QoS, SentinelTransport, Transport
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from flask_background.celery.redis.atomic_fetch import Taking, TakingQoS
from flask_background.celery.redis.kombu_client import keep_client

_log = get_logger(__name__)

# How long a worker that ends waits for Redis, each time, in seconds.
_PATIENCE = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0, "retry_on_timeout": False}

# The messages that nobody else has: each with its exchange and its routing key.
_only_here: list[tuple[dict[str, Any], str, str]] = []


class LastingQoS(TakingQoS):
    """What has been delivered by one channel."""

    def __init__(self, channel: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        keep_client(channel)

    @property
    def _is_apart(self) -> bool:
        return getattr(self.channel.connection, "client", None) is None

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was given out."""
        try:
            super().append(message, delivery_tag)
        except BaseException:
            where = message.delivery_info
            _only_here.append((message._raw, where["exchange"], where["routing_key"]))
            _log.warning("Redis gave out %s and failed: only this process has it", _id_of(message._raw))
            raise

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """When the channel is there, and time and again."""
        if not hasattr(self.channel, "unacked_restore_throttle"):  # a setting since kombu 5.6
            kwargs["interval"] = 1  # else only every tenth time comes to anything: every hundred seconds
        try:
            self.give_back()
            super().restore_visible(*args, **kwargs)
        except ResponseError as error:  # it has no room, say
            _log.warning("Redis takes no messages back just now: %s", error)

    def give_back(self) -> None:
        """What only this process has. Raises as redis-py."""
        channel = self.channel
        while _only_here:
            message, exchange, routing_key = _only_here[0]
            message.setdefault("headers", {})["redelivered"] = True
            priority = channel._get_message_priority(message, reverse=False)
            with channel.conn_or_acquire() as client:
                for queue in channel._lookup(exchange, routing_key):
                    client.rpush(channel._q_for_pri(queue, priority), dumps(message))
            del _only_here[0]  # if Redis has kept it after all, one of the two runs

    def restore_unacked(self, client: Any = None) -> Any:
        """When the channel is closed."""
        return None if self._is_apart else super().restore_unacked(client)

    def ack(self, delivery_tag: str) -> None:
        """A run has ended."""
        if not self._is_apart:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message is to go back, or away."""
        if not self._is_apart:
            super().reject(delivery_tag, requeue)


def _give_back_at_the_end(sender: Any, **_: Any) -> None:
    if not _only_here:
        return
    try:
        with sender.app.connection_for_write(transport_options=_PATIENCE) as connection:
            connection.default_channel.qos.give_back()
    except Exception as error:
        ids = ", ".join(_id_of(message) for message, _, _ in _only_here)
        _log.error("Redis, which is away, has given out and forgotten %s: %s", ids, error)


def _id_of(message: dict[str, Any]) -> str:
    return str(message.get("headers", {}).get("id"))


def outlive_redis() -> None:
    """In a worker, before it connects."""
    for transport in (Transport, SentinelTransport):
        if transport.Channel.QoS is QoS:  # else somebody has one of their own
            transport.Channel = type("LastingChannel", (Taking, transport.Channel), {"QoS": LastingQoS})
    worker_shutdown.connect(_give_back_at_the_end, dispatch_uid=__name__)
