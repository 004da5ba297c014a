"""The journal's side of the hand-over: items of a process that must end are entered, free for any process."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.durable.journal import statements, wakeups
from flask_background.durable.journal.row import ItemRow, make_row
from flask_background.durable.journal.writers import writer_at
from flask_background.durable.uploads import UploadFolder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flask_background.core.item import WorkItem
    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings


class JournalHeir:
    """The journal in a folder, made if there is none. It is open until ``close``. Raises JournalError.

    The process that must end runs none of these items, so it needs no more of the durable backend than this.
    """

    def __init__(self, folder: Path, settings: Settings, registry: Registry) -> None:
        power = settings.durability == "power"
        self.folder = folder
        self._registry = registry
        self._uploads = UploadFolder(folder / "uploads", settings.max_payload, sync=power)
        self._rows: list[ItemRow] = []
        self._writer = writer_at(folder, power=power)
        self._writer.open()

    def add(self, item: WorkItem[Any], args: tuple[Any, ...], kwargs: dict[str, Any], due: float) -> None:
        """Add an item to the batch. Raises BackgroundError if it cannot be kept in the journal."""
        task = item._task
        self._registry.check_portable(task)
        payload, uploads = self._uploads.pack(item.id, task.func, args, kwargs)
        row = make_row(item, task, payload=payload, uploads=uploads, due=due, owner=None)
        if item._attempt is not None:  # the item waits for another attempt: max_attempts bounds them all
            row = row._replace(attempt=item.attempt, started=item._attempt.started)
        self._rows.append(row)

    def enter(self, seconds: float) -> Mapping[str, str]:
        """Enter the batch; see ``Heir.enter``."""
        rows, self._rows = self._rows, []
        left_out: dict[str, str] = {}
        try:
            found = self._writer.write(partial(statements.insert_each, rows=rows), patience=seconds)
        except BaseException:
            self._forget_uploads(rows)
            raise
        for row, other in zip(rows, found, strict=True):
            if other is not None:
                left_out[row.id] = other.id
                self._uploads.forget(row.id)
        return left_out

    def close(self) -> None:
        """Wake all processes of the app that have this journal open."""
        wakeups.wake_all(self.folder / "owners")
        with suppress(RuntimeError):  # no thread can be started to close the file
            self._writer.close()

    def _forget_uploads(self, rows: list[ItemRow]) -> None:
        for row in rows:
            if row.uploads:
                self._uploads.forget(row.id)
