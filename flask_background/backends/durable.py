"""Durable items: on disk when ``enqueue`` returns, run by whichever process of the app has room.

An item that this process has claimed is, until it ends or leaves, an item of the process's LocalBackend like
any other: counted, given a token and the grace period. What is added here is the journal: it hears of every
step, and an end is told only when it is on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from .. import native
from ..errors import Refused
from ..item import WorkItem
from ..journal import owner as owners
from ..journal import queries, store
from ..journal.entry import Entry
from ..journal.owner import Owner
from ..journal.rounds import Insert, Step
from ..journal.writer import writer_at
from ..journaled import JournaledItem
from ..packing import Packing, attempt_of, entry_of, state_of
from ..status import Attempt, Status
from .base import Intake, Phase
from .border import check_executor
from .keeper import Keeper
from .runs import DurableRuns

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Settings
    from ..registry import Registry
    from ..task import Task
    from .local import LocalBackend

# How many items a process claims for each that an executor can run at once: some to go on with.
_AHEAD = 3
# How long the end of a process waits for the journal, in seconds.
_LAST_WRITES = 2.0
# How often somebody who waits for the end of all looks into the journal, in seconds.
_LOOK = 0.02


class DurableBackend(DurableRuns, Intake):
    """The durable items of one app, as one process sees them."""

    def __init__(
        self,
        local: LocalBackend,
        settings: Settings,
        folder: Path,
        registry: Registry,
        *,
        runs: Collection[str],
    ) -> None:
        power = settings.durability == "power"
        self.writer = writer_at(folder, power=power)
        self.writer.open()
        try:
            owner = Owner(folder / "owners", registry.tasks)
        except OSError as error:
            self.writer.close()
            raise self.writer.failure(error) from error
        super().__init__(
            local,
            self.writer,
            owner,
            Packing(folder / "uploads", settings.max_payload, sync=power),
        )
        self.registry = registry
        self.keep = settings.keep
        #: The executors whose items this process runs.
        self.runs = frozenset(runs)
        self._handles: WeakValueDictionary[str, JournaledItem[Any]] = WeakValueDictionary()
        self._backlog = True
        # Whether items of this process wait in the journal: new ones wait behind them, or they would wait
        # for as long as new ones come.
        self._behind = False
        self._claiming = False
        # Whether there was a reason to claim once more while a claim was under way.
        self._again = False
        self._called_at = 0
        local.companion = self
        self.keeper = Keeper(self)

    # For views.

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        assert isinstance(item, JournaledItem)
        task: Any = item._task
        self.registry.check_portable(task)
        check_executor(task, self.local.executors)
        here = due is None and (held or (not self._behind and self._has_room(task.executor)))
        owner = self.owner.id if here else None
        is_due = due is None
        due = item._enqueued if due is None else due
        try:
            payload, uploads = self.packing.pack(item.id, task.func, item._args, item._kwargs or {})
            entry = entry_of(item, task, payload=payload, uploads=uploads, due=due, owner=owner)
            step: Step[Entry | None] = Insert(entry)
            if entry.key is not None:
                step = partial(store.insert, entry=entry)
            other = self.writer.do(step)
        except BaseException as error:
            self.packing.forget(item.id)
            if isinstance(error, Refused):
                self.local.events.refused(item.task_name, error)
            raise
        self.let_arguments_go(item)
        if other is not None:
            self.packing.forget(item.id)
            return self.handle(other)
        item.entry, item.held = entry, held
        self._handles[item.id] = item
        try:
            self.local.events.enqueued(item)
        finally:  # a signal may raise here, and the item has been accepted
            if not here:
                self._backlog = True
                self._behind = self._behind or is_due
                item.leave()
                self._call_for_round()
            elif not self.local.take(item, held):
                self.give_back(item)
        return item

    def release(self, item: WorkItem[Any]) -> None:
        assert isinstance(item, JournaledItem)
        item.held = False
        self.local.release(item)

    def drop(self, item: WorkItem[Any], error: BaseException) -> None:
        self.local.drop(item, error)
        self._end_unrun(item)

    # For handles.

    def get(self, item_id: str) -> JournaledItem[Any] | None:
        """The handle of an item, wherever it is; None if the journal does not know it."""
        handle = self._handles.get(item_id)
        if handle is not None:
            return handle
        entry = self.look(item_id)
        return None if entry is None else self.handle(entry)

    def items(self) -> list[JournaledItem[Any]]:
        """Those that were enqueued last, oldest first."""
        return [self.handle(entry) for entry in self.writer.read(queries.entries)]

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until nothing is in flight here, nor waits, for its time too, so that this process runs it."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            if not self.local.wait_idle(left):
                return False
            if self.has_nothing_to_do(math.inf):
                return True
            if left == 0.0:
                return False
            native.Gate().wait(min(_LOOK, left))

    def look(self, item_id: str) -> Entry | None:
        """What the journal knows of an item."""
        try:
            return self.writer.read(partial(queries.get, item_id=item_id))
        except UnicodeEncodeError:  # half a surrogate pair, which no id has
            return None

    def read_attempt(self, entry: Entry) -> Attempt:
        """The last attempt, as far as the journal knows it."""
        return attempt_of(entry)

    def handle(self, entry: Entry) -> JournaledItem[Any]:
        """The handle of an item in this process."""
        handle = self._handles.get(entry.id)
        if handle is None:
            handle = JournaledItem.of(entry, self.registry.task_of(entry), state_of(entry), self)
            self._handles[entry.id] = handle
        return handle

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw an item that is queued, or ask a running one to end, wherever it is."""
        assert isinstance(item, JournaledItem)
        if item.here:
            asked = self.local.cancel(item)
            if asked and item.status is Status.CANCELLED:
                self._end_unrun(item)
            return asked
        answer = self.writer.do(partial(store.request_cancel, item_id=item.id, now=time.time()))
        if answer == "asked":
            self.call_others()
        elif answer == "cancelled" and (entry := self.look(item.id)) is not None:
            self.tell_end(entry)
        return answer is not None

    # For the keeper.

    def claim(self, now: float) -> None:
        """Take what this process has room for."""
        tasks = list(self.registry.tasks)
        room = {name: room for name in self.runs if (room := self._room(name)) > 0}
        self._backlog = self.writer.read(
            partial(queries.is_free, tasks=tasks, now=now, executors=list(self.runs))
        )
        self._behind = self._behind and self._backlog
        if not self._backlog or not room:
            return
        self._again = True
        if self._claiming:
            return
        self._claiming, self._again = True, False
        claim = partial(store.claim, owner=self.owner.id, room=room, tasks=tasks, now=now)
        # They arrive where others leave, in the order of the commits: one may have been released just before.
        self.writer.later(claim, self._arrive, sync=False)

    def claim_more(self, item: WorkItem[Any]) -> None:
        """An item has ended; take more of its executor's, if some wait and few are here."""
        executor = self.local.executors[item._task.executor]
        few = len(executor.queued) + len(executor.running) <= executor.capacity
        if few and self._backlog:
            self._again = True
            if not self._claiming:
                self.keeper.ring()

    def has_nothing_to_do(self, until: float | None = None) -> bool:
        """Whether nothing is in flight here, and nothing that this process could take is due, now or then."""
        if self.local.ledger.phase is Phase.RUNNING:
            tasks, due = list(self.registry.tasks), time.time() if until is None else until
            free = partial(queries.is_free, tasks=tasks, now=due, executors=list(self.runs))
            if self.writer.read(free):
                return False
        return not self._claiming and self.local.ledger.is_idle()

    def cancel_here(self, item_id: str) -> None:
        """Somebody in another process wants this one to end."""
        item = self._handles.get(item_id)
        if item is not None and item.here:
            self.cancel(item)

    def tell_end(self, entry: Entry) -> None:
        """Tell the end of an item that no process has run to it."""
        item = self.handle(entry)
        error = attempt_of(entry).error
        self.local.events.finished(item, (entry.status, None, error))
        self.packing.forget(entry.id)

    def periodic_entry(self, task: Task[..., Any], planned: float) -> Entry:
        """A new item of a periodic task, which was planned for then."""
        item = JournaledItem[Any](task, (), {}, None, self)
        payload, _ = self.packing.pack(item.id, task.func, (), {})
        return entry_of(item, task, payload=payload, uploads=False, due=planned, owner=None)

    # For the stop.

    def stop_begins(self) -> None:
        """What has not started is left to other processes, and to those that come."""
        for item in self.local.ledger.unfinished():
            waits = isinstance(item, JournaledItem) and not item.held and item.status is Status.QUEUED
            if waits and self.local.let_go(item):
                self.give_back(cast("JournaledItem[Any]", item))

    def spare(self) -> None:
        """The host may kill from now on."""
        self.owner.spare()

    def stopped(self) -> None:
        """Nothing is accepted or started here any more."""
        has_ended = self.keeper.close(_LAST_WRITES)
        if self.writer.flush(_LAST_WRITES) and has_ended and self.local.ledger.is_idle():
            self.owner.close()  # else its items are recovered when the process is gone
        self.writer.close()

    def _arrive(self, entries: list[Entry]) -> None:
        """These have been claimed."""
        self._claiming = False
        for entry in entries:
            try:
                item = self.handle(entry)
            except Exception as error:  # options or a state that nobody can read
                self._park_unread(entry, error)
                continue
            item._attempt, item._told = None, False
            item.entry, item.here, item.status = entry, True, Status.QUEUED
            if self.local.ledger.phase is not Phase.RUNNING or not self.local.take(item):
                self.give_back(item)
        if entries or self._again:
            self.keeper.ring()  # perhaps there are more

    def _park_unread(self, entry: Entry, error: Exception) -> None:
        reason = f"its row cannot be read: {error}"
        self.trouble(f"Item {entry.id} ({entry.task}) was parked: {reason}", error)
        step = partial(store.park, item_id=entry.id, fence=entry.fence, reason=reason, now=time.time())
        self.writer.later(step)

    def _call_for_round(self) -> None:
        """Wake the others once for all that one transaction has entered."""
        rounds = self.writer.rounds
        if rounds != self._called_at:
            self._called_at = rounds
            owners.ring(self.owner.folder, but=None if self.runs else self.owner.id)

    def _end_unrun(self, item: WorkItem[Any]) -> None:
        """It was withdrawn before it ran; the journal hears of that."""
        assert isinstance(item, JournaledItem)
        assert item.entry is not None
        step = partial(
            store.finish, item_id=item.id, fence=item.entry.fence, status=Status.CANCELLED, now=time.time()
        )
        self.writer.later(step, lambda _: self.packing.forget(item.id))

    def _has_room(self, executor: str) -> bool:
        return executor in self.runs and self.local.ledger.phase is Phase.RUNNING and self._room(executor) > 0

    def _room(self, name: str) -> int:
        executor = self.local.executors[name]
        return _AHEAD * executor.capacity - len(executor.queued) - len(executor.running)
