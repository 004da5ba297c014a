"""Sends items that wait in the journal's outbox: each of them once, as far as can be known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.records.record import Record
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.session import CelerySession
    from flask_background.celery.handle import CeleryItem
    from flask_background.durable.journal.outbox import OutboxRow

#: Makes the handle of an item that a record is about.
HandleOf = Callable[[str, Record], "CeleryItem[Any]"]


class OutboxSender:
    """Celery, as the outbox of the journal knows it."""

    name = "Celery"

    def __init__(self, session: CelerySession, handle_of: HandleOf) -> None:
        self._shared, self._own = session, threading.local()
        self._handle_of = handle_of

    @property
    def _session(self) -> CelerySession:
        """The session of this thread, which is a native one under gevent too."""
        if not hasattr(self._own, "session"):
            self._own.session = self._shared.apart()
        return self._own.session  # type: ignore[no-any-return]

    def is_worth_a_try(self) -> bool:
        """Whether items may be sent. Where the last try has failed, Celery is asked without an item."""
        return not self._shared.breaker.is_broken or self._is_there()

    def nothing_waits(self) -> None:
        """Nothing is left to try it with."""
        self._shared.breaker.mended()

    def submit(self, entry: OutboxRow) -> None:
        """Send an item, or what is left to say of one that was cancelled.

        Raises BrokerError if Celery cannot be reached; any other error is the item's own fault.
        """
        breaker = self._session.breaker
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
        session = self._session
        record = session.addressed(Record.of_row(entry))
        is_due = record.due is None or record.due <= time.time()
        session.records.put(entry.id, record, message_follows=is_due)
        known = session.records.read(entry.id)
        if known is None or (known.status is Status.QUEUED and not known.attempt):
            session.publish(entry.id, record)
        # Else the message of somebody who sent the item before, and died, has arrived.

    def _cancel(self, entry: OutboxRow) -> None:
        records = self._session.records
        record = self._session.addressed(Record.of_row(entry))._replace(status=Status.QUEUED)
        records.put(entry.id, record, message_follows=False)  # for a message that may have arrived
        if records.cancel(entry.id) != "cancelled":
            return
        self._session.discard_uploads(entry.id, record.uploads)
        if entry.status is not Status.CANCELLED:  # else that was told when it was
            self._tell(entry, record._replace(status=Status.CANCELLED, finished=time.time()))

    def _tell(self, entry: OutboxRow, record: Record) -> None:
        item = self._handle_of(entry.id, record)
        error = record.attempt_of(entry.id).error
        self._session.context.events.finished(item, (record.status, None, error))

    def _is_there(self) -> bool:
        try:
            self._session.records.read("0" * 24)
            self._session.publisher.probe()
        except BrokerError as error:
            self._session.breaker.broke(error)
            return False
        return True
