"""The ledger: the items in flight, and the phase of the stop.

Every item passes here three times, on several threads that compute. One lock for all of them would make an
item's whole way a quarter more expensive (measured with 1 to 8 threads that enqueue). So while the phase is
RUNNING no thread locks: every step is one atomic operation on a dict, made *before* a look at the phase. The
stop sets the phase *before* looking at the dicts. The thread that comes second sees the other, so no item
slips in between the last one's end and the stop. The stop itself locks, and so do the steps that see a stop.
Nothing here calls foreign code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.backend import Phase, Stats
from flask_background.core.item import WorkItem
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.executors.base import Executor
from flask_background.local.ended import KEPT, KEPT_BYTES, EndedItems

if TYPE_CHECKING:
    from flask_background.local.tally import MemoryTally

# Local names, because looking a member up in its enum's class takes longer than a dict does.
_RUNNING, _STOPPED = Phase.RUNNING, Phase.STOPPED


class Ledger:
    """The counted items of one app in one process."""

    def __init__(self, executors: Iterable[Executor]) -> None:
        self.lock = native.new_lock()
        self.phase = Phase.RUNNING
        #: Withdrawn items whose end is not announced yet.
        self.leaving: dict[str, WorkItem[Any]] = {}
        #: The ids of the items that are on record as interrupted; changed together with their status.
        self.recorded: set[str] = set()
        self._executors = tuple(executors)
        self._requeues = 0  # the number of items that have gone back from running to queued
        self._idle_latches: list[native.Latch] = []
        self._room_latches: list[native.Latch] = []
        self._ended = EndedItems(self.lock)

    def admit(self, item: WorkItem[Any], executor: Executor, limit: float) -> bool:
        """Enter an item; return False if its executor has limit items already, or after the stop."""
        executor.queued[item.id] = item
        if len(executor.queued) + len(executor.running) <= limit and (
            self.phase is _RUNNING or not self._is_stopped()
        ):
            return True
        # If the item is gone already, the stop has found and ended it here: it was accepted after all.
        accepted = executor.queued.pop(item.id, None) is None
        self._wake_if_idle()
        return accepted

    def admit_all(
        self, items: Mapping[Executor, Sequence[WorkItem[Any]]], most: Callable[[Executor], float]
    ) -> bool:
        """Enter items, all or none; return False if an executor has too little room, or after the stop.

        ``most`` returns how many items of an executor there may be.
        """
        with self.lock:
            if self.phase is _STOPPED:
                return False
            for executor, own in items.items():
                if len(executor.queued) + len(executor.running) + len(own) > most(executor):
                    return False
            for executor, own in items.items():
                executor.queued.update({item.id: item for item in own})
            return True

    def claim(self, item: WorkItem[Any], executor: Executor, attempt: Attempt) -> bool:
        """Move a queued item to the running ones; return False if it was withdrawn, or after the stop."""
        if item.id not in executor.queued or (self.phase is _STOPPED and self._is_stopped()):
            return False
        # Set before the item leaves the queued ones, so that it is counted all the time.
        executor.running[item.id] = item
        if executor.queued.pop(item.id, None) is None:
            executor.running.pop(item.id, None)
            self._wake_if_idle()
            return False
        item._begin(attempt)
        return True

    def settle(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Give a running item its outcome."""
        item._end(outcome, attempt)
        if self.phase is not _RUNNING:
            with self.lock:  # putting the item on record as interrupted may have overwritten the outcome
                item._end(outcome, attempt)

    def withdraw(self, item: WorkItem[Any], executor: Executor, outcome: Outcome) -> bool:
        """Give a queued item its outcome, so that it never runs; return False if it runs or has run."""
        with self.lock:
            if item.id not in executor.queued:
                return False
            # Set before the item leaves the queued ones, so that it is counted all the time.
            self.leaving[item.id] = item
            if executor.queued.pop(item.id, None) is None:
                del self.leaving[item.id]
                return False
            item._end(outcome)
            return True

    def requeue(self, item: WorkItem[Any], executor: Executor, error: BaseException, delay: float) -> bool:
        """Move a running item back to the queued ones, for a run in delay seconds; return False in a stop."""
        with self.lock:
            if self.phase is not _RUNNING:
                return False
            item._requeue(error, delay)
            self._requeues += 1
            executor.queued[item.id] = item
            del executor.running[item.id]
            return True

    def _wake_if_idle(self) -> None:
        if self._idle_latches and self.is_idle():
            _open(self._idle_latches)

    def take_out(self, items: Iterable[WorkItem[Any]], executor: Executor) -> list[WorkItem[Any]]:
        """Move queued items to the leaving ones, so that none starts; return those that were queued."""
        taken = []
        with self.lock:
            for item in items:
                # Set before the item leaves the queued ones, so that it is counted all the time.
                self.leaving[item.id] = item
                if executor.queued.pop(item.id, None) is None:
                    del self.leaving[item.id]
                else:
                    taken.append(item)
        return taken

    def put_back(self, item: WorkItem[Any], executor: Executor) -> None:
        """Queue an item again that was taken out."""
        with self.lock:
            executor.queued[item.id] = item
            del self.leaving[item.id]

    def let_go(self, item: WorkItem[Any], book: dict[str, WorkItem[Any]]) -> bool:
        """Remove an item that goes on elsewhere from its book; return False if it is no longer there.

        A book is the dict that has the item: an executor's queued or running items.
        """
        with self.lock:
            if book.pop(item.id, None) is None:
                return False
        _open(self._room_latches)
        self._wake_if_idle()
        return True

    def remove(self, item: WorkItem[Any], book: dict[str, WorkItem[Any]]) -> None:
        """Remove an item from its book, and wake its waiters: the log and the signals have its end."""
        ended = self._ended
        page = ended.page
        page[item.id] = item
        del book[item.id]
        item._announce_end()
        if self._room_latches:
            _open(self._room_latches)
        if self._idle_latches:
            self._wake_if_idle()
        attempt = item._attempt
        if attempt is not None and (attempt.value is not None or attempt.error is not None):
            ended.weigh(attempt)
        if len(page) >= KEPT or ended.bytes >= KEPT_BYTES:
            ended.turn(page)

    def record(self, item: WorkItem[Any], error: BaseException) -> bool:
        """Put an item on record as interrupted; return False if it has ended or is on record."""
        with self.lock:
            if item.id in self.recorded or not item._record_interrupted(error):
                return False
            self.recorded.add(item.id)
            return True

    def begin_stop(self) -> bool:
        """Go from running to stopping; return False if the stop has begun already."""
        with self.lock:
            begins = self.phase is Phase.RUNNING
            if begins:
                self.phase = Phase.STOPPING
            return begins

    def close(self, *, if_idle: bool = False) -> bool:
        """Accept and start nothing from now on; return False if closed already, or if items are in flight."""
        with self.lock:
            before, self.phase = self.phase, Phase.STOPPED
            if before is Phase.STOPPED:
                return False
            if if_idle and not self.is_idle():
                self.phase = before
                return False
        _open(self._room_latches)
        return True

    def is_idle(self) -> bool:
        """Return whether no item is in flight: queued, running, or withdrawn and not announced yet."""
        while True:
            requeues = self._requeues
            # Queued before running: an item enters the next book before it leaves the other.
            for executor in self._executors:
                if executor.queued:
                    return False
            if self.leaving or any(executor.running for executor in self._executors):
                return False
            # If the counts differ, a retry has moved an item from running to queued meanwhile.
            if requeues == self._requeues:
                return True

    def count_queued(self) -> int:
        """Return how many items are queued."""
        return sum(len(executor.queued) for executor in self._executors)

    def unfinished(self) -> list[WorkItem[Any]]:
        """Return the items in flight, in the order in which they were enqueued."""
        found: dict[str, WorkItem[Any]] = {}
        for executor in self._executors:
            found |= executor.queued
        for executor in self._executors:
            found |= executor.running
        return sorted(found.values(), key=lambda item: item._enqueued)

    @contextmanager
    def idle_latch(self) -> Iterator[native.Latch]:
        """Return a context manager for a latch that opens when no item is in flight."""
        with _kept_in(self._idle_latches) as latch:
            if self.is_idle():
                latch.open()
            yield latch

    def room_latch(self) -> AbstractContextManager[native.Latch]:
        """Return a context manager for a latch that opens when a waiting item should look for room again."""
        return _kept_in(self._room_latches)

    def get(self, item_id: str) -> WorkItem[Any] | None:
        """Return the item with this id if it is in flight or among the last ones that ended."""
        self._ended.let_old_go()
        for executor in self._executors:
            item = executor.queued.get(item_id) or executor.running.get(item_id)
            if item is not None:
                return item
        return self.leaving.get(item_id) or self._ended.get(item_id)

    def all(self) -> list[WorkItem[Any]]:
        """Return the last items that ended, and the items in flight."""
        self._ended.let_old_go()
        unfinished = {item.id: item for item in self.unfinished()}
        with self.lock:
            return [*(self._ended.all() | unfinished).values()]

    def tally(self) -> MemoryTally:
        """Return the tally of the ended items, brought up to date; the first call begins it."""
        return self._ended.count()

    def stats(self) -> Stats:
        """Return all counts."""
        with self.lock:
            counts = self._ended.counts()
            return Stats(
                queued=self.count_queued(),
                running=sum(len(executor.running) for executor in self._executors),
                succeeded=counts[Status.SUCCEEDED],
                failed=counts[Status.FAILED],
                cancelled=counts[Status.CANCELLED],
                interrupted=counts[Status.INTERRUPTED],
            )

    def _is_stopped(self) -> bool:
        with self.lock:  # the thread that closes the books has decided
            return self.phase is Phase.STOPPED

    def let_old_go(self) -> None:
        """Forget items that ended long ago; called now and then."""
        self._ended.let_old_go()


@contextmanager
def _kept_in(latches: list[native.Latch]) -> Iterator[native.Latch]:
    latch = native.Latch()
    latches.append(latch)
    try:
        yield latch
    finally:
        with suppress(ValueError):  # the latch has been opened
            latches.remove(latch)


def _open(latches: list[native.Latch]) -> None:
    while latches:
        try:
            latches.pop().open()
        except IndexError:  # another thread was faster
            return
