"""A redis-py client for Celery's result backend, whose waits are bounded."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

if TYPE_CHECKING:
    from celery import Celery


def client_of(celery: Celery, wait: float, read: float | None = None, most: int | None = None) -> Redis:
    """Make a client that connects as Celery's own does, by connections of its own.

    ``wait``: how long it waits for a connection, and for an answer unless ``read`` says otherwise, in
    seconds. ``most``: how many connections it may have; the next one raises redis-py's ConnectionError.
    """
    theirs = celery.backend.client.connection_pool
    options: dict[str, Any] = {
        **theirs.connection_kwargs,
        "decode_responses": True,
        "socket_connect_timeout": wait,
        "socket_timeout": wait if read is None else read,
        # A Redis that was started anew has closed the connections: each question is asked once more, at once.
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "connection_class": theirs.connection_class,
        "max_connections": most,
    }
    make: Any = ConnectionPool
    if isinstance(theirs, SentinelConnectionPool):
        del options["connection_pool"]  # the other pool itself, which this one replaces by its own
        make = partial(SentinelConnectionPool, theirs.service_name, theirs.sentinel_manager)
    pool = make(**options)
    client = Redis(connection_pool=pool)
    # A collection of garbage may meet a socket before its connection, and then warn of the socket.
    weakref.finalize(client, pool.disconnect).atexit = False
    return client


@contextmanager
def borrowed(client: Redis) -> Iterator[Any]:
    """A connection of a client, for a question whose answer is read later. Where that fails, it is closed."""
    pool: Any = client.connection_pool
    try:
        connection = pool.get_connection()
    except TypeError:  # redis-py before 5.3
        connection = pool.get_connection("EVALSHA")
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def key_prefix(celery: Celery) -> str:
    """The prefix of Celery's own keys, where the user has set one."""
    return str((celery.conf.result_backend_transport_options or {}).get("global_keyprefix", ""))
