"""Clients for Celery's result backend, made as Celery makes its own."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from redis import SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelConnectionPool

from flask_background.celery.records.connection import borrowed, client_of

from ..redis_server import Redis


def made(url: str, **settings: Any) -> Any:
    """The pool of a client for a result backend."""
    celery = Celery("shop", backend=url, set_as_current=False)
    celery.conf.update(settings)
    return client_of(celery, 0.8, most=3).connection_pool


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://me:s%40cret@host:1/2", {"host": "host", "port": 1, "db": 2, "password": "s@cret"}),
        ("rediss://host:1/2?ssl_cert_reqs=none", {"host": "host", "port": 1, "db": 2}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
        ("sentinel://:secret@one:1/2;sentinel://two:3/2", {"db": 2, "password": "secret"}),
    ],
)
def test_urls(url: str, expected: dict[str, Any]) -> None:
    """A client reaches what Celery's URL names, and waits no longer than it was told."""
    pool = made(url, result_backend_transport_options={"master_name": "shop"})
    options = pool.connection_kwargs
    assert expected.items() <= options.items()
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.8, 0.8)
    assert pool.max_connections == 3
    assert isinstance(pool, SentinelConnectionPool) is url.startswith("sentinel")
    assert issubclass(pool.connection_class, SSLConnection) is url.startswith("rediss")
    assert issubclass(pool.connection_class, UnixDomainSocketConnection) is ("socket" in url)


def test_garbage(redis: Redis) -> None:
    """A client that is garbage closes its sockets, in whichever order garbage is collected."""
    client = client_of(Celery("shop", backend=f"{redis.url}/1", set_as_current=False), 1.0)
    connection = client.connection_pool.get_connection()
    connection.disconnect()
    client.connection_pool.release(connection)
    gc.collect(0)  # the connection is older than its next socket, and is collected after that
    client.ping()
    cycle = [client]
    cycle.append(cycle)  # type: ignore[arg-type]
    del client, connection, cycle
    gc.collect()  # an unclosed socket would be a warning, and so an error


def test_borrowed(redis: Redis) -> None:
    """An answer that nobody has read is not taken for that of the next question."""
    client = client_of(Celery("shop", backend=f"{redis.url}/1", set_as_current=False), 1.0)
    with borrowed(client) as connection:
        connection.send_command("ECHO", "one")
        assert connection.read_response() == "one"
    with suppress(KeyError), borrowed(client) as again:
        assert again is connection
        again.send_command("ECHO", "two")
        raise KeyError
    assert client.echo("three") == "three"
