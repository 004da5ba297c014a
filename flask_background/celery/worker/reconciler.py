"""Sends messages that are to be sent: of items that are due, whose message was lost, or whose run was.

A thread in the main process of each worker does this for its app's items; of all workers one at a time does
the work, by a lock in Redis that lasts for a second. A message too many is harmless: the claim decides.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from flask_background.celery.records.redis import MOST, OLD, RedisRecords
from flask_background.celery.worker.lost import settle_lost
from flask_background.celery.worker.periodic import Periodic
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend


class Reconciler(Periodic):
    """Looks after the items of one app that are in flight, by connections of its own."""

    name, trouble = "reconciler", "Items in flight"

    def __init__(self, backend: CeleryBackend) -> None:
        super().__init__(backend.session.events)
        session = backend.session.apart()
        assert isinstance(session.records, RedisRecords)
        self._backend, self._home = backend, backend.session.home
        self._records, self._publisher = session.records, session.publisher
        self._who = secrets.token_hex(8)
        #: By queue, when the latest of the items was sent that have started: lately, and a while before.
        self._noted: Mapping[str, float] = {}
        self._passed: Mapping[str, float] = {}
        self._noted_at = 0.0

    def look(self) -> bool:
        found = self._records.look(self._home, self._who)
        for run in found.lost:
            settle_lost(self._backend, self._records, run, found.now, is_certain=False)
        for item_id in found.due:
            self._send(item_id, "due")
        if found.now - self._noted_at > OLD:
            self._noted_at, self._passed, self._noted = found.now, self._noted, found.progress
        for queue in found.old:
            for item_id in self._passed_over(found.now - OLD, queue):
                self._send(item_id, f"sent:{queue}")
        return bool(found.lost) or len(found.due) >= MOST

    def leave(self) -> None:
        with suppress(BrokerError):  # then the lock lapses
            self._records.release(self._home, self._who)

    def _passed_over(self, before: float, queue: str) -> Sequence[str]:
        """The items whose message is not in the queue: it is empty, or items sent later started long ago."""
        if not self._publisher.is_empty(queue):
            before = min(before, self._passed.get(queue, 0.0))
        return self._records.sent_before(self._home, queue, before)

    def _send(self, item_id: str, where: str) -> None:
        message = self._records.next_message(item_id, self._home, where)
        if message is not None:
            record, is_first = message
            self._publisher.send(item_id, record, with_record=False, is_first=is_first)
