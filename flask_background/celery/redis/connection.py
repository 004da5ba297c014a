"""Questions to Redis as Celery's result backend, by a connection that each thread keeps for them.

To get one out of redis-py's pool, and to put it back, is a quarter of what a question costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

#: Asks a client something. It may be asked twice, as the first answer may have been lost.
Question = Callable[[Any], Any]

# What fails within so many seconds is tried again; what takes longer has waited for a Redis that hangs.
_AT_ONCE = 0.2
# How many connections there may have to be: others than these questions need one, too.
_FEWEST = 2


def ask(backend: Any, question: Question) -> Any:
    """Ask once, or twice if the connection has ended since it was last used. Raises as redis-py."""
    client = _take_client(backend)
    if client is backend.client:
        return question(client)
    began = time.monotonic()
    try:
        answer = question(client)
    except BaseException as error:
        # Whatever ends it, a signal's exception too: there may be an answer, which is nobody else's.
        client.connection.disconnect()
        client.close()
        if not isinstance(error, backend.connection_errors) or time.monotonic() - began > _AT_ONCE:
            raise
    else:
        backend._kept_client = os.getpid(), client
        return answer
    return question(backend.client)


def surely(backend: Any, question: Question) -> Any:
    """The same, and as often then as Celery is told to try, if it fails at once."""
    began = time.monotonic()
    try:
        return ask(backend, question)
    except backend.connection_errors:
        if time.monotonic() - began > _AT_ONCE:
            raise
    return backend.ensure(lambda: question(backend.client), ())


def _take_client(backend: Any) -> Any:
    """One with a connection of its own, which a signal's handler that asks meanwhile does not find.

    Celery has a backend for each thread, unless it is told not to.
    """
    if backend.thread_safe or backend.client.connection_pool.max_connections < _FEWEST:
        return backend.client
    pid, client = vars(backend).pop("_kept_client", (0, None))
    return client if pid == os.getpid() else backend.client.client()  # else it is the parent's
