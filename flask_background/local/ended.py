"""The items that ended last in one process, which can be found by their ids, and the counts of all.

Ended items are kept on two pages. When the current page is full, the page before it is forgotten. So a
bounded number of items is kept, and no item for longer than two pages take.
"""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

from flask_background.core.item import WorkItem
from flask_background.core.status import Attempt, Status
from flask_background.local.sizes import SMALL, size_of

if TYPE_CHECKING:
    from _thread import LockType

    from flask_background.local.tally import MemoryTally

#: A page is full at this number of items, or at this number of bytes of their results; and a page is turned
#: after this number of seconds.
KEPT = 1_000
KEPT_BYTES = 16 << 20
KEPT_SECONDS = 3_600.0


class EndedItems:
    """The ended items of one app. ``lock``, the ledger's, is held while a page is turned.

    Threads add items to ``page`` without the lock.
    """

    def __init__(self, lock: LockType) -> None:
        #: The current page.
        self.page: dict[str, WorkItem[Any]] = {}
        #: About how much memory the results on the current page take.
        self.bytes = 0
        self._before: dict[str, WorkItem[Any]] = {}
        self._began = monotonic()
        self._counts: Counter[Status] = Counter()
        self._lock = lock
        self._tally: MemoryTally | None = None
        # How many items of the page before, and of the current one, are in the tally.
        self._counted_before = self._counted = 0

    def weigh(self, attempt: Attempt) -> None:
        """Add the size of an outcome to the bytes of the page."""
        if type(attempt.value) not in SMALL:
            self.bytes += size_of(attempt.value)
        if attempt.error is not None:
            self.bytes += size_of(attempt.error)

    def turn(self, full: dict[str, WorkItem[Any]]) -> None:
        """Forget the page before the full one; a handle in use keeps its own result.

        No thread has written to that page for long, so its items can be counted.
        """
        left: list[WorkItem[Any]] = []
        with self._lock:
            if self.page is full:
                if self._tally is not None:
                    left = [*self._before.values()][self._counted_before :]
                    self._counted_before, self._counted = self._counted, 0
                self._counts.update(_statuses(self._before))
                self._before, self.page = full, {}
                self.bytes = 0
                self._began = monotonic()
        if left and self._tally is not None:
            self._tally.count(left)

    def count(self) -> MemoryTally:
        """Return the tally with all kept items in it; the first call begins the tally."""
        from flask_background.local.tally import MemoryTally  # imported for apps that have a journal

        with self._lock:
            tally = self._tally = self._tally or MemoryTally()
            before, now = [*self._before.values()], [*self.page.values()]
            left = before[self._counted_before :] + now[self._counted :]
            self._counted_before, self._counted = len(before), len(now)
        if left:
            tally.count(left)
        return tally

    def let_old_go(self) -> None:
        """Forget items that ended long ago, even if few have ended after them."""
        pages = (monotonic() - self._began) // KEPT_SECONDS
        for _ in range(min(2, int(pages))):
            self.turn(self.page)

    def get(self, item_id: str) -> WorkItem[Any] | None:
        """Return the item with this id if it is kept."""
        return self.page.get(item_id) or self._before.get(item_id)

    def all(self) -> dict[str, WorkItem[Any]]:
        """Return the kept items by id. The caller holds the lock."""
        return self._before | self.page

    def counts(self) -> Counter[Status]:
        """Return how many items have ended with each status. The caller holds the lock."""
        return self._counts + Counter(_statuses(self._before)) + Counter(_statuses(self.page))


def _statuses(page: dict[str, WorkItem[Any]]) -> list[Status]:
    return [item.status for item in tuple(page.values())]
