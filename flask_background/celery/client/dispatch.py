"""Sends items: packs them, stores their uploads, and takes the way out where Celery cannot be reached."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.records.record import Record
from flask_background.celery.uploads.uploads import KEPT
from flask_background.errors import BrokerError, SerializationError, UnsupportedError
from flask_background.local.admission import check_executor
from flask_background.payload.calls import pack_call

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.handle import CeleryItem
    from flask_background.core.item import WorkItem

# The longest that a worker holds a message that is not due, in seconds, where it is not sent when it is.
_HOP = 600.0


class Packed(NamedTuple):
    """What an item's arguments have become that is to be sent."""

    payload: str
    #: The uploads, to which the payload refers by their number.
    uploads: Sequence[FileStorage]
    #: What stands for the key elsewhere, as what the user has made it of is nobody's business.
    key: str | None


class Dispatch:
    """The way of an item from its arguments to its message."""

    def __init__(self, backend: CeleryBackend) -> None:
        self._backend = backend

    def pack(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Make the arguments data, and refuse what Celery cannot do. Returns the item that has its key."""
        task: Any = item._task
        context = self._backend.context
        check_executor(task, context.settings.executors)
        context.registry.check_portable(task)
        self._check(item, due)
        payload, uploads = pack_call(task.func, item._args, item._kwargs or {}, context.settings.max_payload)
        key = None if task.key is None else _name_of_key(item.task_name, task.key)
        if key is not None and (other := self._backend.holder(key)) is not None:
            return other
        if self._backend.uploads is not None and uploads:
            self._backend.uploads.save(item.id, uploads)
        item._take_arguments(Packed(payload, uploads, key))
        return None

    def send(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Send an item, or let it wait in the journal.

        Returns the item, or the one in flight that has its key, or None: then it is to run here. Raises
        BrokerError if there is no way out.
        """
        task: Any = item._task
        packed = item._args
        assert isinstance(packed, Packed)
        # Where Celery cannot be reached, nobody knows which item has a key.
        has_way_out = packed.key is None and self._backend.fallback.is_there_for(task)
        breaker = self._backend.breaker
        error = BrokerError("Celery could not be reached a moment ago, and is tried again soon")
        if not has_way_out or breaker.lets_pass():
            try:
                stands_for_it = self._publish(item, packed, due, may_follow=has_way_out and task.durable)
            except BrokerError as failure:
                error = failure
                has_way_out = has_way_out and not isinstance(error, UnsendableError)
                if has_way_out:
                    breaker.broke(error)
            else:
                breaker.mended()
                return stands_for_it
        if not has_way_out:
            raise error
        if not task.durable:
            return None
        self._backend.fallback.keep(item, packed, due, error)
        return item

    def discard(self, item: WorkItem[Any]) -> None:
        """Remove the uploads of an item that is not sent."""
        if isinstance(item._args, Packed) and self._backend.uploads is not None:
            self._backend.uploads.discard(item.id, len(item._args.uploads))

    def publish(self, item_id: str, record: Record) -> None:
        """Send the message of an item whose record was put. Raises BrokerError."""
        seconds = 0.0 if record.due is None else max(0.0, record.due - time.time())
        records = self._backend.records
        if not records.is_full:
            self._backend.publisher.send(item_id, record, with_record=True, delay=min(seconds, _HOP))
        elif not seconds:  # else the reconciler of a worker sends it when it is due
            self._backend.publisher.send(item_id, record, with_record=False)

    def addressed(self, record: Record) -> Record:
        """The record with where it is listed, and how its message goes."""
        queue = self._backend.publisher.queue_of(record.task)
        return record._replace(home=self._backend.context.home, queue=queue)

    def _publish(
        self, item: CeleryItem[Any], packed: Packed, due: float | None, *, may_follow: bool
    ) -> CeleryItem[Any]:
        """``may_follow``: should this fail, the outbox sends the item later."""
        records = self._backend.records
        record = Record.of_item(item, due, packed.payload, len(packed.uploads) or None, packed.key)
        record = self.addressed(record)
        is_due = due is None or due <= time.time()
        holder = records.put(item.id, record, message_follows=is_due)
        if holder is not None and (other := self._backend.get(holder)) is not None:
            return other
        item.place(here=False)
        try:
            self.publish(item.id, record)
        except BrokerError as error:
            item.place(here=True)
            if isinstance(error, UnsendableError) or not may_follow:
                try:
                    if not records.withdraw(item.id):  # its message has arrived all the same
                        item.place(here=False)
                except BrokerError:
                    pass  # as dead as the broker
            if item.here:
                raise
        item._take_arguments(())
        return item

    def _check(self, item: WorkItem[Any], due: float | None) -> None:
        """Raise SerializationError or UnsupportedError for what an item cannot have here."""
        name = item.task_name
        if item._task.key is not None and not self._backend.takes_keys:
            raise UnsupportedError(
                f"task {name} is enqueued with a key, which takes Redis as Celery's result_backend: set that,"
                " or leave key out, and let the task find out whether its work is done"
            )
        if item._uploads and not self._backend.takes_uploads:
            raise SerializationError(
                f"task {name} goes to Celery, and an upload is on this machine: set BACKGROUND_UPLOADS to"
                ' what the workers reach as well, a shared folder or a URL such as "s3://bucket/prefix", or'
                " pass its content"
            )
        if item._uploads and due is not None and due - time.time() > KEPT:
            raise UnsupportedError(
                f"task {name} gets an upload, which is kept for {KEPT / 86_400:g} days, and is to start later"
                " than that: save it, and pass its name"
            )


def _name_of_key(task_name: str, key: str) -> str:
    return hashlib.sha256(f"{task_name}\0{key}".encode(errors="surrogatepass")).hexdigest()
