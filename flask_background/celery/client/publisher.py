"""Sends the messages of items, by connections of its own, in bounded time."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ChannelError, LimitExceeded, OperationalError
from kombu.pools import ProducerPool

from flask_background.celery.app import SHARE_OF_A_WAIT, TASK_NAME
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from celery import Celery

    from flask_background.celery.records.record import Record

# A message that fails within this share of the timeout is sent once more: the broker was started anew.
_AT_ONCE = 0.1
# By how many others, at most, a message may be overtaken that is to go before those that wait.
_OVERTAKEN = 10
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


class UnsendableError(BrokerError):
    """The broker answers, but Celery cannot send the message, or is not configured to."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"Celery cannot send the item: {type(error).__name__}: {error}")


class Publisher:
    """Sends messages of one process to the broker of an app's Celery. Waits up to ``timeout`` seconds."""

    def __init__(self, celery: Celery, timeout: float, kill_after: float) -> None:
        self._celery = celery
        self._timeout, self._wait = timeout, timeout * SHARE_OF_A_WAIT
        self._kill_after = kill_after
        connection = celery.connection_for_write()
        self._is_redis = connection.transport.driver_type == "redis"
        self._channel_errors = ChannelError, *connection.channel_errors
        # The errors that are no fault of a message; AttributeError is that of a connection that ends in use.
        others = OperationalError, LimitExceeded, OSError, AttributeError, *connection.connection_errors
        self._not_its_fault = *self._channel_errors, *others
        options: dict[str, Any]
        if connection.transport.driver_type == "amqp":
            # Without the first, a message is on its way when enqueue returns, and may be lost.
            options = {"confirm_publish": True, "read_timeout": self._wait, "write_timeout": self._wait}
        else:
            timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), self._wait)
            options = {**timeouts, "retry_on_timeout": False}
        connection = celery.connection_for_write(transport_options=options, connect_timeout=self._wait)
        limit = celery.conf.broker_pool_limit
        # Not Celery's own pool: what bounds these waits changes nothing for the app's own tasks.
        self._connections = connection.Pool(limit)
        self._producers = ProducerPool(self._connections, limit)
        weakref.finalize(self, _close, self._connections, os.getpid()).atexit = False
        # The queues of tasks, and the queues that have been declared, for which once is enough with Redis. To
        # know them saves 5 % of the CPU time of each enqueue.
        self._queues: dict[str, str] = {}
        self._declared: set[str] = set()

    def queue_of(self, task_name: str) -> str:
        """The name of the queue that the items of a task go through, as ``task_routes`` says.

        Raises UnsendableError.
        """
        if task_name not in self._queues:
            try:
                route = self._celery.amqp.router.route({}, task_name)
            except Exception as error:
                raise UnsendableError(error) from error
            name = getattr(route.get("queue"), "name", route.get("routing_key", "?"))
            self._queues[task_name] = str(name)
        return self._queues[task_name]

    def send(
        self,
        item_id: str,
        record: Record,
        *,
        with_record: bool,
        delay: float = 0.0,
        is_first: bool = False,
    ) -> None:
        """Send the message of an item, to be run in ``delay`` seconds. Raises BrokerError.

        ``with_record``: the record goes with it, arguments included; otherwise the message names the item.
        ``is_first``: where Redis is the broker, the message goes before those that wait in its queue.
        """
        timeout = json.loads(record.options).get("timeout")
        options = {
            "args": (record.home, record.task, record.as_fields() if with_record else None),
            "task_id": item_id,
            "route_name": record.task,
            "shadow": record.task,  # what Celery's log calls it
            "countdown": delay or None,
            "serializer": "json",
            "headers": {"traceparent": record.traceparent} if record.traceparent else None,
            # Then Celery kills the process of the run.
            "time_limit": None if timeout is None else timeout + self._kill_after,
            "ignore_result": True,  # else Celery subscribes to it here; the worker stores it
            "argsrepr": "(...)",
            "kwargsrepr": "{}",
            "add_to_parent": False,
            "mandatory": True,  # RabbitMQ would drop what it has no queue for
            "retry": False,
        }
        if record.queue != self.queue_of(record.task):  # the process that enqueued it has other routes
            options["queue"] = record.queue
        began = time.monotonic()
        for is_last in (False, True):
            try:
                with self._producers.acquire(block=True, timeout=self._wait) as producer:
                    self._send_by(producer, began + self._timeout, record.queue, options)
                    if is_first and self._is_redis:
                        self._put_first(producer, record.queue, item_id)
                return
            except Exception as error:
                after = time.monotonic() - began
                if not isinstance(error, self._not_its_fault):
                    raise UnsendableError(error) from error
                if is_last or after > self._timeout * _AT_ONCE:
                    raise _unreached(after, error) from error

    def probe(self) -> None:
        """Raise BrokerError if the broker does not answer."""
        with self._channel():
            pass

    def is_empty(self, queue: str) -> bool:
        """Whether no message waits in a queue. Raises BrokerError."""
        with self._channel() as channel:
            try:
                return not channel.queue_declare(queue=queue, passive=True).message_count
            except self._channel_errors:
                return True  # there is no such queue, as Redis says of one that is empty

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        began = time.monotonic()
        try:
            with self._connections.acquire(block=True, timeout=self._timeout) as connection:
                try:
                    connection.ensure_connection(**_ONCE_MORE, timeout=self._wait)
                    with connection.channel() as channel:
                        yield channel
                except BaseException:
                    connection.collect()
                    raise
        except Exception as error:
            raise _unreached(time.monotonic() - began, error) from error

    def _send_by(self, producer: Any, end: float, queue: str, options: dict[str, Any]) -> None:
        if queue in self._declared:
            options = {**options, "declare": ()}
        try:
            producer.connection.ensure_connection(**_ONCE_MORE)
            left = max(0.01, end - time.monotonic())
            self._celery.send_task(TASK_NAME, producer=producer, confirm_timeout=left, **options)
        except BaseException:
            self._declared.clear()
            # What confirms this message later must not be taken to confirm another one.
            producer.connection.collect()
            raise
        if self._is_redis:
            self._declared.add(queue)

    def _put_first(self, producer: Any, queue: str, item_id: str) -> None:
        """Move the message of an item that was sent just now to where the next one is taken."""
        prefix = (self._celery.conf.broker_transport_options or {}).get("global_keyprefix", "")
        name = f"{prefix}{queue}"
        with suppress(Exception):  # a Redis before 6.2, say: then the message waits for its turn
            for _ in range(_OVERTAKEN):  # others may send meanwhile
                if item_id in str(producer.channel.client.lmove(name, name, "LEFT", "RIGHT")):
                    break


def _unreached(seconds: float, error: Exception) -> BrokerError:
    return BrokerError(f"Celery's broker was not reached within {seconds:.1f} s: {error}")


def _close(connections: Any, pid: int) -> None:
    if os.getpid() == pid:  # else they are the parent's, who goes on with them
        connections.force_close_all()
