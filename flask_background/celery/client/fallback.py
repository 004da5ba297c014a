"""What becomes of items that cannot be sent: durable ones wait in the journal, others may run here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.celery.envelope import with_uploads
from flask_background.celery.record import Record
from flask_background.celery.resources import Packed
from flask_background.core.settings import OUTBOX
from flask_background.durable.journal import statements as store
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.uploads import entry_of
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
        due = item._enqueued if due is None else due
        try:
            # Its uploads are where those of all items for Celery are, not beside the journal.
            entry = entry_of(item, item._task, payload=packed.payload, uploads=False, due=due, owner=None)
            if packed.uploads is not None:
                entry = entry._replace(options=with_uploads(entry.options, packed.uploads))
            self._part.durable.outbox.put(entry)
        except JournalError as other:
            raise BrokerError(f"{error}. And it cannot wait in the journal: {other}") from other
        item.in_outbox, item.here = True, False
        item._take_arguments(())

    def look(self, item_id: str) -> ItemRow | None:
        """What the journal knows of an item that waits there, or has ended there. Raises JournalError."""
        if not self._part.has_journal():
            return None
        entry = self._part.durable.look(item_id)
        return entry if entry is not None and entry.executor == OUTBOX else None

    def take_back(self, item_id: str, now: float) -> str | None:
        """Cancel an item that waits there; see ``store.request_cancel``. Raises JournalError."""
        writer = self._part.durable.writer
        answer: str | None = writer.do(partial(store.request_cancel, item_id=item_id, now=now))
        return answer

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


def record_of(entry: ItemRow) -> Record:
    """What is known of an item that waits in the journal."""
    return Record(
        entry.task, entry.status, entry.enqueued, entry.state, finished=entry.finished, reason=entry.reason
    )
