"""Sends items: packs them, stores their uploads, and takes the way out where Celery cannot be reached."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.fallback import Fallback, Packed
from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.records.record import Record
from flask_background.celery.uploads.uploads import KEPT
from flask_background.errors import BrokerError, ConfigurationError, SerializationError, UnsupportedError
from flask_background.local.admission import check_executor
from flask_background.payload.calls import pack_call

if TYPE_CHECKING:
    from flask_background.celery.client.session import CelerySession
    from flask_background.celery.handle import CeleryItem
    from flask_background.core.item import WorkItem

#: Finds the handle of an item by its id.
Find = Callable[[str], "CeleryItem[Any] | None"]


class Dispatch:
    """The way of an item from its arguments to its message."""

    def __init__(self, session: CelerySession, fallback: Fallback, find: Find) -> None:
        self._session = session
        self._fallback = fallback
        self._find = find

    def pack(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Make the arguments data, and refuse what Celery cannot do. Returns the item that has its key."""
        task: Any = item._task
        context = self._session.context
        settings, registry = context.settings, context.registry
        if settings.celery is None and settings.backend != "celery" and not registry.names_backend("celery"):
            raise ConfigurationError(
                f"task {task.name} is to go to Celery, and no worker would know that: say it where a task is"
                ' made, @background.task(backend="celery"), or set BACKGROUND_CELERY or BACKGROUND_BACKEND'
            )
        check_executor(task, settings.executors)
        registry.check_portable(task)
        self._check(item, due)
        payload, uploads = pack_call(task.func, item._args, item._kwargs or {}, settings.max_payload)
        key = None if task.key is None else _name_of_key(item.task_name, task.key)
        if key is not None and (other := self._live(self._session.records.holder(key))) is not None:
            return other
        if self._session.uploads is not None and uploads:
            self._session.uploads.save(item.id, uploads)
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
        has_way_out = packed.key is None and self._fallback.is_there_for(task)
        breaker = self._session.breaker
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
        self._fallback.keep(item, packed, due, error)
        return item

    def discard(self, item: WorkItem[Any]) -> None:
        """Remove the uploads of an item that is not sent."""
        if isinstance(item._args, Packed):
            self._session.discard_uploads(item.id, len(item._args.uploads))

    def _publish(
        self, item: CeleryItem[Any], packed: Packed, due: float | None, *, may_follow: bool
    ) -> CeleryItem[Any]:
        """``may_follow``: should this fail, the outbox sends the item later."""
        records = self._session.records
        record = Record.of_item(item, due, packed.payload, len(packed.uploads) or None, packed.key)
        record = self._session.addressed(record)
        is_due = due is None or due <= time.time()
        while (holder := records.put(item.id, record, message_follows=is_due)) is not None:
            if (other := self._live(holder)) is not None:  # else it has just ended
                return other
        item.place(here=False)
        try:
            self._session.publish(item.id, record)
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

    def _live(self, item_id: str | None) -> CeleryItem[Any] | None:
        """The handle of an item, unless it has ended."""
        item = None if item_id is None else self._find(item_id)
        return None if item is None or item.status.is_final else item

    def _check(self, item: WorkItem[Any], due: float | None) -> None:
        """Raise SerializationError or UnsupportedError for what an item cannot have here."""
        name = item.task_name
        if item._task.key is not None and not self._session.records.is_full:
            raise UnsupportedError(
                f"task {name} is enqueued with a key, which takes Redis as Celery's result_backend: set that,"
                " or leave key out, and let the task find out whether its work is done"
            )
        if item._uploads and self._session.uploads is None:
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
