"""Sends items that wait in the journal's outbox: each of them once, as far as can be known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.records.record import Record
from flask_background.core.status import Status
from flask_background.errors import BrokerError

if TYPE_CHECKING:
    from flask_background.celery.client.session import CelerySession
    from flask_background.durable.journal.outbox import OutboxRow


class OutboxSender:
    """Celery, as the outbox of the journal knows it."""

    name = "Celery"

    def __init__(self, session: CelerySession, tell_end: Callable[[str, Record], None]) -> None:
        self._shared, self._own = session, threading.local()
        self._tell_end = tell_end

    @property
    def _session(self) -> CelerySession:
        """The session of this thread, which is a native one under gevent too."""
        if not hasattr(self._own, "session"):
            self._own.session = self._shared.apart()
        return self._own.session  # type: ignore[no-any-return]

    def is_worth_a_try(self) -> bool:
        """Whether items may be sent. Where the last try has failed, Celery is asked without an item."""
        if not self._shared.breaker.is_broken:
            return True
        try:
            self._session.records.read("0" * 24)
            self._session.publisher.probe()
        except BrokerError as error:
            self._shared.breaker.broke(error)
            return False
        return True

    def nothing_waits(self) -> None:
        """Nothing is left to try it with."""
        self._shared.breaker.mended()

    def submit(self, entry: OutboxRow) -> None:
        """Send an item, or what is left to say of one that was cancelled.

        Raises BrokerError if Celery cannot be reached; any other error is the item's own fault.
        """
        breaker = self._shared.breaker
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
        record = Record.of_row(entry)
        if entry.status is Status.CANCELLED:  # its uploads go when Celery knows of that: it may run there
            record = record._replace(uploads=0)
        self._tell_end(entry.id, record)

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
        session = self._session
        record = session.addressed(Record.of_row(entry))._replace(status=Status.QUEUED)
        session.records.put(entry.id, record, message_follows=False)  # for a message that may have arrived
        was_told = entry.status is Status.CANCELLED
        if session.cancel(entry.id) == "cancelled" and not was_told:
            self._tell_end(entry.id, record._replace(status=Status.CANCELLED, finished=time.time()))
