"""How a process claims durable items that are free: as many as it has room for."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.core.backend import Phase
from flask_background.core.item import WorkItem
from flask_background.durable.intake import Intake
from flask_background.durable.journal import queries
from flask_background.durable.journal import statements as store
from flask_background.durable.journal.row import ItemRow
from flask_background.payload.outcomes import parked_error

if TYPE_CHECKING:
    from flask_background.durable.maintenance import JournalMaintenance


# When an item is claimed again whose last end is not told to all yet, in seconds.
_STILL_TOLD = 0.5


class Claimer(Intake):
    """Claimer, and takes what has been claimed."""

    #: Whose thread claims.
    keeper: JournalMaintenance
    _claiming = False
    # Whether there was a reason to claim once more while a claim was under way.
    _again = False

    def claim(self, now: float) -> None:
        """Take what this process has room for."""
        tasks = list(self.registry.tasks)
        room = {name: room for name in self.runs if (room := self.room(name)) > 0}
        left = self.left
        self.backlog = self.writer.read(
            partial(queries.is_free, tasks=tasks, now=now, executors=list(self.runs))
        )
        if not self.backlog and not self._claiming:  # else what was claimed has not arrived yet
            self.caught_up = left
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

    def _arrive(self, entries: list[ItemRow]) -> None:
        """These have been claimed."""
        try:
            for entry in entries:
                self._take(entry)
        finally:
            self._claiming = False  # last, for until they are taken it is all that tells of them
        if entries or self._again:
            self.keeper.ring()  # perhaps there are more

    def _take(self, entry: ItemRow) -> None:
        try:
            item = self.known(entry)
        except Exception as error:  # options or a state that nobody can read
            self._park_unread(entry, error)
            return
        if self.local.is_in_flight(item):  # somebody has had it retried while receivers hear of its last end
            now = time.time()
            step = partial(store.release, item_id=entry.id, fence=entry.fence, now=now, due=now + _STILL_TOLD)
            self.writer.later(step)
            return
        item.arrive(entry)
        if self.local.ledger.phase is not Phase.RUNNING or not self.local.take(item):
            self.give_back(item)

    def _park_unread(self, entry: ItemRow, error: Exception) -> None:
        reason = f"its row cannot be read: {error}"
        self.log_error(str(parked_error(entry.id, entry.task, reason)), error)
        step = partial(store.park, item_id=entry.id, fence=entry.fence, reason=reason, now=time.time())
        self.writer.later(step)
