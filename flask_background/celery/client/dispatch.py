"""Sends items: packs them, stores their uploads, and takes the way out where Celery cannot be reached.

Durable items then wait in the journal, and others may run in this process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_background.celery.client.publisher import UnsendableError
from flask_background.celery.records.record import Record
from flask_background.celery.uploads import KEPT
from flask_background.core.executor_check import check_executor
from flask_background.errors import (
    BrokerError,
    ConfigurationError,
    JournalError,
    SerializationError,
    Stopping,
    UnsupportedError,
)
from flask_background.payload import data
from flask_background.payload.calls import pack_call

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.client.session import CelerySession
    from flask_background.celery.handle import CeleryItem
    from flask_background.core.item import WorkItem

#: Finds the handle of an item by its id.
Find = Callable[[str], "CeleryItem[Any] | None"]


class Packed(NamedTuple):
    """The arguments of an item that is to be sent, as data."""

    payload: str
    #: The uploads, to which the payload refers by their number.
    uploads: Sequence[FileStorage]
    #: The key's hash: the key itself may hold private data.
    key: str | None


class Dispatch:
    """The way of one app's items from their arguments to their messages."""

    def __init__(self, session: CelerySession, find: Find) -> None:
        self._session = session
        self._process = session.process
        self._find = find

    def pack(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any] | None:
        """Make the arguments data, and refuse what Celery cannot do. Returns the item that has its key."""
        task: Any = item._task
        settings, registry = self._session.settings, self._session.registry
        if settings.celery is None and settings.backend != "celery" and not registry.names_backend("celery"):
            raise ConfigurationError(
                f"task {task.name} is to go to Celery, and no worker would know that: say it where a task is"
                ' made, @background.task(backend="celery"), or set BACKGROUND_CELERY or BACKGROUND_BACKEND'
            )
        check_executor(task, settings.executors)
        registry.check_portable(task)
        self._check(item, due)
        payload, uploads = pack_call(task.func, item._args, item._kwargs or {}, settings.max_payload)
        key = None
        if task.key is not None:
            name = f"{item.task_name}\0{task.key}".encode(errors="surrogatepass")
            key = hashlib.sha256(name).hexdigest()
            if (other := self._live(self._session.records.holder(key))) is not None:
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
        packed, breaker = _packed(item), self._session.breaker
        # Where Celery cannot be reached, nobody knows which item has a key. A worker's process runs nothing
        # for itself.
        has_fallback = task.options.fallback is not None and self._process.holds_items
        has_way_out = packed.key is None and (task.durable or has_fallback)
        if has_way_out and not breaker.lets_pass():
            error = BrokerError("Celery could not be reached a moment ago, and is tried again soon")
        else:
            try:
                stands_for_it = self._publish(item, packed, due, may_follow=has_way_out and task.durable)
            except BrokerError as failure:
                if not has_way_out or isinstance(failure, UnsendableError):
                    raise
                breaker.broke(failure)
                error = failure
            else:
                breaker.mended()
                return stands_for_it
        if not task.durable:
            return None
        self._keep(item, packed, due, error)
        return item

    def discard(self, item: WorkItem[Any]) -> None:
        """Remove the uploads of an item that is not sent."""
        if isinstance(item._args, Packed):
            self._session.discard_uploads(item.id, len(item._args.uploads))

    def run_here(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any]:
        """Make it an item of this process, and accept it. Raises EnqueueError."""
        self._bring_here(item)
        self._process.backend.accept(item, due=due)
        return item

    def go_on_here(self, item: CeleryItem[Any], due: float | None) -> None:
        """Enter an item that was held, and so accepted, however many wait here. Raises Stopping."""
        self._bring_here(item)
        local = self._process.backend
        local.executors[item._task.executor].prepare(item)
        if not local.take(item, held=True):
            raise Stopping(f"{item.task_name} cannot run here instead: this process has stopped taking items")
        local.submit_reserved(item, due)

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

    def _live(self, item_id: str | None) -> CeleryItem[Any] | None:
        """The handle of an item, unless it has ended."""
        item = None if item_id is None else self._find(item_id)
        return None if item is None or item.status.is_final else item

    def _publish(
        self, item: CeleryItem[Any], packed: Packed, due: float | None, *, may_follow: bool
    ) -> CeleryItem[Any]:
        """``may_follow``: should this fail, the outbox sends the item later."""
        records = self._session.records
        is_due = due is None or due <= time.time()  # then Redis' clock is not asked again
        record = Record.of_item(
            item, None if is_due else due, packed.payload, len(packed.uploads), packed.key
        )
        record = self._session.addressed(record)
        putting: AbstractContextManager[None] = nullcontext()
        if is_due and packed.key is None:
            putting = records.putting(item.id, record)
        else:
            while (holder := records.put(item.id, record, message_follows=is_due)) is not None:
                if (other := self._live(holder)) is not None:  # else it has just ended
                    return other
        item.place(here=False)
        try:
            with putting:
                self._session.publish(item.id, record)
        except BrokerError as error:
            item.place(here=True)
            if isinstance(error, UnsendableError) or not may_follow:
                try:
                    item.place(here=records.withdraw(item.id))  # else its message has arrived all the same
                except BrokerError:
                    pass  # as dead as the broker
            if item.here:
                raise
        item._take_arguments(())
        return item

    def _keep(self, item: CeleryItem[Any], packed: Packed, due: float | None, error: BrokerError) -> None:
        """Let a durable item wait in the journal. Raises BrokerError if it cannot."""
        record = Record.of_item(item, due, packed.payload, len(packed.uploads), None)
        try:
            self._process.durable.outbox.put(record.as_row(item.id))
        except JournalError as other:
            raise BrokerError(f"{error}. And it cannot wait in the journal: {other}") from other
        item.place(here=False, in_outbox=True)
        item._take_arguments(())

    def _bring_here(self, item: CeleryItem[Any]) -> None:
        packed = _packed(item)
        self._session.discard_uploads(item.id, len(packed.uploads))

        def rewound(reference: dict[str, Any]) -> FileStorage:
            upload = packed.uploads[int(reference["n"])]
            upload.stream.seek(0)
            return upload

        item._take_arguments(*data.load_call(packed.payload, rebuild=rewound))
        item.stay_here(self._process.backend)


def _packed(item: CeleryItem[Any]) -> Packed:
    packed = item._args
    assert isinstance(packed, Packed)
    return packed
