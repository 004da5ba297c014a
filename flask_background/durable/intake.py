"""How durable items come into the journal, and into the process that enqueues them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.core.backend import Backend, Phase
from flask_background.core.item import WorkItem
from flask_background.core.status import Status
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal import queries
from flask_background.durable.journal import statements as store
from flask_background.durable.journal import wakeups as bells
from flask_background.durable.journal.group_commit import Insert, Step
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.runs import Runs
from flask_background.durable.uploads import entry_of
from flask_background.errors import EnqueueError, Stopping
from flask_background.local.admission import check_here

if TYPE_CHECKING:
    import sqlite3

    from flask_background.core.registry import Registry
    from flask_background.durable.journal.process_lock import ProcessLock
    from flask_background.durable.journal.writer import Writer
    from flask_background.durable.uploads import UploadFolder
    from flask_background.local.backend import LocalBackend

# How many items a process claims for each that an executor can run at once: some to go on with, where the
# last run was shorter than that (seconds). Others would wait here, and another process perhaps has room.
_AHEAD = 3
_SHORT = 0.2


class Intake(Runs, Backend):
    """Enters items, claimed for this process as long as it has room."""

    item_kind = DurableItem

    def __init__(
        self,
        local: LocalBackend,
        writer: Writer,
        owner: ProcessLock,
        packing: UploadFolder,
        registry: Registry,
        runs: Collection[str],
    ) -> None:
        super().__init__(local, writer, owner, packing)
        self.registry = registry
        #: The executors whose items this process runs.
        self.runs = frozenset(runs)
        #: Whether there are items that this process could claim.
        self.backlog = True
        #: How many items of this process were left in the journal, and of those how many no longer wait: new
        #: ones wait behind them, or they would wait for as long as new ones come.
        self.left = self.caught_up = 0
        self._handles: WeakValueDictionary[str, DurableItem[Any]] = WeakValueDictionary()
        self._called_at = 0

    @uninterruptible
    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        assert isinstance(item, DurableItem)
        here = due is None and (held or (self.left == self.caught_up and self._has_room(item._task.executor)))
        try:
            entry = self._pack(item, due, here)
            other = self._insert(entry)
        except BaseException as error:
            self.packing.forget(item.id)
            if isinstance(error, EnqueueError):
                self.local.events.refused(item.task_name, error)
            raise
        item._release_arguments()
        if other is not None:
            self.packing.forget(item.id)
            return self.handle(other)
        try:
            self._welcome(item, entry, held)
        finally:  # a signal may raise here, and the item has been accepted
            if not here:
                self.left += due is None
                self._leave_to_all(item)
            elif not self.local.take(item, held):
                self.give_back(item)
        return item

    @uninterruptible
    def release(self, item: WorkItem[Any]) -> None:
        assert isinstance(item, DurableItem)
        item.unhold()
        self.local.release(item)

    def drop(self, item: WorkItem[Any], why: str) -> None:
        self.local.drop(item, why)
        self.end_unrun(item)

    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        assert isinstance(item, DurableItem)
        entry = self._pack(item, None, here=True)
        self._welcome(item, entry, held=True)
        if not self.local.take(item, held=True):
            self.packing.forget(item.id)
            raise Stopping.refusing(item.task_name)
        item._release_arguments()
        return item

    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        if not self.local.is_in_flight(item):
            return
        if due is None and item._task.executor not in self.runs:
            due = item._enqueued  # now, but elsewhere
        if due is not None:
            item.accepted(item.entry._replace(due=due, owner=None), held=item.held)
        try:
            other = self._insert(item.entry)
        except BaseException as error:
            self._give_up(item, f"it could not be entered: {error}")
            raise
        if other is not None:
            self._give_up(item, f"item {other.id}, which has the same key, is queued or running")
        elif not self.local.is_in_flight(item):  # cancelled at this very moment
            self.end_unrun(item)
        elif due is None:
            self.release(item)
        elif self.local.let_go(item):
            item.unhold()
            self._leave_to_all(item)

    def _pack(self, item: DurableItem[Any], due: float | None, here: bool) -> ItemRow:
        task: Any = item._task
        self.registry.check_portable(task)
        check_here(task, self.local.executors)
        payload, uploads = self.packing.pack(item.id, task.func, item._args, item._kwargs or {})
        owner = self.owner.id if here else None
        due = item._enqueued if due is None else due
        return entry_of(item, task, payload=payload, uploads=uploads, due=due, owner=owner)

    def _insert(self, entry: ItemRow) -> ItemRow | None:
        step: Step[ItemRow | None] = Insert(entry)
        if entry.key is not None:
            step = partial(store.insert, entry=entry)
        return self.writer.do(step, undo=partial(store.abandon, item_id=entry.id, now=entry.enqueued))

    def _welcome(self, item: DurableItem[Any], entry: ItemRow, held: bool) -> None:
        item.accepted(entry, held=held)
        self._handles[item.id] = item
        self.local.events.enqueued(item)

    def _leave_to_all(self, item: DurableItem[Any]) -> None:
        self.backlog = True
        item.leave()
        self._call_for_round()

    def _give_up(self, item: DurableItem[Any], why: str) -> None:
        self.local.drop(item, why)
        self.packing.forget(item.id)

    def end_unrun(self, item: WorkItem[Any]) -> None:
        """It was withdrawn before it ran; the journal hears of that."""
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        step = partial(_cancel, item_id=item.id, fence=item.entry.fence, now=time.time())
        self.writer.later(step, partial(self._let_uploads_go, item.id))

    def _let_uploads_go(self, item_id: str, is_known: bool) -> None:
        if not is_known:  # else somebody may have it retried
            self.packing.forget(item_id)

    def _call_for_round(self) -> None:
        """Wake the others once for all that one transaction has entered."""
        rounds = self.writer.rounds
        if rounds != self._called_at:
            self._called_at = rounds
            bells.ring(self.owner.folder, but=None if self.runs else self.owner.id)

    def _has_room(self, executor: str) -> bool:
        return executor in self.runs and self.local.ledger.phase is Phase.RUNNING and self.room(executor) > 0

    def room(self, name: str) -> int:
        """How many more items of an executor this process would claim."""
        executor = self.local.executors[name]
        ahead = _AHEAD if self.lasted.get(name, _SHORT) < _SHORT else 1
        return ahead * executor.capacity - len(executor.queued) - len(executor.running)

    @abstractmethod
    def handle(self, entry: ItemRow) -> DurableItem[Any]:
        """The handle of an item in this process."""

    @abstractmethod
    def known(self, entry: ItemRow) -> DurableItem[Any]:
        """The handle of an item in this process, whatever it says of the item."""


def _cancel(db: sqlite3.Connection, item_id: str, fence: int, now: float) -> bool:
    """Cancel an item; says whether the journal knows it at all."""
    store.finish(db, item_id, fence, Status.CANCELLED, now)
    return queries.get(db, item_id) is not None
