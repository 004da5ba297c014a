"""One process's use of one journal, shared by the parts of the durable backend."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from flask_background.durable.journal import queries, wakeups
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.row import ItemRow, attempt_of
from flask_background.durable.journal.writers import writer_at
from flask_background.durable.uploads import UploadFolder

if TYPE_CHECKING:
    from pathlib import Path

    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings
    from flask_background.durable.handle import DurableItem
    from flask_background.durable.journal.writer import Writer
    from flask_background.local.backend import LocalBackend


class JournalSession:
    """The access of one app, in one process, to its journal, and to the backend that runs items here."""

    def __init__(
        self,
        local: LocalBackend,
        writer: Writer,
        process_lock: ProcessLock,
        uploads: UploadFolder,
        registry: Registry,
        executors: Collection[str],
    ) -> None:
        self.local = local
        self.writer = writer
        self.process_lock = process_lock
        self.uploads = uploads
        self.registry = registry
        #: The executors whose items this process runs; empty if it leaves all items to other processes.
        self.executors = frozenset(executors)

    @classmethod
    def open(
        cls,
        local: LocalBackend,
        settings: Settings,
        folder: Path,
        registry: Registry,
        executors: Collection[str],
        role: str = "process",
    ) -> Self:
        """Open the journal in a folder. Raises JournalError."""
        power = settings.durability == "power"
        writer = writer_at(folder, power=power)
        writer.open()
        try:
            process_lock = ProcessLock(
                folder / "owners", registry.tasks, local.executors, runs=executors, role=role
            )
        except OSError as error:
            writer.close()
            raise writer.failure(error) from error
        uploads = UploadFolder(folder / "uploads", settings.max_payload, sync=power)
        return cls(local, writer, process_lock, uploads, registry, executors)

    def read_row(self, item_id: str) -> ItemRow | None:
        """Return the row of an item; None if the journal has none. Raises JournalError."""
        try:
            return self.writer.read(partial(queries.get, item_id=item_id))
        except UnicodeEncodeError:  # half a surrogate pair, which no id contains
            return None

    def wake_all(self) -> None:
        """Wake every process of the app, including this one: there is an item to claim or to cancel."""
        wakeups.wake_all(self.process_lock.folder)

    def wake_self(self) -> None:
        """Wake the maintenance thread of this process: there is a reason to look into the journal."""
        wakeups.wake(self.process_lock.fifo_path)

    def announce_end(self, item: DurableItem[Any], row: ItemRow) -> None:
        """Announce the end of an item that no process has run to its end; the row has its outcome."""
        item.doubt(row, self.process_lock.id)
        self.local.events.finished(item, (row.status, None, attempt_of(row).error))
