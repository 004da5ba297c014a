"""Sends messages, by connections of its own, in bounded time; what it sends twice it says is two messages."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import ProducerPool

from flask_background.celery.redis.kombu_client import keep_client
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from celery import Celery

# A wait is one of connecting, writing or reading. Both a record and a message have one that may be in vain.
SHARE_OF_A_WAIT = 0.4
ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
# What fails within this share of the time is tried again.
_AT_ONCE = 0.1


class Unsendable(BrokerError):
    """It is not the broker that is in the way of a message, but the message, or how Celery is set up."""


class Publisher:
    """What one process sends to a broker."""

    def __init__(self, client: Celery, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        # Not Celery's own, which a process that is forked would share with its parent, down to the sockets.
        limit = client.conf.broker_pool_limit
        connections = client.connection_for_write().Pool(limit)
        self._producers = ProducerPool(connections, limit)
        weakref.finalize(self, _close, connections, os.getpid()).atexit = False
        # The tasks whose queue has been declared. With Redis once is enough, for a message to a queue arrives
        # whatever has become of that since; it costs each publish a tenth.
        is_redis = client.connection_for_write().transport.driver_type == "redis"
        self._declared: set[str] | None = set() if is_redis else None

    def send(self, task_name: str, payload: str, rename: Callable[[], None], **options: Any) -> None:
        """Send a message; raises BrokerError. ``rename`` is called before it is sent once more.

        That is when it fails at once: the broker may have been started anew, and the connection is old. The
        first one may have arrived all the same.
        """
        began = time.monotonic()
        for is_last in (False, True):
            try:
                wait = self._timeout * SHARE_OF_A_WAIT
                with self._producers.acquire(block=True, timeout=wait) as producer:
                    self._send_by(producer, began + self._timeout, task_name, payload, options)
                return
            except Exception as error:
                after = time.monotonic() - began
                if self._is_the_messages_fault(error):
                    raise Unsendable(f"Celery cannot send it: {type(error).__name__}: {error}") from error
                if is_last or after > self._timeout * _AT_ONCE:
                    raise _unreached(after, error) from error
            rename()

    def probe(self) -> None:
        """Raise BrokerError if the broker does not answer."""
        began = time.monotonic()
        try:
            with self._client.connection_for_write() as connection:
                wait = self._timeout * SHARE_OF_A_WAIT
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=wait)
                connection.channel().close()
        except Exception as error:
            raise _unreached(time.monotonic() - began, error) from error

    def _send_by(
        self, producer: Any, end: float, task_name: str, payload: str, options: dict[str, Any]
    ) -> None:
        declared = self._declared
        if declared is not None and task_name in declared:
            options = {**options, "declare": ()}
        try:
            producer.connection.ensure_connection(**ONCE_MORE)
            keep_client(producer.channel)
            left = max(0.01, end - time.monotonic())
            self._client.send_task(
                task_name, (payload,), producer=producer, confirm_timeout=left, retry=False, **options
            )
        except BaseException:
            if declared is not None:
                declared.clear()
            # What confirms this message later must not be taken to confirm another one.
            producer.connection.collect()
            raise
        if declared is not None:
            declared.add(task_name)

    def _is_the_messages_fault(self, error: Exception) -> bool:
        connection = self._client.connection_for_write()
        others = connection.connection_errors + connection.channel_errors
        # The fourth is kombu's, when a connection ends in the midst of it.
        return not isinstance(error, (OperationalError, LimitExceeded, OSError, AttributeError, *others))


def _unreached(seconds: float, error: Exception) -> BrokerError:
    return BrokerError(f"Celery's broker was not reached within {seconds:.1f} s: {error}")


def _close(connections: Any, pid: int) -> None:
    if os.getpid() == pid:  # else they are the parent's, who goes on with them
        connections.force_close_all()
