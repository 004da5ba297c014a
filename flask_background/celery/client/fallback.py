"""What becomes of items that cannot be sent: durable ones wait in the journal, others may run here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.celery.client.dispatch import Packed
from flask_background.celery.records.record import with_uploads
from flask_background.core.settings import OUTBOX
from flask_background.durable.journal import statements
from flask_background.durable.uploads import entry_of
from flask_background.errors import BrokerError, JournalError, Stopping
from flask_background.payload import data

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.app import ThisProcess
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.handle import CeleryItem
    from flask_background.durable.journal.row import ItemRow


class Fallback:
    """The ways of one app's items where Celery cannot be reached."""

    def __init__(self, backend: CeleryBackend, process: ThisProcess) -> None:
        self._backend = backend
        self._process = process

    def is_there_for(self, task: Any) -> bool:
        """Whether the items of a task have a way out. A worker's process runs nothing for itself."""
        return task.durable or (task.options.fallback is not None and self._process.holds_items)

    # Into the journal.

    def keep(self, item: CeleryItem[Any], packed: Packed, due: float | None, error: BrokerError) -> None:
        """Let a durable item wait in the journal. Raises BrokerError if it cannot."""
        due = item._enqueued if due is None else due
        try:
            # Its uploads lie where those of all items for Celery do, not beside the journal.
            row = entry_of(item, item._task, payload=packed.payload, uploads=False, due=due, owner=None)
            if packed.uploads:
                row = row._replace(options=with_uploads(row.options, len(packed.uploads)))
            self._process.durable.outbox.put(row)
        except JournalError as other:
            raise BrokerError(f"{error}. And it cannot wait in the journal: {other}") from other
        item.in_outbox, item.here = True, False
        item._take_arguments(())

    def look(self, item_id: str) -> ItemRow | None:
        """What the journal knows of an item that waits there, or has ended there. Raises JournalError."""
        if not self._process.has_journal():
            return None
        row = self._process.durable.look(item_id)
        return row if row is not None and row.executor == OUTBOX else None

    def cancel(self, item_id: str, now: float) -> str | None:
        """Cancel an item that waits there; see ``statements.request_cancel``. Raises JournalError."""
        writer = self._process.durable.writer
        answer: str | None = writer.do(partial(statements.request_cancel, item_id=item_id, now=now))
        return answer

    # Or into this process.

    def run_here(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any]:
        """Make it an item of this process, and accept it. Raises EnqueueError."""
        self._bring_here(item)
        self._process.backend.accept(item, due=due)
        return item

    def go_on_here(self, item: CeleryItem[Any], due: float | None) -> None:
        """The same, of one that was accepted when it was held: however many wait here. Raises Stopping."""
        self._bring_here(item)
        local = self._process.backend
        executor = local.executors[item._task.executor]
        executor.prepare(item)
        if not local.take(item, held=True):
            raise Stopping(f"{item.task_name} cannot run here instead: this process has stopped taking items")
        local.enter(item, due)

    def _bring_here(self, item: CeleryItem[Any]) -> None:
        packed = item._args
        assert isinstance(packed, Packed)
        self._backend.dispatch.discard(item)

        def rewound(reference: dict[str, Any]) -> FileStorage:
            upload = packed.uploads[int(reference["n"])]
            upload.stream.seek(0)
            return upload

        item._take_arguments(*data.load_call(packed.payload, rebuild=rewound))
        item._change_host(self._process.backend)
        item.here = item.runs_here = True
