"""Claiming: a process takes as many free durable items as it has room for."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background.core.backend import Phase
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal import queries, statements, takeover
from flask_background.durable.journal.row import ItemRow
from flask_background.payload.outcomes import parked_error

if TYPE_CHECKING:
    from flask_background.durable.backlog import Backlog
    from flask_background.durable.handles import Handles
    from flask_background.durable.pauses import Pauses
    from flask_background.durable.runs import Runs
    from flask_background.durable.session import JournalSession


# How soon an item is claimed again if receivers have not heard of its last end yet, in seconds.
_STILL_TOLD = 0.5
# How soon an item is claimed again that this process could not take, in seconds.
_NOT_TAKEN = 0.5


class Claimer:
    """Claims items, and hands them to the executors of this process."""

    def __init__(
        self, session: JournalSession, handles: Handles, runs: Runs, backlog: Backlog, pauses: Pauses
    ) -> None:
        self._session = session
        self._local = session.local
        self._writer = session.writer
        self._handles = handles
        self._runs = runs
        self._backlog = backlog
        self._pauses = pauses

    def claim(self, now: float) -> None:
        """Claim the items that this process has room for. Raises JournalError."""
        backlog = self._backlog
        tasks = self._pauses.free_tasks(self._session.registry.tasks)
        executors = self._pauses.free_executors(self._session.executors)
        room = {name: max(0, backlog.room(name)) for name in executors}
        left = backlog.left
        backlog.exists = self._is_free(tasks, executors, now)
        if not backlog.exists and not backlog.is_claiming:  # otherwise the claimed items have not arrived yet
            backlog.caught_up = left
        if not backlog.exists or not (any(room.values()) or backlog.wanted):
            return
        backlog.claims_again = True
        if backlog.is_claiming:
            return
        backlog.is_claiming, backlog.claims_again = True, False
        wanted, backlog.wanted = backlog.wanted, set()
        claim = partial(
            statements.claim,
            owner=self._session.process_lock.id,
            room=room,
            tasks=tasks,
            now=now,
            wanted=wanted,
        )
        # Claimed rows arrive on the thread on which finished items leave, in the order of the commits,
        # because an item may have been released just before.
        self._writer.write_later(claim, self._arrive, sync=False)

    def has_waiting(self) -> bool:
        """Return whether items of this process wait behind others, which may take long."""
        return any(self._local.executors[name].queued for name in self._session.executors)

    def give_back_stuck(self) -> None:
        """Give items that wait behind long runs back to other processes, if there are any. Raises OSError."""
        lock = self._session.process_lock
        for name in self._session.executors:
            waiting = list(self._local.executors[name].queued.values())
            if waiting and self._backlog.is_stuck(name) and takeover.others(lock.folder):
                for item in waiting:
                    if isinstance(item, DurableItem) and not item.held and self._local.let_go(item):
                        self._runs.give_back(item)

    def give_back_paused(self) -> None:
        """Give items that have not started back to the journal, if they are paused."""
        for name in self._session.executors:
            for item in list(self._local.executors[name].queued.values()):
                may_leave = isinstance(item, DurableItem) and not item.held
                if may_leave and self._pauses.holds(item.task_name, name):
                    self._runs.let_wait(cast("DurableItem[Any]", item))

    def has_nothing_to_do(self, until: float | None = None) -> bool:
        """Return whether no item is in flight here, and none is due that this process could claim.

        ``until``: nor will one be due by then (``time.time()``). Raises JournalError.
        """
        if self._is_busy():  # checked before the look into the journal, too: a run may leave an item there
            return False
        if self._local.ledger.phase is Phase.RUNNING:
            tasks = self._pauses.free_tasks(self._session.registry.tasks)
            executors = self._pauses.free_executors(self._session.executors)
            if self._is_free(tasks, executors, time.time() if until is None else until):
                return False
        return not self._is_busy()

    def _is_free(self, tasks: list[str], executors: list[str], now: float) -> bool:
        return self._writer.read(partial(queries.is_free, tasks=tasks, now=now, executors=executors))

    def _is_busy(self) -> bool:
        return self._backlog.is_claiming or not self._local.ledger.is_idle()

    def _arrive(self, rows: list[ItemRow]) -> None:
        """Take the items that the journal has given to this process."""
        try:
            for row in rows:
                try:
                    self._take(row)
                except Exception as error:  # no row keeps the others from being taken
                    self._put_off(row, error)
        finally:
            # Last, because until these items are taken nothing else counts them.
            self._backlog.is_claiming = False
        if rows or self._backlog.claims_again:
            self._session.wake_self()  # there may be more

    def _take(self, row: ItemRow) -> None:
        try:
            item = self._handles.find_or_make(row)
        except Exception as error:  # its options or state cannot be read
            self._park_unread(row, error)
            return
        if self._local.is_in_flight(item):  # the item was retried while receivers hear of its last end
            self._release(row, _STILL_TOLD)
            return
        item.arrive(row)
        if self._local.ledger.phase is not Phase.RUNNING:
            self._runs.give_back(item)
        elif not self._local.take(item):  # no thread can be had, unless the process stops
            self._runs.give_back(item, due=time.time() + _NOT_TAKEN)

    def _put_off(self, row: ItemRow, error: Exception) -> None:
        """Leave an item to all processes, a little later, that could not be taken because of an error."""
        self._local.log_error(
            f"Item {row.id} ({row.task}) could not be taken; it is tried again in {_NOT_TAKEN:g} s",
            error,
            row.id,
        )
        item = self._handles.known(row.id)
        if item is None or item.row is not row:
            self._release(row, _NOT_TAKEN)
        elif self._local.let_go(item) or not self._local.is_in_flight(item):
            self._runs.give_back(item, due=time.time() + _NOT_TAKEN)

    def _release(self, row: ItemRow, seconds: float) -> None:
        now = time.time()
        step = partial(statements.release, item_id=row.id, fence=row.fence, now=now, due=now + seconds)
        self._writer.write_later(step)

    def _park_unread(self, row: ItemRow, error: Exception) -> None:
        reason = f"its row cannot be read: {error}"
        self._local.log_error(str(parked_error(row.id, row.task, reason)), error, row.id)
        step = partial(statements.park, item_id=row.id, fence=row.fence, reason=reason, now=time.time())
        self._writer.write_later(step)
