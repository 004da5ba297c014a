"""The backlog: the items known to wait in the journal, and the room that this process has for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask_background.concurrency import callbacks
from flask_background.core.backend import Phase

if TYPE_CHECKING:
    from flask_background.durable.session import JournalSession

# How many items a process claims for each item that an executor can run at the same time, while its runs take
# less than ``_SHORT`` seconds; otherwise one. More items would wait here while another process may have room.
_AHEAD = 3
_SHORT = 0.2
# Items that wait behind runs of this many seconds are better off in another process.
_STUCK = 0.5
# How many items of an executor may have ended here while slow receivers of signals still hear of that, in
# addition to those that run: as many receivers run at once, and more items would pile up.
_MOST_TOLD = callbacks.MOST


class Backlog:
    """An estimate of the waiting items, changed without a lock; a look into the journal corrects it."""

    def __init__(self, session: JournalSession, only_awaited: bool = False) -> None:
        self._session = session
        # Whether this process claims only the items that its own runs wait for.
        self._only_awaited = only_awaited
        #: Whether there are items that this process could claim.
        self.exists = True
        #: How many items this process has left in the journal, and how many of those no longer wait. New
        #: items wait behind the ones left: otherwise those would wait for as long as new items come.
        self.left = self.caught_up = 0
        #: Whether a claim is in progress, and whether another reason to claim has come meanwhile.
        self.is_claiming = False
        self.claims_again = False
        #: The ids of items that running items of this process wait for: they come before all others.
        self.wanted: set[str] = set()
        # The duration of the last run, by executor, in seconds.
        self._durations: dict[str, float] = {}
        # The items whose runs are over and whose ends are being announced, by executor.
        self._told: dict[str, set[str]] = {name: set() for name in session.local.executors}

    def note_run(self, executor: str, seconds: float) -> None:
        """Note that a run on an executor took this many seconds."""
        self._durations[executor] = seconds

    def note_end(self, executor: str, item_id: str, *, is_told: bool) -> None:
        """Note that an item's run is over, and then that everybody has been told of it."""
        if is_told:
            self._told[executor].discard(item_id)
        else:
            self._told[executor].add(item_id)
        self.claim_more(executor)

    def room(self, name: str) -> int:
        """Return how many more items of an executor this process would claim."""
        executor = self._session.local.executors[name]
        if self._only_awaited or executor.unable_until > time.monotonic():
            return 0
        is_quick = self._durations.get(name, _SHORT) < _SHORT and not self.is_stuck(name)
        ahead = _AHEAD if is_quick else 1
        return ahead * executor.capacity - len(executor.queued) - self._count_running(name)

    def _count_running(self, name: str) -> int:
        """Return how many items of an executor take up its places, and receivers beyond the usual number."""
        running, told = self._session.local.executors[name].running, self._told[name]
        return len(running) - min(len(told), _MOST_TOLD)

    def is_stuck(self, name: str) -> bool:
        """Return whether all places of an executor have long been taken, so that its items wait."""
        executor = self._session.local.executors[name]
        told = self._told[name]
        running = [item for item in list(executor.running.values()) if item.id not in told]
        since = time.time() - _STUCK
        return len(running) >= executor.capacity and all(
            item._attempt is not None and (item._attempt.started or since) <= since for item in running
        )

    def lets_pass(self, executor: str) -> bool:
        """Return whether a new item may go straight to its executor: there is room, and no item waits."""
        return (
            self.left == self.caught_up
            and executor in self._session.executors
            and self._session.local.ledger.phase is Phase.RUNNING
            and self.room(executor) > 0
        )

    def want(self, item_id: str) -> None:
        """Have this process claim an item for which a place is lent."""
        self.wanted.add(item_id)
        self._session.wake_self()

    def claim_more(self, name: str) -> None:
        """Claim more items of this executor, of which one has ended, if some wait and few are here."""
        executor = self._session.local.executors[name]
        few = len(executor.queued) + self._count_running(name) <= executor.capacity
        if few and self.exists:
            self.claims_again = True
            if not self.is_claiming:
                self._session.wake_self()
