"""Hands items over that wait in the journal: each of them once, as far as can be known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.fallback import record_of
from flask_background.celery.client.publisher import Unsendable
from flask_background.celery.envelope import Envelope
from flask_background.celery.handle import CeleryItem
from flask_background.core.registry import Unknown
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.record import Record
    from flask_background.durable.journal.outbox import OutboxRow


class OutboxSender:
    """What the outbox of the journal knows of Celery."""

    name = "Celery"

    def __init__(self, backend: CeleryBackend) -> None:
        self._backend = backend

    def is_worth_a_try(self) -> bool:
        """Where the last try has failed, Celery is asked first: that costs the journal nothing."""
        return not self._backend.breaker.is_broken or self._is_there()

    def nothing_waits(self) -> None:
        """Nothing is left to try it with."""
        self._backend.breaker.mended()

    def submit(self, entry: OutboxRow) -> None:
        """Send an item, or what is left to say of one that was cancelled.

        Raises BrokerError if Celery cannot be reached; anything else is the item's own fault.
        """
        breaker = self._backend.breaker
        try:
            if entry.cancel or entry.status is Status.CANCELLED:
                self._cancel(entry)
            else:
                self._send(entry)
        except Unsendable as error:
            raise ValueError(str(error)) from error
        except BrokerError as error:
            breaker.broke(error)
            raise
        breaker.mended()

    def tell_end(self, entry: OutboxRow) -> None:
        """Announce the end of an item that has failed or was cancelled in the outbox."""
        self._tell(entry, record_of(entry))

    def _send(self, entry: OutboxRow) -> None:
        records, envelope = self._backend.records, Envelope.of_entry(entry)
        record = records.read(entry.id)
        if record is None:
            records.begin(entry.id, envelope.record(entry.task))
        elif record.status is not Status.QUEUED or record.attempt:
            return  # a message has arrived that was sent before: by who enqueued it, or has died since
        self._backend.cluster.publish(entry.id, entry.task, entry.payload, envelope)

    def _cancel(self, entry: OutboxRow) -> None:
        records = self._backend.records
        record = records.read(entry.id)
        if record is None:
            record = Envelope.of_entry(entry).record(entry.task)
            record = record._replace(status=Status.CANCELLED, finished=entry.finished or time.time())
            records.write(entry.id, record)
            self._backend.belongings.let_go(entry.id, record.uploads, record.key)
        elif self._backend.ask_to_end(entry.id) != "cancelled":
            return
        if entry.status is not Status.CANCELLED:  # else that was told when it was
            self._tell(entry, record._replace(status=Status.CANCELLED))

    def _tell(self, entry: OutboxRow, record: Record) -> None:
        task = self._backend.registry.tasks.get(entry.task) or Unknown(entry.task, "thread")
        item = CeleryItem[Any].of(entry.id, record, task, self._backend)
        self._backend.events.finished(item, (record.status, None, record.attempt_of(entry.id).error))

    def _is_there(self) -> bool:
        try:
            self._backend.records.read("0" * 24)
            self._backend.cluster.probe()
        except BrokerError as error:
            self._backend.breaker.broke(error)
            return False
        return True
