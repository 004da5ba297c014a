"""Tells who waits for an item that its record in Redis has changed: Celery publishes that there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.celery.redis import records as quick
from flask_background.concurrency import native

if TYPE_CHECKING:
    from celery import Celery

#: Waits for so many seconds, or for news: returns what was published, if it was that.
Hear = Callable[[float], bytes | None]

# How many of a process listen at the same time, and of all connections at most that share: the others look.
_MOST = 16
_SHARE = 4


class Listeners:
    """Those of one process. Each has a connection of its own, which the next one takes over."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._client: Any = None
        self._free: list[Any] | None = None  # a pubsub each, or None until it is needed

    @contextmanager
    def listen(self, item_id: str, seconds: float) -> Iterator[Hear | None]:
        """Gives what waits for the next news of an item; None if nobody can tell it within seconds."""
        pubsub = None
        if quick.is_quick(self._celery):
            pubsub = self._subscribed(self._celery.backend.get_key_for_task(item_id), seconds)
        if pubsub is None:
            yield None
            return
        try:
            yield partial(_hear, pubsub)
        finally:
            self._release(pubsub)

    def _subscribed(self, channel: bytes, seconds: float) -> Any:
        """Whoever listens to this alone; None if too many do, or Redis does not answer."""
        if self._free is None:
            backend = self._celery.backend
            self._client = backend._create_client(**backend.connparams)  # as Celery's, which is a thread's
            self._free = [None] * min(_MOST, self._client.connection_pool.max_connections // _SHARE)
        try:
            pubsub = self._free.pop() or self._client.pubsub()
        except IndexError:
            return None
        is_there = False
        try:
            pubsub.subscribe(channel)
            end = time.monotonic() + seconds
            while not is_there and (left := end - time.monotonic()) > 0:
                message = pubsub.get_message(timeout=left)
                is_there = message is not None and message["type"] == "subscribe"
        except Exception:  # whoever looks instead hears of it
            pass
        finally:
            if not is_there:
                self._forget(pubsub)
        return pubsub if is_there else None

    def _release(self, pubsub: Any) -> None:
        assert self._free is not None
        is_free = False
        try:
            pubsub.unsubscribe()
            is_free = True
        except Exception:
            pass
        finally:
            if is_free:
                self._free.append(pubsub)
            else:
                self._forget(pubsub)

    def _forget(self, pubsub: Any) -> None:
        assert self._free is not None
        self._free.append(None)
        pubsub.close()


def _hear(pubsub: Any, seconds: float) -> bytes | None:
    end = time.monotonic() + seconds
    try:
        message = pubsub.get_message(timeout=seconds)
    except Exception:
        native.Latch().wait(end - time.monotonic())
    else:
        if message is not None and message["type"] == "message":
            data: bytes = message["data"]
            return data
    return None
