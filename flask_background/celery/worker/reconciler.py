"""Sends messages that are to be sent: of items that are due, whose message was lost, or whose run was.

A thread in the main process of each worker does this for its app's items; of all workers one at a time does
the work, by a lock in Redis that lasts for seconds. A message too many is harmless: the claim decides.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask_background.celery.records.redis import Findings, RedisRecords
from flask_background.celery.worker.lost import settle_lost
from flask_background.concurrency import native
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.client.publisher import Publisher

_EVERY = 0.5
# How long the lock keeps others away, in seconds: for two looks. Then another worker goes on.
_LOCK = 1.0
# How many items one look takes.
_MOST = 100
# After how many seconds a message that was passed over counts as lost.
_OLD = 5.0


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
        """Do what there is to do; returns how many items were to be sent."""
        found = self._records.look(self._home, self._who, lock=_LOCK, most=_MOST, age=_OLD)
        for run in found.lost:
            settle_lost(self._backend, self._records, run, found.now, is_certain=False)
        for item_id in found.again:
            self._send(item_id, "again")
        if found.lost:  # there is more to be sent before others now
            return _MOST
        for item_id in found.due:
            self._send(item_id, "due")
        for queue, passed in found.old:
            for item_id in self._passed_over(found, queue, passed):
                self._send(item_id, f"sent:{queue}")
        return max(len(found.due), len(found.again))

    def _passed_over(self, found: Findings, queue: str, passed: float) -> Sequence[str]:
        """The items whose message is not in the queue: it is empty, or items sent later started long ago."""
        before = found.now - _OLD
        if not self._publisher.is_empty(queue):
            before = min(before, passed)
        return self._records.sent_before(self._home, queue, before, _MOST)

    def _send(self, item_id: str, where: str) -> None:
        message = self._records.next_message(item_id, self._home, where)
        if message is not None:
            record, is_first = message
            self._publisher.send(item_id, record, with_record=False, is_first=is_first)
