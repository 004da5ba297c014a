"""Ways out for items that cannot be sent: durable ones wait in the journal, others may run here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_background.celery.records.record import Record, with_uploads
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.errors import BrokerError, JournalError, Stopping
from flask_background.payload import data

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.client.session import CelerySession
    from flask_background.celery.handle import CeleryItem


class Packed(NamedTuple):
    """The arguments of an item that is to be sent, as data."""

    payload: str
    #: The uploads, to which the payload refers by their number.
    uploads: Sequence[FileStorage]
    #: The key's hash: the key itself may hold private data.
    key: str | None


class Fallback:
    """The ways of one app's items where Celery cannot be reached."""

    def __init__(self, session: CelerySession) -> None:
        self._session = session
        self._process = session.context.process

    def is_there_for(self, task: Any) -> bool:
        """Whether the items of a task have a way out. A worker's process runs nothing for itself."""
        return task.durable or (task.options.fallback is not None and self._process.holds_items)

    # Into the journal.

    def keep(self, item: CeleryItem[Any], packed: Packed, due: float | None, error: BrokerError) -> None:
        """Let a durable item wait in the journal. Raises BrokerError if it cannot."""
        record = Record.of_item(item, due, packed.payload, None, None)
        options = record.options
        if packed.uploads:  # they lie where those of all items for Celery do, not beside the journal
            options = with_uploads(options, len(packed.uploads))
        row = OutboxRow(
            item.id, record.task, packed.payload, options, record.state, record.due, record.enqueued
        )
        try:
            self._process.durable.outbox.put(row)
        except JournalError as other:
            raise BrokerError(f"{error}. And it cannot wait in the journal: {other}") from other
        item.place(here=False, in_outbox=True)
        item._take_arguments(())

    def look(self, item_id: str) -> OutboxRow | None:
        """The journal's row of an item that waits there, or has ended there. Raises JournalError."""
        return self._process.durable.outbox.get(item_id) if self._process.has_journal() else None

    def cancel(self, item_id: str) -> str | None:
        """Cancel an item that waits there; see ``Outbox.cancel``. Raises JournalError."""
        return self._process.durable.outbox.cancel(item_id)

    # Or into this process.

    def run_here(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any]:
        """Make it an item of this process, and accept it. Raises EnqueueError."""
        self._bring_here(item)
        self._process.backend.accept(item, due=due)
        return item

    def go_on_here(self, item: CeleryItem[Any], due: float | None) -> None:
        """Enter an item that was held, and so accepted, however many wait here. Raises Stopping."""
        self._bring_here(item)
        local = self._process.backend
        executor = local.executors[item._task.executor]
        executor.prepare(item)
        if not local.take(item, held=True):
            raise Stopping(f"{item.task_name} cannot run here instead: this process has stopped taking items")
        local.submit_reserved(item, due)

    def _bring_here(self, item: CeleryItem[Any]) -> None:
        packed = item._args
        assert isinstance(packed, Packed)
        self._session.discard_uploads(item.id, len(packed.uploads))

        def rewound(reference: dict[str, Any]) -> FileStorage:
            upload = packed.uploads[int(reference["n"])]
            upload.stream.seek(0)
            return upload

        item._take_arguments(*data.load_call(packed.payload, rebuild=rewound))
        item.stay_here(self._process.backend)
