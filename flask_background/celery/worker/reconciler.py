"""Sends messages that are to be sent: of items that are due, whose message was lost, or whose run was.

A thread in the main process of each worker does this for its app's items; of all workers one at a time does
the work, by a lock in Redis that lasts for seconds. A message too many is harmless: the claim decides.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask_background.celery.records.redis import Findings, NextMessage, RedisRecords
from flask_background.celery.worker.lost import settle_lost
from flask_background.concurrency import native
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.client.publisher import Publisher

_EVERY = 0.5
# How long the lock keeps others away, in seconds.
_LOCK = 3.0
# How many items one look takes.
_MOST = 100
# How long ago a message was sent that may be lost, in seconds.
_OLD = 5.0
# Between two looks lies no more than this while all is well, by Redis' clock and by ours, in seconds.
_GAP = 2.5
# How long runs have after a longer gap to show that they are alive, in seconds: five times as long as
# they take for that.
_STEADY = 2.5


class Reconciler:
    """Looks after the items of one app that are in flight. Both records and publisher are its own."""

    def __init__(self, backend: CeleryBackend, records: RedisRecords, publisher: Publisher) -> None:
        self._backend = backend
        self._home = backend.context.home
        self._records = records
        self._publisher = publisher
        self._who = secrets.token_hex(8)
        self._closed, self._ended = native.Latch(), native.Latch()
        self._in_trouble = False
        # When it has looked last, by Redis' clock and ours, and since when it has done so without a gap.
        self._last = (0.0, 0.0)
        self._steady_since = 0.0

    def start(self) -> None:
        """Begin, on a thread of its own."""
        native.start_thread(self._run, "background-reconciler")

    def close(self, timeout: float) -> None:
        """End, and let another worker go on at once."""
        self._closed.open()
        self._ended.wait(timeout)

    def _run(self) -> None:
        pause = _EVERY
        while not self._closed.wait(pause):
            try:
                pause = _EVERY if self._look() < _MOST else 0.0
                self._in_trouble = False
            except Exception as error:
                self._last = (0.0, 0.0)
                pause = _EVERY
                if not self._in_trouble:  # one line for each time of trouble
                    what = "Items in flight could not be looked after; this is tried again"
                    self._backend.context.events.log_error(what, error)
                self._in_trouble = True
        try:
            self._records.release(self._home, self._who)
        except BrokerError:
            pass  # then the lock lapses
        self._ended.open()

    def _look(self) -> int:
        """Do what there is to do; returns how many items were due."""
        found = self._records.look(self._home, self._who, lock=_LOCK, most=_MOST, age=_OLD)
        is_steady = self._is_steady(found.now)
        if found.is_others:
            return 0
        for item_id in found.due:
            self._send(item_id, "due")
        for item_id in found.again:
            self._send(item_id, "again")
        # While Redis, or this process, was away, no run could be seen to be alive.
        if is_steady:
            for run in found.lost:
                settle_lost(self._backend, self._records, run, found.now, is_certain=False)
                self._send(run.item_id, "due")
        for queue, progress in found.old:
            for item_id in self._passed_over(found, queue, progress):
                self._send(item_id, f"sent:{queue}")
        return len(found.due)

    def _passed_over(self, found: Findings, queue: str, progress: float) -> Sequence[str]:
        """The items whose message is not in the queue: it is empty, or items sent later have started."""
        before = found.now - _OLD
        if progress < before and not self._publisher.is_empty(queue):
            before = progress
        return self._records.sent_before(self._home, queue, before, _MOST)

    def _send(self, item_id: str, where: str) -> None:
        message = self._records.next_message(item_id, self._home, where)
        record = None if message is NextMessage.NONE else self._records.read(item_id)
        if record is not None:
            is_first = message is NextMessage.FIRST
            self._publisher.send(item_id, record, with_record=False, is_first=is_first)

    def _is_steady(self, now: float) -> bool:
        """Whether runs that are alive have had the time to say so since the last gap."""
        mine = time.monotonic()
        if now - self._last[0] > _GAP or mine - self._last[1] > _GAP:
            self._steady_since = mine
        self._last = now, mine
        return mine - self._steady_since >= _STEADY
