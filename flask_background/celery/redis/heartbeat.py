"""Signs of life of runs: a value in Redis that changes for as long as a run's process is alive.

A broker that loses its connection to a worker gives the worker's messages out again, though what they have
brought about still runs. So whoever gets such a message watches for signs of that run. No clocks are
compared, and a run that Redis has been away from shows a sign before the watch is over.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from flask_background.celery.records import reaching
from flask_background.celery.redis import records as quick
from flask_background.concurrency import native

if TYPE_CHECKING:
    from celery import Celery

# How often somebody looks who watches, and how many looks without a sign tell that there is no run: 4 s.
_LOOK = 0.25
_LOOKS = 16
# How long the last sign stays, in seconds.
_KEPT = 5

# Which worker this is: its processes are forked from the one that has imported this.
_WORKER = secrets.token_hex(8)


class Life:
    """The signs of an app's runs, where the result backend is Redis; elsewhere none is given or seen.

    The Celery app is one whose waits are bounded. All of it may raise BrokerError.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def show(self, item_id: str) -> None:
        """The item runs here."""
        if self._is_possible():
            with reaching():
                sign = f"{_WORKER}.{secrets.token_hex(4)}"
                self._celery.backend.client.set(self._key(item_id), sign, ex=_KEPT)

    def is_seen(self, item_id: str) -> bool:
        """Whether the item runs anywhere. That it does not takes four seconds to see."""
        if not self._is_possible():
            return False
        first = self._last(item_id)
        for _ in range(_LOOKS):  # counted, not timed: each has got an answer
            native.sleep(_LOOK)
            if self._last(item_id) not in (first, None):
                return True
        return False

    def is_elsewhere(self, item_id: str) -> bool:
        """Whether the last sign is another worker's."""
        sign = self._last(item_id) if self._is_possible() else None
        return sign is not None and not sign.startswith(_WORKER.encode())

    def _is_possible(self) -> bool:
        return quick.is_quick(self._celery)

    def _key(self, item_id: str) -> bytes:
        key: bytes = self._celery.backend.get_key_for_task(f"{item_id}.alive")
        return key

    def _last(self, item_id: str) -> bytes | None:
        with reaching():
            sign: bytes | None = self._celery.backend.client.get(self._key(item_id))
        return sign
