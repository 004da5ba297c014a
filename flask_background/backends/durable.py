"""Durable items: on disk when ``enqueue`` returns, run by whichever process of the app has room.

An item that this process has claimed is, until it ends or leaves, an item of the process's LocalBackend like
any other: counted, given a token and the grace period. What is added here is the journal: it hears of every
step, and an end is told only when it is on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .. import native
from ..errors import JournalError
from ..item import WorkItem
from ..journal import queries, store
from ..journal.entry import Entry
from ..journal.owner import Owner
from ..journal.writers import writer_at
from ..journaled import JournaledItem, JournalKeeper
from ..packing import Packing, attempt_of, entry_of, state_of
from ..status import Attempt, Status
from .base import Phase
from .entrance import Entrance
from .keeper import Keeper

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Settings
    from ..registry import Registry
    from ..task import Task
    from .local import LocalBackend

# How long the end of a process waits for the journal, in seconds.
_LAST_WRITES = 2.0
# How often somebody who waits for the end of all looks into the journal, in seconds.
_LOOK = 0.02


class DurableBackend(Entrance):
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
            owner = Owner(folder / "owners", registry.tasks, local.executors)
        except OSError as error:
            self.writer.close()
            raise self.writer.failure(error) from error
        super().__init__(
            local,
            self.writer,
            owner,
            Packing(folder / "uploads", settings.max_payload, sync=power),
            registry,
            runs,
        )
        self.keep = settings.keep
        self._claiming = False
        # Whether there was a reason to claim once more while a claim was under way.
        self._again = False
        self._over = False
        self.keeper = Keeper(self)
        local.companion = self
        if local.ledger.phase is Phase.STOPPED:  # opened to be read, after the stop
            self.stopped()

    # For handles.

    def get(self, item_id: str) -> JournaledItem[Any] | None:
        """The handle of an item, wherever it is; None if the journal does not know it."""
        handle = self._handles.get(item_id)
        if handle is not None and not handle._told:
            return handle
        try:
            entry = self.look(item_id)
        except JournalError:
            if handle is None:
                raise
            return handle
        return handle if entry is None else self.handle(entry)

    def items(self, status: Status | None = None, task: str | None = None) -> list[JournaledItem[Any]]:
        """Those that were enqueued last, oldest first; with this status, and of the task with this name."""
        entries = self.writer.read(partial(queries.entries, status=status, task=task))
        return [self.handle(entry) for entry in entries]

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

    def in_this_process(self) -> JournalKeeper:
        """What a process that was forked from this one has in its place. Raises JournalError."""
        keeper: JournalKeeper = self.app.extensions["background"].durable
        return keeper

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
        handle = self._handle(entry)
        handle.doubt(entry, self.owner.id)
        return handle

    def _handle(self, entry: Entry) -> JournaledItem[Any]:
        handle = self._handles.get(entry.id)
        if handle is None:
            handle = JournaledItem.of(entry, self.registry.task_of(entry), state_of(entry), self)
            self._handles[entry.id] = handle
        return handle

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw an item that is queued, or ask a running one to end, wherever it is."""
        assert isinstance(item, JournaledItem)
        request = partial(store.request_cancel, item_id=item.id, now=time.time())
        if item.here:
            answer = None
            with suppress(JournalError):  # should this process die, the next one knows; otherwise we do
                answer = self.writer.do(request)
            # The keeper may have seen the request already.
            return self._cancel_here(item) or (answer is not None and item.status is Status.CANCELLED)
        answer = self.writer.do(request)
        if answer == "asked":
            self.call_others()
        elif answer == "cancelled" and (entry := self.look(item.id)) is not None:
            self.tell_end(entry)
        return answer is not None

    # For the keeper.

    def claim(self, now: float) -> None:
        """Take what this process has room for."""
        tasks = list(self.registry.tasks)
        room = {name: room for name in self.runs if (room := self.room(name)) > 0}
        self.backlog = self.writer.read(
            partial(queries.is_free, tasks=tasks, now=now, executors=list(self.runs))
        )
        self.behind = self.behind and self.backlog
        if not self.backlog or not room:
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
        if few and self.backlog:
            self._again = True
            if not self._claiming:
                self.keeper.ring()

    def has_nothing_to_do(self, until: float | None = None) -> bool:
        """Whether nothing is in flight here, and nothing that this process could take is due, now or then."""
        if self._is_busy():  # before the look into the journal too: what runs now may leave something there
            return False
        if self.local.ledger.phase is Phase.RUNNING:
            tasks, due = list(self.registry.tasks), time.time() if until is None else until
            free = partial(queries.is_free, tasks=tasks, now=due, executors=list(self.runs))
            if self.writer.read(free):
                return False
        return not self._is_busy()

    def _is_busy(self) -> bool:
        return self._claiming or not self.local.ledger.is_idle()

    def cancel_here(self, item_id: str) -> None:
        """Somebody in another process wants this one to end."""
        item = self._handles.get(item_id)
        if item is not None and item.here and not item.is_unwanted():
            self._cancel_here(item)

    def _cancel_here(self, item: JournaledItem[Any]) -> bool:
        asked = self.local.cancel(item)
        if asked and item.status is Status.CANCELLED:
            self.end_unrun(item)
        return asked

    def tell_end(self, entry: Entry) -> None:
        """Tell the end of an item that no process has run to it."""
        item = self.handle(entry)
        error = attempt_of(entry).error
        self.local.events.finished(item, (entry.status, None, error))

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
        with self.lock:
            was_over, self._over = self._over, True
        if was_over:
            return
        has_ended = self.keeper.close(_LAST_WRITES)
        if self.writer.flush(_LAST_WRITES) and has_ended and self.local.ledger.is_idle():
            with suppress(JournalError):  # then they are recovered when the process is gone
                self._give_all_back()
                self.owner.close()
        self.writer.close()

    def _give_all_back(self) -> None:
        """What was claimed at the very last."""
        step = partial(store.recover, owner=self.owner.id, running=(), now=time.time(), charged=False)
        released, ended = self.writer.do(step)
        for entry in ended:
            self.tell_end(entry)
        if released:
            self.call_others()

    def _arrive(self, entries: list[Entry]) -> None:
        """These have been claimed."""
        try:
            for entry in entries:
                self._take(entry)
        finally:
            self._claiming = False  # last, for until they are taken it is all that tells of them
        if entries or self._again:
            self.keeper.ring()  # perhaps there are more

    def _take(self, entry: Entry) -> None:
        try:
            item = self._handle(entry)
        except Exception as error:  # options or a state that nobody can read
            self._park_unread(entry, error)
            return
        item.arrive(entry)
        if self.local.ledger.phase is not Phase.RUNNING or not self.local.take(item):
            self.give_back(item)

    def _park_unread(self, entry: Entry, error: Exception) -> None:
        reason = f"its row cannot be read: {error}"
        self.trouble(f"Item {entry.id} ({entry.task}) was parked: {reason}", error)
        step = partial(store.park, item_id=entry.id, fence=entry.fence, reason=reason, now=time.time())
        self.writer.later(step)
