"""Sends items that wait in the journal's outbox: each of them once, as far as can be known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.handle import CeleryItem
from flask_background.celery.records.record import Record
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.durable.journal.outbox import OutboxRow


class OutboxSender:
    """What the outbox of the journal knows of Celery."""

    name = "Celery"

    def __init__(self, backend: CeleryBackend) -> None:
        self._backend = backend

    def is_worth_a_try(self) -> bool:
        """Whether items may be sent. Where the last try has failed, Celery is asked without an item."""
        return not self._backend.breaker.is_broken or self._is_there()

    def nothing_waits(self) -> None:
        """Nothing is left to try it with."""
        self._backend.breaker.mended()

    def submit(self, entry: OutboxRow) -> None:
        """Send an item, or what is left to say of one that was cancelled.

        Raises BrokerError if Celery cannot be reached; any other error is the item's own fault.
        """
        breaker = self._backend.breaker
        try:
            if entry.cancel or entry.status is Status.CANCELLED:
                self._cancel(entry)
            else:
                self._send(entry)
        except UnsendableError as error:
            raise ValueError(str(error)) from error
        except BrokerError as error:
            breaker.broke(error)
            raise
        breaker.mended()

    def tell_end(self, entry: OutboxRow) -> None:
        """Announce the end of an item that has failed or was cancelled in the outbox."""
        self._tell(entry, Record.of_row(entry))

    def _send(self, entry: OutboxRow) -> None:
        backend = self._backend
        record = backend.dispatch.addressed(Record.of_row(entry))
        is_due = record.due is None or record.due <= time.time()
        backend.records.put(entry.id, record, message_follows=is_due)
        known = backend.records.read(entry.id)
        if known is None or (known.status is Status.QUEUED and not known.attempt):
            backend.dispatch.publish(entry.id, record)
        # Else the message of somebody who sent the item before, and died, has arrived.

    def _cancel(self, entry: OutboxRow) -> None:
        records = self._backend.records
        record = self._backend.dispatch.addressed(Record.of_row(entry))._replace(status=Status.QUEUED)
        records.put(entry.id, record, message_follows=False)  # for a message that may have arrived
        if records.cancel(entry.id) != "cancelled":
            return
        if self._backend.uploads is not None:
            self._backend.uploads.discard(entry.id, record.uploads)
        if entry.status is not Status.CANCELLED:  # else that was told when it was
            self._tell(entry, record._replace(status=Status.CANCELLED, finished=time.time()))

    def _tell(self, entry: OutboxRow, record: Record) -> None:
        item = CeleryItem[Any].of(entry.id, record, self._backend.task_of(record), self._backend)
        error = record.attempt_of(entry.id).error
        self._backend.context.events.finished(item, (record.status, None, error))

    def _is_there(self) -> bool:
        try:
            self._backend.records.read("0" * 24)
            self._backend.publisher.probe()
        except BrokerError as error:
            self._backend.breaker.broke(error)
            return False
        return True
