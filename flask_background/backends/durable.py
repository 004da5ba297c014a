"""Durable items: on disk when ``enqueue`` returns, run by whichever process of the app has room.

An item that this process has claimed is, until it ends or leaves, an item of the process's LocalBackend like
any other: counted, given a token and the grace period. What is added here is the journal: it hears of every
step, and an end is told only when it is on disk.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import BackgroundError, ItemCancelled
from ..item import WorkItem
from ..journal import store
from ..journal.entry import Entry
from ..journal.owner import Owner
from ..journal.writer import Writer
from ..journaled import JournaledItem
from ..packing import Packing, attempt_of, progress_as_data
from ..status import Attempt, Progress, Status
from .base import Backend, Phase, Stats
from .keeper import Keeper
from .runs import DurableRuns

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Settings
    from ..registry import Registry
    from .local import LocalBackend

# How many items a process claims for each that an executor can run at once: one to run, and one to go on with.
_AHEAD = 2


class DurableBackend(DurableRuns, Backend):
    """The durable items of one app, as one process sees them."""

    def __init__(
        self, local: LocalBackend, settings: Settings, folder: Path, registry: Registry, *, runs: bool
    ) -> None:
        self.writer = Writer.at(folder, settings.durability)
        owner = Owner(folder)
        packing = Packing(folder / "uploads", settings.max_payload, sync=settings.durability == "power")
        super().__init__(local, self.writer, owner, packing)
        self.registry = registry
        self.keep = settings.keep
        self.runs_items = runs
        self.keeper = Keeper(self)
        self._handles: WeakValueDictionary[str, JournaledItem[Any]] = WeakValueDictionary()

    # For views.

    def accept(self, item: WorkItem[Any], held: bool = False) -> WorkItem[Any]:
        assert isinstance(item, JournaledItem)
        options = item._task.options
        self.local.executor_of(item)  # raises if there is none of that name
        now = time.time()
        due = options.due(now)
        payload, uploads = self.packing.pack(item.id, item._task.func, item._args, item._kwargs or {})
        here = held or (due <= now and self.has_room(item._task.executor))
        entry = Entry.of(
            item, payload=payload, uploads=uploads, due=due, owner=self.owner.id if here else None
        )
        try:
            other = self.writer.do(partial(store.insert, entry=entry))
        except BaseException:
            self.packing.forget(item.id)
            raise
        if other is not None:
            self.packing.forget(item.id)
            return self.handle(other)
        item.entry = entry
        self._handles[item.id] = item
        self.local.events.enqueued(item)
        if not here:
            item.leave()
            self.call_others()
        elif not self.local.take(item, held):
            self.give_back(item)
        return item

    def release(self, item: WorkItem[Any]) -> None:
        self.local.release(item)

    def drop(self, item: WorkItem[Any], error: BaseException) -> None:
        self.local.drop(item, error)

    # For handles.

    def get(self, item_id: str) -> WorkItem[Any] | None:
        handle = self._handles.get(item_id)
        if handle is not None:
            return handle
        entry = self.look(item_id)
        return None if entry is None else self.handle(entry)

    def look(self, item_id: str) -> Entry | None:
        """What the journal knows of an item."""
        return self.writer.read(partial(store.get, id=item_id))

    def handle(self, entry: Entry) -> JournaledItem[Any]:
        """The handle of an item in this process."""
        handle = self._handles.get(entry.id)
        if handle is None:
            task = self.registry.task_of(entry)
            handle = JournaledItem(task, entry.request_state(), self, entry)
            self._handles[entry.id] = handle
        return handle

    def read_attempt(self, entry: Entry) -> Attempt:
        """The last attempt, as far as the journal knows it."""
        return attempt_of(entry)

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw an item that is queued, or ask a running one to end, wherever it is."""
        assert isinstance(item, JournaledItem)
        if item.here and self.local.cancel(item):
            return True
        answer = self.writer.do(partial(store.request_cancel, id=item.id, now=time.time()))
        if answer == "asked":
            self.call_others()
        return answer is not None

    def items(self) -> list[WorkItem[Any]]:
        entries = self.writer.read(store.entries)
        return [self.handle(entry) for entry in entries]
