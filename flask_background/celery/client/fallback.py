"""What becomes of items that cannot be sent: durable ones wait in the journal, others may run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_background.celery.envelope import Envelope
from flask_background.celery.record import Record
from flask_background.celery.resources import Packed
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.errors import BrokerError, JournalError, Stopping
from flask_background.payload import data

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.datastructures import FileStorage

    from flask_background.app_state import BackgroundState
    from flask_background.celery.handle import CeleryItem


class WayOut:
    """The ways of one app's items where Celery cannot be reached."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    @property
    def _part(self) -> BackgroundState:
        part: BackgroundState = self._app.extensions["background.state"]
        return part

    def is_there_for(self, task: Any) -> bool:
        """Whether a task's items have one. A Celery worker, or another child, runs nothing for itself."""
        return task.durable or (task.options.fallback is not None and self._part.holds_items)

    # Into the journal.

    def keep(self, item: CeleryItem[Any], packed: Packed, due: float | None, error: BrokerError) -> None:
        """Let a durable item wait in the journal. Raises BrokerError if it cannot."""
        # Its uploads are where those of all items for Celery are, not beside the journal.
        envelope = Envelope.of(item, due, packed.uploads)
        row = OutboxRow(
            item.id,
            item.task_name,
            packed.payload,
            envelope.options_text(),
            envelope.state,
            envelope.due,
            envelope.enqueued,
        )
        try:
            self._part.durable.outbox.put(row)
        except JournalError as other:
            raise BrokerError(f"{error}. And it cannot wait in the journal: {other}") from other
        item.in_outbox, item.here = True, False
        item._take_arguments(())

    def look(self, item_id: str) -> OutboxRow | None:
        """What the journal knows of an item that waits there, or has ended there. Raises JournalError."""
        return self._part.durable.outbox.get(item_id) if self._part.has_journal() else None

    def take_back(self, item_id: str) -> str | None:
        """Cancel an item that waits there; see ``Outbox.cancel``. Raises JournalError."""
        return self._part.durable.outbox.cancel(item_id)

    # Or into this process.

    def run_here(self, item: CeleryItem[Any], due: float | None) -> CeleryItem[Any]:
        """Make it an item of this process, and accept it. Raises EnqueueError."""
        self._bring_here(item)
        self._part.backend.accept(item, due=due)
        return item

    def go_on_here(self, item: CeleryItem[Any], due: float | None) -> None:
        """The same, of one that was accepted when it was held: however many wait here. Raises Stopping."""
        self._bring_here(item)
        local = self._part.backend
        executor = local.executors[item._task.executor]
        if executor.prepares:
            executor.prepare(item)
        if not local.take(item, held=True):
            raise Stopping(f"{item.task_name} cannot run here instead: this process has stopped taking items")
        local.enter(item, due)

    def _bring_here(self, item: CeleryItem[Any]) -> None:
        packed = item._args
        assert isinstance(packed, Packed)
        self._part.celery.dispatch.let_go(item)

        def rewound(reference: dict[str, Any]) -> FileStorage:
            upload = packed.files[int(reference["n"])]
            upload.stream.seek(0)
            return upload

        item._take_arguments(*data.load_call(packed.payload, rebuild=rewound))
        item._change_host(self._part.backend)
        item.here = item.runs_here = True


def record_of(entry: OutboxRow) -> Record:
    """What is known of an item that waits in the journal."""
    return Record(
        entry.task, entry.status, entry.enqueued, entry.state, finished=entry.finished, reason=entry.reason
    )
