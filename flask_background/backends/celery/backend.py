"""Items for a Celery cluster: sent to its broker, run by its workers, known everywhere by their records.

The cluster is the app's own, ``app.extensions["celery"]``, or one that
is made of ``BACKGROUND_CELERY``.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ... import native
from ...errors import BrokerError, ItemCancelled, Refused
from ...events import Events
from ...packing import pack_call
from ...record import Record
from ...recorded import RecordedItem
from ...registry import Unknown
from ...status import Attempt, Outcome, Status
from ...token import CancellationSource, CancelReason
from ..base import Intake
from ..border import check_executor
from .belongings import Belongings, Packed
from .cluster import Cluster
from .envelope import Envelope
from .records import Records

if TYPE_CHECKING:
    from flask import Flask

    from ...config import Settings
    from ...item import WorkItem
    from ...registry import Registry

_ID = re.compile("[0-9a-f]{24}")


class CeleryBackend(Intake):
    """The items that one process has sent to Celery, or asks it about."""

    item_kind = RecordedItem

    def __init__(self, app: Flask, settings: Settings, registry: Registry) -> None:
        self.app = app
        self.pid = os.getpid()
        self.lock = native.new_lock()
        self.events = Events(app)
        self.registry = registry
        self.cluster = Cluster.of(app, settings, registry)
        self.records = Records(self.cluster.client)
        self.belongings = Belongings(settings, self.cluster.client, self.events)
        self.takes_keys = self.belongings.keys.works
        self.takes_uploads = self.belongings.uploads is not None
        self._settings = settings
        self._handles: WeakValueDictionary[str, RecordedItem[Any]] = WeakValueDictionary()

    # For views.

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        assert isinstance(item, RecordedItem)
        try:
            other = self._pack(item, due)
            if other is None and not held:
                other = self._publish(item, due)
        except BaseException as error:
            if item.here:
                self._let_go(item)
            if isinstance(error, Refused):
                self.events.refused(item.task_name, error)
            raise
        for upload in item._uploads or ():
            upload.close()  # it has been stored, or is not needed
        item._uploads = None
        if other is not None:
            self._let_go(item)
            return other
        self._handles[item.id] = item
        self.events.enqueued(item)
        return item

    def release(self, item: WorkItem[Any]) -> None:
        try:
            self.enter(item, None)
        except BrokerError as error:  # there is no view any more to tell
            self.events.trouble(f"Item {item.id} ({item.task_name}) could not be handed over", error)

    def drop(self, item: WorkItem[Any], why: str) -> None:
        error = ItemCancelled(f"item {item.id} ({item.task_name}) was dropped: {why}")
        if self._end_held(item, error):
            self.events.dropped(item, why)

    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        assert isinstance(item, RecordedItem)
        if item._told:
            return
        try:
            other = self._publish(item, due)
        except BrokerError as error:
            self.events.refused(item.task_name, error)
            self._end_held(item, ItemCancelled(f"item {item.id} could not be handed over: {error}"))
            raise
        if other is not None:
            self.drop(item, f"item {other.id}, which has the same key, is queued or running")

    def _pack(self, item: RecordedItem[Any], due: float | None) -> WorkItem[Any] | None:
        """Make the arguments data, and refuse what Celery cannot do. Returns the item that has its key."""
        task: Any = item._task
        check_executor(task, self._settings.executors)
        self.registry.check_portable(task)
        self.cluster.check(task)
        self.belongings.check(item, due)
        payload, uploads = pack_call(task.func, item._args, item._kwargs or {}, self._settings.max_payload)
        packed = Packed.of(item, payload, uploads)
        if (
            packed.key is not None
            and (other := self.belongings.keys.find(packed.key, self._live)) is not None
        ):
            return other
        self.belongings.save(item.id, uploads)
        item._args, item._kwargs = packed, None
        return None

    def _publish(self, item: RecordedItem[Any], due: float | None) -> WorkItem[Any] | None:
        """Send an item. Returns the one in flight with its key instead, if there is one."""
        packed, keys = item._args, self.belongings.keys
        assert isinstance(packed, Packed)
        envelope = Envelope.of(item, due, packed.uploads, packed.key)
        try:
            if packed.key is not None:
                other = keys.take(packed.key, item.id, self._live, self._settings.publish_timeout)
                if other is not None:
                    return other
            self.records.begin(item.id, envelope.record(item.task_name), envelope.seconds_left())
            item.here = False
            try:
                self.cluster.publish(item.id, item.task_name, packed.payload, envelope)
            except BrokerError:
                self._disown(item, envelope)
                raise
        except Refused:
            item.here = True
            raise
        item._args = ()
        if packed.key is not None:
            try:
                keys.confirm(packed.key, item.id, envelope.seconds_left())
            except BrokerError as error:  # the worker that gets it does it again
                self.events.trouble(
                    f"The key of item {item.id} ({item.task_name}) is not confirmed yet", error
                )
        return None

    def _live(self, item_id: str) -> RecordedItem[Any] | None:
        """The handle of an item, unless it has ended."""
        record = self.read(item_id)
        return None if record is None or record.status.is_final else self.get(item_id)

    def _let_go(self, item: WorkItem[Any]) -> None:
        """What an item has that is not sent."""
        if isinstance(item._args, Packed):
            self.belongings.let_go(item.id, item._args.uploads, item._args.key)

    def _disown(self, item: RecordedItem[Any], envelope: Envelope) -> None:
        """Nobody has confirmed the message. Should it have arrived all the same, it is not to run."""
        lost = envelope.record(item.task_name)._replace(
            status=Status.CANCELLED, finished=time.time(), reason="refused: the broker did not answer"
        )
        try:
            self.records.write(item.id, lost)
        except BrokerError:
            pass  # as dead as the broker

    # For handles.

    def get(self, item_id: str) -> RecordedItem[Any] | None:
        """The handle of an item, wherever it is; None if there is no record of it. Raises BrokerError."""
        handle = self._handles.get(item_id)
        if handle is not None and (handle.here or handle._told):
            return handle
        record = self.read(item_id) if _ID.fullmatch(item_id) else None
        if record is None:
            return handle
        if handle is None:
            task = self.registry.tasks.get(record.task) or Unknown(record.task, "thread")
            handle = self._handles[item_id] = RecordedItem.of(item_id, record, task, self)
        return handle

    def read(self, item_id: str) -> Record | None:
        """What is known of an item."""
        return self._in_this_process().records.read(item_id)

    def _in_this_process(self) -> CeleryBackend:
        """What a process that was forked from this one has in its place: the connections are the parent's."""
        if self.pid == os.getpid():
            return self
        backend: CeleryBackend = self.app.extensions["background"].celery
        return backend

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Take an item back that has not started, or have a running one asked to end, wherever it is."""
        assert isinstance(item, RecordedItem)
        if item._told:
            return False
        records = self._in_this_process().records
        why = ItemCancelled(f"item {item.id} ({item.task_name}) was cancelled")
        if item.here:
            return self._end_held(item, why)
        # First this, then a look: whoever starts the item writes the one, and then looks for the other.
        records.ask_to_end(item.id)
        record = self.read(item.id)
        if record is None or record.status.is_final:
            return False
        if record.status is Status.QUEUED:
            record = record._replace(status=Status.CANCELLED, finished=time.time())
            records.write(item.id, record)
            self._in_this_process().belongings.let_go(item.id, record.uploads, record.key)
            item.take(record)
            self.events.finished(item, (Status.CANCELLED, None, why))
        self.source_of(item).fire(CancelReason.REQUESTED)
        return True

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of a handle's token, which fires for what is asked here."""
        with self.lock:
            if item._source is None:
                item._source = CancellationSource()
            return item._source

    def _end_held(self, item: WorkItem[Any], error: ItemCancelled) -> bool:
        """End an item that was never sent."""
        outcome: Outcome = Status.CANCELLED, None, error
        with self.lock:
            if item._told:
                return False
            item._attempt = Attempt()
            item._attempt.error, item._attempt.finished = error, time.time()
            item.status, item._told = Status.CANCELLED, True
        self._let_go(item)
        item._args, item._kwargs = (), None
        self.events.finished(item, outcome)
        return True
