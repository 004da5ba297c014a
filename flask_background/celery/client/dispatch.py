"""Sends items: packed first, their uploads stored; and where that fails, by the way out that there is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.publisher import Unsendable
from flask_background.celery.envelope import Envelope
from flask_background.celery.resources import Packed
from flask_background.celery.uploads.uploads import KEPT
from flask_background.core.status import Status
from flask_background.errors import BrokerError, SerializationError, UnsupportedError
from flask_background.local.admission import check_executor
from flask_background.payload.calls import pack_call

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.handle import CeleryItem
    from flask_background.core.item import WorkItem
    from flask_background.core.settings import Settings


class Dispatch:
    """The way of an item from its arguments to its message."""

    def __init__(self, backend: CeleryBackend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings

    def pack(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Make the arguments data, and refuse what Celery cannot do. Returns the item that has its key."""
        task: Any = item._task
        belongings = self._backend.belongings
        check_executor(task, self._settings.executors)
        self._backend.registry.check_portable(task)
        self._backend.cluster.check(task)
        self._check_belongings(item, due)
        payload, uploads = pack_call(task.func, item._args, item._kwargs or {}, self._settings.max_payload)
        packed = Packed.of(item, payload, uploads)
        if packed.key is not None:
            other = belongings.keys.find(packed.key, self._live)
            if other is not None:
                return other
        belongings.save(item.id, uploads)
        item._take_arguments(packed)
        return None

    def send(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Send it, or let it wait in the journal.

        Returns the item, or the one in flight that has its key, or None: then it is to run here. Raises
        BrokerError if there is no way out.
        """
        task: Any = item._task
        packed = item._args
        assert isinstance(packed, Packed)
        # Who has a key is known nowhere else.
        has_way_out = packed.key is None and self._backend.way_out.is_there_for(task)
        breaker = self._backend.breaker
        error = BrokerError("Celery could not be reached a moment ago")
        if not has_way_out or breaker.lets_pass():
            try:
                stands_for_it = self._publish(item, packed, due)
            except BrokerError as failure:
                error = failure
                has_way_out = has_way_out and not isinstance(error, Unsendable)
                if has_way_out:
                    breaker.broke(error)
            else:
                breaker.mended()
                return stands_for_it
        if not has_way_out:
            raise error
        if not task.durable:
            return None
        self._backend.way_out.keep(item, packed, due, error)
        return item

    def let_go(self, item: WorkItem[Any]) -> None:
        """What an item has that is not sent."""
        if isinstance(item._args, Packed):
            self._backend.belongings.let_go(item.id, item._args.uploads, item._args.key)

    def _publish(self, item: CeleryItem[Any], packed: Packed, due: float | None) -> CeleryItem[Any]:
        backend, keys = self._backend, self._backend.belongings.keys
        envelope = Envelope.of(item, due, packed.uploads, packed.key)
        if packed.key is not None:
            other = keys.take(packed.key, item.id, self._live, self._settings.publish_timeout)
            if other is not None:
                return other
        backend.records.begin(item.id, envelope.record(item.task_name))
        item.here = False
        try:
            backend.cluster.publish(item.id, item.task_name, packed.payload, envelope)
        except BrokerError as error:
            item.here = True
            # Else another message follows.
            if isinstance(error, Unsendable) or packed.key is not None or not item._task.durable:
                self._disown(item, envelope)
            raise
        item._take_arguments(())
        if packed.key is not None:
            try:
                keys.confirm(packed.key, item.id, envelope.seconds_left())
            except BrokerError as error:  # the worker that gets it does it again
                what = f"The key of item {item.id} ({item.task_name}) is not confirmed yet"
                backend.events.log_error(what, error)
        return item

    def _check_belongings(self, item: WorkItem[Any], due: float | None) -> None:
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

    def _live(self, item_id: str) -> CeleryItem[Any] | None:
        """The handle of an item, unless it has ended."""
        record = self._backend.records.read(item_id)
        return None if record is None or record.status.is_final else self._backend.get(item_id)

    def _disown(self, item: CeleryItem[Any], envelope: Envelope) -> None:
        """Nobody has confirmed the message. Should it have arrived all the same, it is not to run."""
        lost = envelope.record(item.task_name)._replace(
            status=Status.CANCELLED, finished=time.time(), reason="refused: the broker did not answer"
        )
        try:
            self._backend.records.write(item.id, lost)
        except BrokerError:
            pass  # as dead as the broker
