"""The durable backend: an item is on disk when ``enqueue`` returns, and any process of the app may run it.

An item that this process has claimed is, until it ends or leaves, an item of the process's LocalBackend like
any other: counted, given a token and the grace period. This module adds the journal, which records every
step. An end is announced only when it is on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.backend import Backend, Entry, Phase
from flask_background.core.status import Status
from flask_background.durable.backlog import Backlog
from flask_background.durable.bulk import BulkActions
from flask_background.durable.claiming import Claimer
from flask_background.durable.handle import DurableItem
from flask_background.durable.handles import Handles
from flask_background.durable.intake import Intake
from flask_background.durable.maintenance import JournalMaintenance
from flask_background.durable.outbox import Outbox, Sender
from flask_background.durable.pauses import Pauses
from flask_background.durable.runs import Runs
from flask_background.durable.session import JournalSession
from flask_background.errors import JournalError
from flask_background.local.load import load_of

if TYPE_CHECKING:
    from pathlib import Path

    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem
    from flask_background.core.registry import Registry
    from flask_background.core.request_state import RequestState
    from flask_background.core.settings import Settings
    from flask_background.local.backend import LocalBackend

# How long the end of a process waits for the journal, in seconds.
_LAST_WRITES = 2.0
# How often a thread that waits for all items reads the journal, in seconds.
_LOOK = 0.02


class DurableBackend(Backend[DurableItem[Any]]):
    """The durable items of one app, as one process sees them.

    ``executors``: the executors whose items this process runs; ``role``: what the process is, for people;
    ``only_awaited``: only the items for which a
    run waits in this process. ``sender`` returns the object that forwards items to another backend.
    ``in_this_process`` gives a forked process the backend in place of this one.
    Raises JournalError.
    """

    def __init__(
        self,
        local: LocalBackend,
        settings: Settings,
        folder: Path,
        registry: Registry,
        *,
        executors: Collection[str],
        role: str = "process",
        only_awaited: bool = False,
        sender: Callable[[], Sender] | None = None,
        in_this_process: Callable[[], DurableBackend],
    ) -> None:
        self.session = session = JournalSession.open(local, settings, folder, registry, executors, role)
        backlog = Backlog(session, only_awaited)
        self.pauses = Pauses(session)
        self.runs = Runs(session, backlog, self.pauses, lambda: in_this_process().runs)
        self.handles = Handles(session, self.runs)
        self.bulk = BulkActions(session, self.handles, self.runs)
        self.claimer = Claimer(session, self.handles, self.runs, backlog, self.pauses)
        self.outbox = Outbox(session, sender)
        self.intake = Intake(session, self.handles, self.runs, backlog, self.pauses)
        self.maintenance = JournalMaintenance(
            session,
            self.handles,
            self.runs,
            self.intake,
            self.claimer,
            self.pauses,
            self.outbox,
            keep=settings.keep,
            park_after=settings.park_after,
            load=partial(load_of, local, settings.executors),
        )
        self.maintenance.fires = not only_awaited
        self._local = local
        self._over = False
        local.companion = self  # before the thread runs items, because the process may begin to stop
        self.maintenance.start()
        if local.ledger.phase is Phase.STOPPED:  # the journal was opened to be read, after the stop
            self.stopped()

    # The contract of backends.

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> DurableItem[Any]:
        return DurableItem(callee, args, kwargs, state, self.runs)

    def accept(self, item: DurableItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        return self.intake.accept(item, held, due)

    def accept_many(
        self, entries: Sequence[Entry[DurableItem[Any]]], rest: Callable[[], object]
    ) -> list[WorkItem[Any]]:
        rest()
        return self.intake.accept_many(entries)

    def start_held(self, item: DurableItem[Any]) -> None:
        self.intake.start_held(item)

    def cancel_held(self, item: DurableItem[Any], why: str) -> None:
        self.intake.cancel_held(item, why)

    def reserve(self, item: DurableItem[Any]) -> WorkItem[Any]:
        return self.intake.reserve(item)

    def submit_reserved(self, item: DurableItem[Any], due: float | None) -> None:
        self.intake.submit_reserved(item, due)

    # Queries about items.

    def get(self, item_id: str) -> DurableItem[Any] | None:
        """Return the handle of an item in any process; None if the journal has no such row.

        Raises JournalError.
        """
        return self.handles.get(item_id)

    def items(self, status: Status | None = None, task: str | None = None) -> list[DurableItem[Any]]:
        """Return the items enqueued last, oldest first; ``status`` and ``task`` (a name) select items."""
        return self.handles.items(status, task)

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until no item is in flight in this process, and none waits for it or for its time."""
        end = deadline(timeout)
        while True:
            left = max(0.0, end - time.monotonic())
            if not self._local.wait_idle(left):
                return False
            if self.claimer.has_nothing_to_do(math.inf):
                return True
            if left == 0.0:
                return False
            native.Latch().wait(min(_LOOK, left))

    # The stop of the process.

    def stop_begins(self) -> None:
        """Leave the items that have not started to other processes, also to later ones.

        From now on the death of this process is no crash of its items, whatever kills it.
        """
        self.session.process_lock.expect_kill()
        count = 0
        for item in self._local.ledger.unfinished():
            waits = isinstance(item, DurableItem) and not item.held and item.status is Status.QUEUED
            if waits and self._local.let_go(item):
                self.runs.give_back(cast("DurableItem[Any]", item))
                count += 1
        self._local.events.handed_back(count)

    def expect_kill(self) -> None:
        """Note that the host may kill the process from now on."""
        self.session.process_lock.expect_kill()

    def stopped(self) -> None:
        """Write the last steps and close the journal: nothing more is accepted or started."""
        with self._local.lock:
            was_over, self._over = self._over, True
        if was_over:
            return
        writer = self.session.writer
        has_ended = self.outbox.close(_LAST_WRITES) & self.maintenance.close(_LAST_WRITES)
        self.maintenance.tally.close()
        self.pauses.close()
        if writer.flush(_LAST_WRITES) and has_ended and self._local.ledger.is_idle():
            with suppress(JournalError):  # the items of this process are recovered when it is gone
                self._give_all_back()
                self.session.process_lock.close()
        writer.close()

    def _give_all_back(self) -> None:
        """Free the items that were claimed at the very last."""
        if self.maintenance.recovery.free(self.session.process_lock.id, (), charged=False):
            self.session.wake_all()
