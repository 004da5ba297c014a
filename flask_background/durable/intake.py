"""The intake: durable items enter the journal, and the process that enqueues them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.core.item import WorkItem
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal import schedules, statements, wakeups
from flask_background.durable.journal.group_commit import Insert, Step
from flask_background.durable.journal.row import ItemRow, make_row
from flask_background.durable.journal.schedules import PERIODIC
from flask_background.errors import ArgumentError, ConfigurationError, EnqueueError, Stopping
from flask_background.local.admission import check_here

if TYPE_CHECKING:
    import sqlite3

    from flask_background.core.backend import Entry
    from flask_background.core.callee import Callee
    from flask_background.durable.backlog import Backlog
    from flask_background.durable.handles import Handles
    from flask_background.durable.pauses import Pauses
    from flask_background.durable.runs import Runs
    from flask_background.durable.session import JournalSession


class Intake:
    """Enters items, claimed for this process while it has room. The methods are those of a backend."""

    def __init__(
        self, session: JournalSession, handles: Handles, runs: Runs, backlog: Backlog, pauses: Pauses
    ) -> None:
        self._session = session
        self._local = session.local
        self._uploads = session.uploads
        self._writer = session.writer
        self._handles = handles
        self._runs = runs
        self._backlog = backlog
        self._pauses = pauses
        self._woken_at = 0

    @uninterruptible
    def accept(self, item: DurableItem[Any], held: bool, due: float | None) -> WorkItem[Any]:
        """Enter an item; see ``Backend.accept``."""
        waits = self._pauses.any and self._pauses.holds(item.task_name, item._task.executor)
        here = due is None and (held or (not waits and self._backlog.lets_pass(item._task.executor)))
        try:
            row = self._pack(item, due, here)
            if not here:  # before the journal has the item, because this process may claim it at once
                self._let_in(item, row, held)
                item.leave()
            other = self._insert(row)
        except BaseException as error:
            self._uploads.forget(item.id)
            if isinstance(error, EnqueueError):
                self._local.events.refused(item.task_name, error)
            raise
        item._release_arguments()
        if other is not None:
            self._uploads.forget(item.id)
            return self._handles.of_row(other)
        try:
            if here:
                self._let_in(item, row, held)
            self._local.events.enqueued(item)
        finally:  # a signal may raise here, when the item has been accepted
            if not here:
                if not waits or not self._pauses.holds(item.task_name, item._task.executor):
                    self._backlog.left += due is None
                    self._offer_to_all()
            elif not self._local.take(item, held):
                self._runs.give_back(item)
        return item

    @uninterruptible
    def accept_many(self, entries: Sequence[Entry[DurableItem[Any]]]) -> list[WorkItem[Any]]:
        """Enter items in one transaction; see ``Backend.accept_many``."""
        rows: list[ItemRow] = []
        room: dict[str, int] = {}
        try:
            for entry in entries:
                try:
                    rows.append(
                        self._pack(entry.item, entry.due, entry.due is None and self._fits(room, entry.item))
                    )
                except (ArgumentError, ConfigurationError) as error:
                    raise entry.refusing(error) from error
            for entry, row in zip(entries, rows, strict=True):
                if row.owner is None:  # before the journal has the item, as in ``accept``
                    self._let_in(entry.item, row, held=False)
                    entry.item.leave()
            abandon = partial(_abandon_all, rows=rows, now=time.time())
            others = self._writer.write(partial(statements.insert_each, rows=rows), undo=abandon)
        except BaseException as error:
            for row in rows:
                self._uploads.forget(row.id)
            if isinstance(error, EnqueueError):
                self._local.events.refused(entries[0].item.task_name, error)
            raise
        accepted: list[WorkItem[Any]] = []
        offered = False
        for entry, row, other in zip(entries, rows, others, strict=True):
            entry.item._release_arguments()
            if other is not None:
                self._uploads.forget(row.id)
                accepted.append(self._handles.of_row(other))
                continue
            accepted.append(entry.item)
            if row.owner is not None:
                self._let_in(entry.item, row, held=False)
                if not self._local.take(entry.item):
                    self._runs.give_back(entry.item)
            elif not self._is_paused(entry.item):
                self._backlog.left += entry.due is None
                offered = True
            self._local.events.enqueued(entry.item)
        if offered:
            self._offer_to_all()
        return accepted

    def _fits(self, room: dict[str, int], item: DurableItem[Any]) -> bool:
        """Return whether one more item may go straight to its executor; ``room`` has the places left."""
        if self._is_paused(item):
            return False
        name = item._task.executor
        if name not in room:
            room[name] = self._backlog.room(name) if self._backlog.lets_pass(name) else 0
        room[name] -= 1
        return room[name] >= 0

    def _is_paused(self, item: DurableItem[Any]) -> bool:
        return self._pauses.any and self._pauses.holds(item.task_name, item._task.executor)

    @uninterruptible
    def start_held(self, item: DurableItem[Any]) -> None:
        """Let a held item start."""
        item.unhold()
        self._local.start_held(item)

    def cancel_held(self, item: DurableItem[Any], why: str) -> None:
        """Cancel a held or reserved item."""
        self._local.cancel_held(item, why)
        self._runs.end_unrun(item)

    def reserve(self, item: DurableItem[Any]) -> WorkItem[Any]:
        """Take an item that the journal must not have before ``submit_reserved``."""
        row = self._pack(item, None, here=True)
        self._let_in(item, row, held=True)
        self._local.events.enqueued(item)
        if not self._local.take(item, held=True):
            self._uploads.forget(item.id)
            raise Stopping.refusing(item.task_name)
        item._release_arguments()
        return item

    def submit_reserved(self, item: DurableItem[Any], due: float | None) -> None:
        """Enter a reserved item, unless it was cancelled meanwhile."""
        assert item.row is not None
        if not self._local.is_in_flight(item):
            return
        if due is None and item._task.executor not in self._session.executors:
            due = item._enqueued  # the item may start now, but in another process
        if due is not None:
            item.accepted(item.row._replace(due=due, owner=None), held=item.held)
        try:
            other = self._insert(item.row)
        except BaseException as error:
            self._give_up(item, f"it could not be entered: {error}")
            raise
        if other is not None:
            self._give_up(item, f"item {other.id}, which has the same key, is queued or running")
        elif not self._local.is_in_flight(item):  # the item was cancelled at this very moment
            self._runs.end_unrun(item)
        elif due is None:
            self.start_held(item)
        elif self._local.let_go(item):
            item.unhold()
            item.leave()
            self._offer_to_all()

    def make_periodic_row(self, task: Callee, planned: float, overlap: bool) -> ItemRow:
        """Return the row of a new item of a periodic task that was planned for this time."""
        item = DurableItem[Any](task, (), {}, None, self._runs)
        if task.describe is not None:
            from flask_background.core.description import describe  # imported for tasks that have one

            failed = partial(self._local.events.not_described, task.name)
            item._describe(describe(task.describe, (), {}, failed))
        payload, _ = self._uploads.pack(item.id, task.func, (), {})
        row = make_row(item, task, payload=payload, uploads=False, due=planned, owner=None)
        return row._replace(key=f"{PERIODIC} {planned!r}" if overlap else PERIODIC)

    def run_now(self, task: Callee, overlap: bool) -> str | None:
        """Enqueue a periodic task now; return the item's id, or None if an item of the task is in flight.

        With ``overlap``, an item that runs does not count. Raises JournalError.
        """
        row = self.make_periodic_row(task, time.time(), overlap)
        if not self._writer.write(partial(schedules.enqueue, row=row)):
            return None
        self._session.wake_all()
        return row.id

    def _pack(self, item: DurableItem[Any], due: float | None, here: bool) -> ItemRow:
        task = item._task
        self._session.registry.check_portable(task)
        check_here(task, self._local.executors)
        payload, uploads = self._uploads.pack(item.id, task.func, item._args, item._kwargs or {})
        owner = self._session.process_lock.id if here else None
        due = item._enqueued if due is None else due
        return make_row(item, task, payload=payload, uploads=uploads, due=due, owner=owner)

    def _insert(self, row: ItemRow) -> ItemRow | None:
        step: Step[ItemRow | None] = Insert(row)
        if row.key is not None:
            step = partial(statements.insert, row=row)
        return self._writer.write(step, undo=partial(statements.abandon, item_id=row.id, now=row.enqueued))

    def _let_in(self, item: DurableItem[Any], row: ItemRow, held: bool) -> None:
        item.accepted(row, held=held)
        self._handles.add(item)

    def _offer_to_all(self) -> None:
        """Let all processes know that there is an item for them."""
        self._backlog.exists = True
        self._wake_for_transaction()

    def _give_up(self, item: DurableItem[Any], why: str) -> None:
        self._local.cancel_held(item, why)
        self._uploads.forget(item.id)

    def _wake_for_transaction(self) -> None:
        """Wake the other processes once for all items that one transaction has entered."""
        count = self._writer.transactions
        if count != self._woken_at:
            self._woken_at = count
            lock = self._session.process_lock
            wakeups.wake_all(lock.folder, but=None if self._session.executors else lock.id)


def _abandon_all(db: sqlite3.Connection, rows: Sequence[ItemRow], now: float) -> None:
    for row in rows:
        statements.abandon(db, row.id, now)
