"""Durable items: on disk when ``enqueue`` returns, run by whichever process of the app has room.

An item that this process has claimed is, until it ends or leaves, an item of the process's LocalBackend like
any other: counted, given a token and the grace period. What is added here is the journal: it hears of every
step, and an end is told only when it is on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.backend import Phase
from flask_background.core.item import WorkItem
from flask_background.core.settings import OUTBOX
from flask_background.core.status import Attempt, Status
from flask_background.durable.claiming import Claimer
from flask_background.durable.handle import DurableItem, JournalHost
from flask_background.durable.journal import queries
from flask_background.durable.journal import statements as store
from flask_background.durable.journal.process_lock import ProcessLock
from flask_background.durable.journal.row import ItemRow
from flask_background.durable.journal.writers import writer_at
from flask_background.durable.maintenance import JournalMaintenance
from flask_background.durable.outbox import Outbox, Sender
from flask_background.durable.uploads import UploadFolder, attempt_of, entry_of, state_of
from flask_background.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

    from flask_background.core.callee import Callee
    from flask_background.core.registry import Registry
    from flask_background.core.settings import Settings
    from flask_background.local.backend import LocalBackend

# How long the end of a process waits for the journal, in seconds.
_LAST_WRITES = 2.0
# How often somebody who waits for the end of all looks into the journal, in seconds.
_LOOK = 0.02


class DurableBackend(Claimer):
    """The durable items of one app, as one process sees them."""

    def __init__(
        self,
        local: LocalBackend,
        settings: Settings,
        folder: Path,
        registry: Registry,
        *,
        runs: Collection[str],
        sender: Callable[[], Sender] | None = None,
        in_this_process: Callable[[], JournalHost],
    ) -> None:
        power = settings.durability == "power"
        self.writer = writer_at(folder, power=power)
        self.writer.open()
        try:
            owner = ProcessLock(
                folder / "owners", registry.tasks, [*local.executors, *[OUTBOX] * bool(sender)]
            )
        except OSError as error:
            self.writer.close()
            raise self.writer.failure(error) from error
        super().__init__(
            local,
            self.writer,
            owner,
            UploadFolder(folder / "uploads", settings.max_payload, sync=power),
            registry,
            runs,
        )
        self.keep = settings.keep
        self._in_this_process = in_this_process
        self._over = False
        self.outbox = Outbox(self, sender)
        self.keeper = JournalMaintenance(self)
        local.companion = self
        if local.ledger.phase is Phase.STOPPED:  # opened to be read, after the stop
            self.stopped()

    # For handles.

    def get(self, item_id: str) -> DurableItem[Any] | None:
        """The handle of an item, wherever it is; None if the journal does not know it."""
        handle = self._handles.get(item_id)
        if handle is not None and not handle._announced:
            return handle
        try:
            entry = self.look(item_id)
        except JournalError:
            if handle is None:
                raise
            return handle
        # What waits for Celery is its backend's to know.
        return handle if entry is None or entry.executor == OUTBOX else self.handle(entry)

    def items(self, status: Status | None = None, task: str | None = None) -> list[DurableItem[Any]]:
        """Those that were enqueued last, oldest first; with this status, and of the task with this name."""
        entries = self.writer.read(partial(queries.entries, status=status, task=task))
        return [self.handle(entry) for entry in entries if entry.executor != OUTBOX]

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until nothing is in flight here, nor waits, for its time too, so that this process runs it."""
        end = deadline(timeout)
        while True:
            left = max(0.0, end - time.monotonic())
            if not self.local.wait_idle(left):
                return False
            if self.has_nothing_to_do(math.inf):
                return True
            if left == 0.0:
                return False
            native.Latch().wait(min(_LOOK, left))

    def in_this_process(self) -> JournalHost:
        """The backend in place of this one, in a process forked from this one. Raises JournalError."""
        return self._in_this_process()

    def look(self, item_id: str) -> ItemRow | None:
        """What the journal knows of an item."""
        try:
            return self.writer.read(partial(queries.get, item_id=item_id))
        except UnicodeEncodeError:  # half a surrogate pair, which no id has
            return None

    def read_attempt(self, entry: ItemRow) -> Attempt:
        """The last attempt, as far as the journal knows it."""
        return attempt_of(entry)

    def handle(self, entry: ItemRow) -> DurableItem[Any]:
        """The handle of an item in this process."""
        handle = self.known(entry)
        handle.doubt(entry, self.owner.id)
        return handle

    def known(self, entry: ItemRow) -> DurableItem[Any]:
        """The handle of an item in this process, whatever it says of the item."""
        handle = self._handles.get(entry.id)
        if handle is None:
            handle = DurableItem.of(
                entry, self.registry.task_of(entry.task, entry.executor, entry.options), state_of(entry), self
            )
            self._handles[entry.id] = handle
        return handle

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw an item that is queued, or ask a running one to end, wherever it is."""
        assert isinstance(item, DurableItem)
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

    def cancel_here(self, item_id: str) -> None:
        """Somebody in another process wants this one to end."""
        item = self._handles.get(item_id)
        if item is not None and item.here and not item._is_unwanted():
            self._cancel_here(item)

    def _cancel_here(self, item: DurableItem[Any]) -> bool:
        asked = self.local.cancel(item)
        if asked and item.status is Status.CANCELLED:
            self.end_unrun(item)
        return asked

    def tell_end(self, entry: ItemRow) -> None:
        """Tell the end of an item that no process has run to it."""
        item = self.handle(entry)
        error = attempt_of(entry).error
        self.local.events.finished(item, (entry.status, None, error))

    def periodic_entry(self, task: Callee, planned: float) -> ItemRow:
        """A new item of a periodic task, which was planned for then."""
        item = DurableItem[Any](task, (), {}, None, self)
        payload, _ = self.packing.pack(item.id, task.func, (), {})
        return entry_of(item, task, payload=payload, uploads=False, due=planned, owner=None)

    # For the stop.

    def stop_begins(self) -> None:
        """What has not started is left to other processes, and to those that come."""
        for item in self.local.ledger.unfinished():
            waits = isinstance(item, DurableItem) and not item.held and item.status is Status.QUEUED
            if waits and self.local.let_go(item):
                self.give_back(cast("DurableItem[Any]", item))

    def expect_kill(self) -> None:
        """The host may kill from now on."""
        self.owner.expect_kill()

    def stopped(self) -> None:
        """Nothing is accepted or started here any more."""
        with self.lock:
            was_over, self._over = self._over, True
        if was_over:
            return
        has_ended = self.outbox.close(_LAST_WRITES) & self.keeper.close(_LAST_WRITES)
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
