"""The items that wait in the journal, as far as this process knows, and how many it has room for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask_background.core.backend import Phase

if TYPE_CHECKING:
    from flask_background.durable.session import JournalSession

# How many items a process claims for each that an executor can run at once: some to go on with, where the
# last run was shorter than that (seconds). Others would wait here, and another process perhaps has room.
_AHEAD = 3
_SHORT = 0.2
# Items that wait here behind runs of so many seconds are better off in another process.
_STUCK = 0.5


class Backlog:
    """An estimate, changed by several threads without a lock: a look into the journal corrects it."""

    def __init__(self, session: JournalSession) -> None:
        self._session = session
        #: Whether there are items that this process could claim.
        self.exists = True
        #: How many items this process has left in the journal, and how many of those no longer wait. New
        #: items wait behind them: otherwise they would wait for as long as new ones come.
        self.left = self.caught_up = 0
        #: Whether a claim is under way, and whether there was a reason to claim again meanwhile.
        self.is_claiming = False
        self.claims_again = False
        # How long the last run took, by executor, in seconds.
        self._durations: dict[str, float] = {}

    def note_run(self, executor: str, seconds: float) -> None:
        """A run on an executor took so many seconds."""
        self._durations[executor] = seconds

    def room(self, name: str) -> int:
        """How many more items of an executor this process would claim."""
        executor = self._session.local.executors[name]
        is_quick = self._durations.get(name, _SHORT) < _SHORT and not self.is_stuck(name)
        ahead = _AHEAD if is_quick else 1
        return ahead * executor.capacity - len(executor.queued) - len(executor.running)

    def is_stuck(self, name: str) -> bool:
        """Whether an executor is full of runs that have lasted long, so that items wait for it."""
        executor = self._session.local.executors[name]
        running = list(executor.running.values())
        since = time.time() - _STUCK
        return len(running) >= executor.capacity and all(
            item._attempt is not None and (item._attempt.started or since) <= since for item in running
        )

    def lets_pass(self, executor: str) -> bool:
        """Whether a new item may go straight to its executor: there is room, and none waits before it."""
        return (
            self.left == self.caught_up
            and executor in self._session.executors
            and self._session.local.ledger.phase is Phase.RUNNING
            and self.room(executor) > 0
        )

    def claim_more(self, name: str) -> None:
        """An item of this executor has ended: have more claimed, if some wait and few are here."""
        executor = self._session.local.executors[name]
        few = len(executor.queued) + len(executor.running) <= executor.capacity
        if few and self.exists:
            self.claims_again = True
            if not self.is_claiming:
                self._session.wake_self()
