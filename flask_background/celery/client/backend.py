"""Items for a Celery cluster: sent to its broker, run by its workers, known everywhere by their records.

The cluster is the app's own, ``app.extensions["celery"]``, or one that
is made of ``BACKGROUND_CELERY``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from flask_background.celery.app import Cluster
from flask_background.celery.client.circuit_breaker import Breaker
from flask_background.celery.client.dispatch import Dispatch
from flask_background.celery.client.fallback import WayOut, record_of
from flask_background.celery.client.outbox_sender import OutboxSender
from flask_background.celery.handle import CeleryItem
from flask_background.celery.record import Record
from flask_background.celery.records import Records
from flask_background.celery.redis.notifications import Listeners
from flask_background.celery.resources import Belongings
from flask_background.concurrency import native
from flask_background.core.backend import Backend
from flask_background.core.hub_events import make_events
from flask_background.core.registry import Unknown
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import BrokerError, EnqueueError, ItemCancelledError

if TYPE_CHECKING:
    from flask import Flask

    from flask_background.core.item import WorkItem
    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings

_ID = re.compile("[0-9a-f]{24}")


class CeleryBackend(Backend):
    """The items that one process has sent to Celery, or asks it about."""

    item_kind = CeleryItem

    def __init__(self, app: Flask, settings: Settings, registry: Registry) -> None:
        self.app = app
        self.pid = os.getpid()
        self.lock = native.new_lock()
        self.events = make_events(app)
        self.registry = registry
        self.cluster = Cluster.of(app, settings, registry)
        self.records = Records(self.cluster.client)
        self._listeners = Listeners(self.cluster.client)
        self.breaker = Breaker(self.events)
        self.way_out = WayOut(app)
        self.sender = OutboxSender(self)
        self.belongings = Belongings(settings, self.cluster.client, self.events)
        self.takes_keys = self.belongings.keys.works
        self.takes_uploads = self.belongings.uploads is not None
        self.dispatch = Dispatch(self, settings)
        self._handles: WeakValueDictionary[str, CeleryItem[Any]] = WeakValueDictionary()

    # For views.

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        assert isinstance(item, CeleryItem)
        try:
            stands_for_it = self.dispatch.pack(item, due) or (item if held else self.dispatch.send(item, due))
        except BaseException as error:
            if item.here:
                self.dispatch.let_go(item)
            if isinstance(error, EnqueueError):
                self.events.refused(item.task_name, error)
            raise
        if stands_for_it is None:
            return self.way_out.run_here(item, due)
        if stands_for_it is not item:
            self.dispatch.let_go(item)
            _close_uploads(item)
            return stands_for_it
        self._handles[item.id] = item
        if not held:
            _close_uploads(item)
        self.events.enqueued(item)
        return item

    def release(self, item: WorkItem[Any]) -> None:
        try:
            self.enter(item, None)
        except BrokerError as error:  # there is no view any more to tell
            self.events.log_error(f"Item {item.id} ({item.task_name}) could not be handed over", error)

    def drop(self, item: WorkItem[Any], why: str) -> None:
        error = ItemCancelledError(f"item {item.id} ({item.task_name}) was dropped: {why}")
        if self._end_held(item, error):
            self.events.dropped(item, why)

    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        assert isinstance(item, CeleryItem)
        if item._announced:
            return
        try:
            stands_for_it = self.dispatch.send(item, due)
            if stands_for_it is None:
                self.way_out.go_on_here(item, due)
        except EnqueueError as error:
            self.events.refused(item.task_name, error)
            self._end_held(item, ItemCancelledError(f"item {item.id} could not be handed over: {error}"))
            raise
        if stands_for_it is item:
            _close_uploads(item)
        elif stands_for_it is not None:
            self.drop(item, f"item {stands_for_it.id}, which has the same key, is queued or running")

    # For handles.

    def get(self, item_id: str) -> CeleryItem[Any] | None:
        """The handle of an item, wherever it is; None if nobody knows it. Raises EnqueueError."""
        handle = self._handles.get(item_id)
        if (handle is not None and (handle.here or handle._announced)) or not _ID.fullmatch(item_id):
            return handle
        entry = self.way_out.look(item_id) if handle is None or handle.in_outbox else None
        record = self._in_this_process().records.read(item_id) if entry is None else record_of(entry)
        if record is None:
            return handle
        if handle is None:
            task = self.registry.tasks.get(record.task) or Unknown(record.task, "thread")
            handle = self._handles[item_id] = CeleryItem.of(item_id, record, task, self)
        handle.in_outbox = entry is not None
        return handle

    def look(self, item: CeleryItem[Any]) -> Record | None:
        """What is known of an item."""
        if item.in_outbox:
            entry = self.way_out.look(item.id)
            if entry is not None:
                return record_of(entry)
            item.in_outbox = False  # there is a record now
        return self._in_this_process().records.read(item.id)

    @contextmanager
    def listen(self, item: CeleryItem[Any], seconds: float) -> Iterator[Callable[[float], None] | None]:
        """Gives what waits for so long, or for news of an item; None if nobody can tell it within seconds."""
        backend = self._in_this_process()

        def hear_of_it(seconds: float) -> None:
            text = hear(seconds) if hear is not None else None
            record = backend.records.told(text) if text is not None else None
            if record is not None:
                item.take(record)

        if item.in_outbox:
            yield None
            return
        with backend._listeners.listen(item.id, seconds) as hear:
            yield None if hear is None else hear_of_it

    def _in_this_process(self) -> CeleryBackend:
        """What a process that was forked from this one has in its place: the connections are the parent's."""
        if self.pid == os.getpid():
            return self
        backend: CeleryBackend = self.app.extensions["background"].celery
        return backend

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Take an item back that has not started, or have a running one asked to end, wherever it is."""
        assert isinstance(item, CeleryItem)
        if item._announced or (item.in_outbox and item.status.is_final):
            return False
        why = ItemCancelledError(f"item {item.id} ({item.task_name}) was cancelled")
        if item.here:
            return self._end_held(item, why)
        asked = item.in_outbox and self.way_out.take_back(item.id, time.time())
        if not asked:  # whoever is handing it over has, or hears of it
            asked = self._in_this_process().ask_to_end(item.id)
        if item.status is Status.CANCELLED and asked == "cancelled":
            self.events.finished(item, (Status.CANCELLED, None, why))
        if asked:
            self.source_of(item).fire(CancelReason.REQUESTED)
        return bool(asked)

    def ask_to_end(self, item_id: str) -> Literal["cancelled", "asked"] | None:
        """Cancel an item that has been sent and is queued; have a running one asked; None if it has ended."""
        # First this, then a look: whoever starts the item writes the one, and then looks for the other.
        self.records.ask_to_end(item_id)
        record = self.records.read(item_id)
        if record is None or record.status.is_final:
            return None
        if record.status is not Status.QUEUED:
            return "asked"
        self.records.write(item_id, record._replace(status=Status.CANCELLED, finished=time.time()))
        self.belongings.let_go(item_id, record.uploads, record.key)
        return "cancelled"

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of a handle's token, which fires for what is asked here."""
        with self.lock:
            if item._source is None:
                item._source = CancellationSource()
            return item._source

    def _end_held(self, item: WorkItem[Any], error: ItemCancelledError) -> bool:
        """End an item that was never sent."""
        outcome: Outcome = Status.CANCELLED, None, error
        with self.lock:
            if item._announced:
                return False
            item._attempt = Attempt()
            item._attempt.error, item._attempt.finished = error, time.time()
            item.status, item._announced = Status.CANCELLED, True
        self.dispatch.let_go(item)
        _close_uploads(item)
        item._args, item._kwargs = (), None
        self.events.finished(item, outcome)
        return True


def _close_uploads(item: WorkItem[Any]) -> None:
    """They have been stored, or are not needed."""
    for upload in item._uploads or ():
        upload.close()
    item._uploads = None
