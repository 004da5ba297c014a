"""The means of one process to send items to Celery and to read them: records, publisher, uploads."""

from __future__ import annotations

import time
from copy import copy
from typing import Literal, Self

from flask_background.celery.app import ThisProcess, celery_of, check_settings
from flask_background.celery.client.circuit_breaker import Breaker
from flask_background.celery.client.publisher import Publisher
from flask_background.celery.records import records_of
from flask_background.celery.records.base import Records
from flask_background.celery.records.record import Record
from flask_background.celery.uploads import Uploads
from flask_background.core.hub_events import make_events

# The longest that a worker holds a message that is not due, in seconds, where no reconciler sends it then.
_HOP = 600.0


class CelerySession:
    """The means of one app in one process."""

    def __init__(self, process: ThisProcess) -> None:
        """Find the app's Celery. Raises ConfigurationError."""
        self.process, self.settings, self.registry = process, process.settings, process.registry
        self.events = make_events(process.app)
        check_settings(celery_of(process.app, self.settings))
        self._connect()
        place, keep = self.settings.uploads, self.settings.keep
        self.uploads = None if place is None else Uploads(place, keep, self.events)
        self.breaker = Breaker(self.events)

    @property
    def home(self) -> str:
        """The name under which the items of this app are listed; the same in its site and its workers."""
        return self.process.app.name

    def apart(self) -> Self:
        """Copy the session, with connections of its own.

        Under gevent a native thread cannot use the connections of greenlets, or of another native thread.
        """
        other = copy(self)
        other._connect()
        return other

    def _connect(self) -> None:
        celery, settings = celery_of(self.process.app, self.settings), self.settings
        self.records: Records = records_of(celery, settings)
        self.publisher = Publisher(celery, settings.publish_timeout, settings.kill_after)

    def addressed(self, record: Record) -> Record:
        """The record with where it is listed, and which way its message goes. Raises BrokerError."""
        return record._replace(home=self.home, queue=self.publisher.queue_of(record.task))

    def publish(self, item_id: str, record: Record) -> None:
        """Send the message of an item whose record was put. Raises BrokerError."""
        seconds = 0.0 if record.due is None else max(0.0, record.due - time.time())
        if not self.records.is_full:
            self.publisher.send(item_id, record, with_record=True, delay=min(seconds, _HOP))
        elif not seconds:  # else the reconciler of a worker sends it when it is due
            self.publisher.send(item_id, record, with_record=False)

    def is_over(self, item_id: str) -> bool:
        """Whether it is known that an item has ended. Raises BrokerError."""
        record = self.records.read(item_id)
        return record is not None and record.status.is_final

    def cancel(self, item_id: str, *, force: bool = False) -> Literal["cancelled", "asked"] | None:
        """Cancel an item; see ``Records.cancel``. Its uploads go if it will not run. Raises BrokerError."""
        answer = self.records.cancel(item_id, force=force)
        if answer == "cancelled" and self.uploads is not None:
            record = self.records.read(item_id)
            if record is not None:
                self.uploads.discard(item_id, record.uploads)
        return answer

    def discard_uploads(self, item_id: str, count: int) -> None:
        """Remove the uploads of an item that has ended, or is not sent. Raises nothing."""
        if self.uploads is not None:
            self.uploads.discard(item_id, count)
