"""A client of redis-py's for Celery's result backend, made from its URL, whose waits are bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from redis import ConnectionPool, Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

if TYPE_CHECKING:
    from celery import Celery

_SENTINEL_PORT = 26379


def client_of(celery: Celery, wait: float, read: float | None = None, most: int | None = None) -> Redis:
    """Make a client with connections of its own.

    ``wait``: how long it waits for a connection, and for an answer unless ``read`` says otherwise, in
    seconds. ``most``: how many connections it may have; the next one raises redis-py's ConnectionError.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": wait,
        "socket_timeout": wait if read is None else read,
        # A Redis that was started anew has closed the connections: each question is asked once more, at once.
        "retry": Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
    }
    if most is not None:
        options["max_connections"] = most
    url = str(celery.conf.result_backend)
    if url.startswith("sentinel://"):
        return _behind_sentinel(celery, url, options)
    return Redis(connection_pool=ConnectionPool.from_url(_plain(url), **_tls(celery, url), **options))


def key_prefix(celery: Celery) -> str:
    """The prefix of Celery's own keys, where the user has set one."""
    return str((celery.conf.result_backend_transport_options or {}).get("global_keyprefix", ""))


def _plain(url: str) -> str:
    """Celery's URL as redis-py has it."""
    if "://" not in url:
        return "redis://localhost:6379/0"  # result_backend = "redis"
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        number = parse_qs(parts.query).get("virtual_host", ["0"])[0].strip("/")
        user = parts.netloc.rpartition("@")[0]
        return f"unix://{user}{'@' if user else ''}{parts.path}?db={number}"
    for word in ("required", "optional", "none"):  # redis-py has them in lower case
        url = url.replace(f"CERT_{word.upper()}", word)
    return url


def _tls(celery: Celery, url: str) -> dict[str, Any]:
    """The options for TLS in the setting redis_backend_use_ssl."""
    given = celery.conf.redis_backend_use_ssl
    return dict(given) if isinstance(given, dict) and url.startswith("rediss://") else {}


def _behind_sentinel(celery: Celery, url: str, options: dict[str, Any]) -> Redis:
    parts = [urlsplit(part) for part in url.split(";")]
    transport = celery.conf.result_backend_transport_options or {}
    hosts = [(part.hostname or "localhost", part.port or _SENTINEL_PORT) for part in parts]
    number = next((part.path.strip("/") for part in reversed(parts) if part.path.strip("/")), "0")
    login = {"username": parts[0].username or None, "password": parts[0].password}
    make: Any = Sentinel  # which has no types
    sentinel = make(hosts, sentinel_kwargs=transport.get("sentinel_kwargs") or {}, **options)
    client: Redis = sentinel.master_for(transport.get("master_name", "mymaster"), db=int(number), **login)
    return client
