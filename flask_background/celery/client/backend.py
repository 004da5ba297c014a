"""Items for a Celery cluster: sent to its broker, run by its workers, known everywhere by their records."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from flask_background.celery.client.dispatch import Dispatch
from flask_background.celery.client.outbox_sender import OutboxSender
from flask_background.celery.client.session import CelerySession
from flask_background.celery.handle import CeleryItem
from flask_background.celery.records.record import Record
from flask_background.concurrency import native
from flask_background.concurrency.clock import CLOCK
from flask_background.core.backend import Backend
from flask_background.core.callee import Callee
from flask_background.core.status import Outcome, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import BrokerError, EnqueueError, ItemCancelledError

if TYPE_CHECKING:
    from flask_background.celery.app import ThisProcess
    from flask_background.core.item import PlaceLender, WorkItem
    from flask_background.core.request_state import RequestState
    from flask_background.durable.journal.outbox import OutboxRow
    from flask_background.durable.outbox import Outbox

_ID = re.compile("[0-9a-f]{24}")


class CeleryBackend(Backend[CeleryItem[Any]]):
    """The items that one process has sent to Celery, or asks it about."""

    takes_batches = False

    def __init__(self, process: ThisProcess) -> None:
        """Find the app's Celery. Raises ConfigurationError."""
        self.pid = os.getpid()
        self.clock = CLOCK
        self.lock = native.new_lock()
        self.session = session = CelerySession(process)
        self.takes_keys = session.records.is_full
        self.lending: PlaceLender | None = None  # no item runs here
        self.takes_uploads = session.uploads is not None
        self.dispatch = Dispatch(session, self.get)
        self.sender = OutboxSender(session, self.tell_end)
        self._handles: WeakValueDictionary[str, CeleryItem[Any]] = WeakValueDictionary()

    # For views.

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> CeleryItem[Any]:
        return CeleryItem(callee, args, kwargs, state, self)

    def accept(self, item: CeleryItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        try:
            stands_for_it = self.dispatch.pack(item, due) or (item if held else self.dispatch.send(item, due))
        except BaseException as error:
            if item.here:
                self.dispatch.discard(item)
            if isinstance(error, EnqueueError):
                self.session.events.refused(item.task_name, error)
            raise
        if stands_for_it is None:
            return self.dispatch.run_here(item, due)
        if stands_for_it is not item:
            self.dispatch.discard(item)
            item._release_arguments()
            return stands_for_it
        self._handles[item.id] = item
        if not held:
            item._release_arguments()
        self.session.events.enqueued(item)
        return item

    def start_held(self, item: CeleryItem[Any]) -> None:
        try:
            self.submit_reserved(item, None)
        except BrokerError as error:  # the view that could be told is over
            self.session.events.log_error(
                f"Item {item.id} ({item.task_name}) could not be handed over", error, item
            )

    def cancel_held(self, item: CeleryItem[Any], why: str) -> None:
        error = ItemCancelledError(f"item {item.id} ({item.task_name}) was dropped: {why}")
        if self._end_held(item, error):
            self.session.events.dropped(item, why)

    def reserve(self, item: CeleryItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def submit_reserved(self, item: CeleryItem[Any], due: float | None) -> None:
        if item._announced:
            return
        try:
            stands_for_it = self.dispatch.send(item, due)
            if stands_for_it is None:
                self.dispatch.go_on_here(item, due)
        except EnqueueError as error:
            self.session.events.refused(item.task_name, error)
            self._end_held(item, ItemCancelledError(f"item {item.id} could not be handed over: {error}"))
            raise
        if stands_for_it is item:
            item._release_arguments()
        elif stands_for_it is not None:
            self.cancel_held(item, f"item {stands_for_it.id}, which has the same key, is queued or running")

    # For handles.

    def get(self, item_id: str) -> CeleryItem[Any] | None:
        """The handle of an item, wherever it is; None if nobody knows it. Raises EnqueueError."""
        handle = self._handles.get(item_id)
        if handle is None and _ID.fullmatch(item_id):
            row = self._row_of(item_id)
            record = self.session.records.read(item_id) if row is None else Record.of_row(row)
            if record is not None:
                self._handles[item_id] = handle = self.handle_of(item_id, record)
                handle.place(here=False, in_outbox=row is not None)
        return handle

    def record_of(self, item_id: str) -> Record | None:
        """The record of an item that was sent. Raises BrokerError."""
        return self.session.records.read(item_id) if _ID.fullmatch(item_id) else None

    def in_flight(self, limit: int) -> list[tuple[str, Record]]:
        """The app's items that are queued or running there; see ``Records.in_flight``. Raises BrokerError."""
        return self.session.records.in_flight(self.session.home, limit)

    def count_in_flight(self) -> dict[Status, int]:
        """How many of the app's items are queued, and how many run. Raises BrokerError."""
        return self.session.records.count_in_flight(self.session.home)

    def look(self, item: CeleryItem[Any]) -> Record | None:
        """The row or record of an item, if there is one."""
        if item.in_outbox:
            row = self._row_of(item.id)
            if row is not None:
                return Record.of_row(row)
            item.place(here=item.here)  # there is a record now
        return self.session.records.read(item.id)

    def wait_for_end(self, item: CeleryItem[Any], seconds: float) -> bool:
        """Wait up to so many seconds for the end of an item. False, at once, where nobody tells of that."""
        is_sent = not (item.here or item.in_outbox)
        return is_sent and self.session.records.wait_for_end(item.id, seconds)

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Take an item back that has not started, or have a running one asked to end, wherever it is."""
        assert isinstance(item, CeleryItem)
        if item._announced or (item.in_outbox and item.status.is_final):
            return False
        why = ItemCancelledError(f"item {item.id} ({item.task_name}) was cancelled")
        if item.here:
            return self._end_held(item, why)
        answer = self._outbox.cancel(item.id) if item.in_outbox else None
        if answer is None:  # whoever has just sent it knows nothing of that
            answer = self.session.cancel(item.id)
        if answer == "cancelled" and item.status is Status.CANCELLED:
            self.session.events.finished(item, (Status.CANCELLED, None, why))
        if answer is not None:
            self.source_of(item).fire(CancelReason.REQUESTED)
        return answer is not None

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of a handle's token, which fires for what is asked here."""
        with self.lock:
            source = item._source
            if source is None:
                source = CancellationSource()
                item._set_source(source)
            return source

    def handle_of(self, item_id: str, record: Record) -> CeleryItem[Any]:
        """A new handle of the item that a record is about."""
        task = self.session.registry.tasks.get(record.task) or Callee.unknown(record.task, "thread")
        return CeleryItem.of(item_id, record, task, self)

    def tell_end(self, item_id: str, record: Record) -> None:
        """Announce an end that no run has told of, which the record has; its uploads go."""
        self.session.discard_uploads(item_id, record.uploads)
        outcome = record.status, None, record.attempt_of(item_id).error
        self.session.events.finished(self.handle_of(item_id, record), outcome)

    @property
    def _outbox(self) -> Outbox:
        return self.session.process.durable.outbox

    def _row_of(self, item_id: str) -> OutboxRow | None:
        """The journal's row of an item that waits there, or has ended there. Raises JournalError."""
        return self._outbox.get(item_id) if self.session.process.has_journal() else None

    def _end_held(self, item: WorkItem[Any], error: ItemCancelledError) -> bool:
        """End an item that was never sent."""
        outcome: Outcome = Status.CANCELLED, None, error
        with self.lock:
            if item._announced:
                return False
            item._end(outcome)
            item._announce_end()
        self.dispatch.discard(item)
        item._release_arguments()
        self.session.events.finished(item, outcome)
        return True
