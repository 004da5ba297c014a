"""The hand-over: items in memory that have not started when their process must end go to the journal.

Another process runs them: once, because they never began here. An item can go if it is one of a task, which
other processes find by its name, and if its arguments are data. From the moment that items are taken out of
their queue no thread starts them. A batch that is in the journal is safe, whatever becomes of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.core.item import WorkItem
from flask_background.core.status import Outcome, Status
from flask_background.errors import (
    ArgumentError,
    BackgroundError,
    ItemCancelledError,
    ItemInterruptedError,
    PayloadTooLargeError,
)

if TYPE_CHECKING:
    from flask_background.core.events import Events
    from flask_background.executors.base import Executor
    from flask_background.local.ledger import Ledger

# How many items are entered together: a transaction of them takes some hundredths of a second.
_BATCH = 1_000
# How long items have at least when the journal is open, which may have taken long, in seconds.
_AT_LEAST = 0.5


class Heir(Protocol):
    """The journal, as it takes over items of a process that must end."""

    folder: Any

    def add(self, item: WorkItem[Any], args: tuple[Any, ...], kwargs: dict[str, Any], due: float) -> None:
        """Add an item to the batch; due: when it may start (``time.time()``). Raises BackgroundError."""

    def enter(self, seconds: float) -> Mapping[str, str]:
        """Enter the batch in one transaction that begins within so many seconds, and begin another.

        Returns the items that were left out, because an item with the same key is in flight, each with the id
        of that item. Raises JournalError; then nothing was entered.
        """

    def close(self) -> None:
        """Wake the processes that run the items. Raises nothing."""


class _Taken(NamedTuple):
    """An item that is out of its queue, when it may start, and what to do if it cannot be handed over."""

    item: WorkItem[Any]
    due: float
    keep: Callable[[WorkItem[Any], str], None]


class Leaving:
    """Items that one thread has taken out of their queues, and hands over by the time end."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.heir: Heir | None = None
        self.taken: list[_Taken] = []


class HandOver:
    """Hands the items of one app in one process over.

    ``may_go`` says whether a queued item is one to hand over. ``leave`` forgets an item that was handed over,
    and gives its handle an error; ``end`` ends an item that was taken out.
    """

    def __init__(
        self,
        ledger: Ledger,
        executors: Mapping[str, Executor],
        events: Events,
        *,
        may_go: Callable[[WorkItem[Any]], bool],
        leave: Callable[[WorkItem[Any], BaseException], None],
        end: Callable[[WorkItem[Any], Outcome], None],
        open_heir: Callable[[], Heir | None],
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._events = events
        self._may_go = may_go
        self._leave = leave
        self._end = end
        self._open_heir = open_heir
        # Why items were not handed over, by id.
        self._why_kept: dict[str, str] = {}
        # Until when threads hand items over, or are about to (``time.monotonic()``).
        self._busy: list[float] = []

    def is_busy(self) -> bool:
        """Return whether a thread hands items over, or is about to; one that is late does not count."""
        now = time.monotonic()
        return any(now < end for end in tuple(self._busy))

    @contextmanager
    def announced(self, end: float) -> Iterator[None]:
        """Return a context manager for code that may hand items over; the process waits until then."""
        self._busy.append(end)
        try:
            yield
        finally:
            self._busy.remove(end)

    def why_kept(self, item: WorkItem[Any]) -> str:
        """Return why an item was not handed over, as the end of a sentence; "" if it was not to be."""
        return self._why_kept.get(item.id, "")

    def take(self, end: float) -> Leaving:
        """Take items out of their queues, for ``enter``, and leave those there that cannot go.

        ``end``: when they have to be in the journal (``time.monotonic()``).
        """
        leaving = Leaving(end)
        for executor in self._executors.values():
            recorded, kept = self._ledger.recorded, self._why_kept
            queued = tuple(executor.queued.values())
            queued = tuple(item for item in queued if item.id not in recorded and item.id not in kept)
            for item in self._take(leaving, queued, executor):
                leaving.taken.append(_Taken(item, item._enqueued, self._requeue))
        return self._counted(leaving)

    def take_waiting(
        self,
        waiting: Sequence[tuple[WorkItem[Any], float]],
        keep: Callable[[WorkItem[Any], str], None],
        end: float,
    ) -> Leaving:
        """Take items out that wait for their time; ``keep`` ends those that cannot go."""
        leaving = Leaving(end)
        for item, due in waiting:
            if self._take(leaving, [item], self._executors[item._task.executor]):
                leaving.taken.append(_Taken(item, due, keep))
            else:
                keep(item, self.why_kept(item))
        return self._counted(leaving)

    @uninterruptible
    def enter(self, leaving: Leaving) -> None:
        """Hand items over that were taken."""
        if leaving.heir is None:
            return
        # Uploads are copied, which takes its time: the other items come first.
        taken = sorted(leaving.taken, key=lambda one: one.item._uploads is not None)
        count = 0
        first: BaseException | None = None
        for start in range(0, len(taken), _BATCH):
            try:
                count += self._enter_batch(leaving.heir, taken[start : start + _BATCH], leaving.end)
            except BaseException as error:  # from a signal, on the main thread: the other batches go first
                first = first or error
        self._busy.remove(leaving.end)
        leaving.heir.close()
        if count:
            self._events.handed_over(count, leaving.heir.folder)
        if first is not None:
            raise first

    def _counted(self, leaving: Leaving) -> Leaving:
        if leaving.taken:
            self._busy.append(leaving.end)
        elif leaving.heir is not None:
            leaving.heir.close()
            leaving.heir = None
        return leaving

    def _take(
        self, leaving: Leaving, items: Sequence[WorkItem[Any]], executor: Executor
    ) -> list[WorkItem[Any]]:
        """Take those items out of an executor's queue that can go, as far as that is known by now."""
        known = [item for item in items if self._may_go(item) and self._is_known_elsewhere(item)]
        if not known or not self._has_heir(leaving, known):
            return []
        return self._ledger.take_out(known, executor)

    def _is_known_elsewhere(self, item: WorkItem[Any]) -> bool:
        if not item._task.portable:
            self._keep(item, "its function is no task, which another process could find by its name")
        return item._task.portable

    def _has_heir(self, leaving: Leaving, items: Sequence[WorkItem[Any]]) -> bool:
        if leaving.heir is None:
            try:
                leaving.heir = self._open_heir()
                leaving.end = max(leaving.end, time.monotonic() + _AT_LEAST)
            except Exception as error:
                for item in items:
                    self._keep(item, str(error))
        return leaving.heir is not None

    def _keep(self, item: WorkItem[Any], why: str) -> None:
        self._why_kept[item.id] = f", and was not handed over: {why}"

    def _requeue(self, item: WorkItem[Any], why: str) -> None:
        """Let an item run here while the process lives: its entry in the executor's queue may be gone."""
        with suppress(RuntimeError):  # no thread can be started: the stop ends the item
            self._executors[item._task.executor].put(item)

    def _enter_batch(self, heir: Heir, taken: list[_Taken], end: float) -> int:
        """Enter some of the items; return how many go on elsewhere."""
        added = [one.item for one in taken if self._add(heir, one, end)]
        if not added:
            return 0
        try:
            others = heir.enter(max(0.05, end - time.monotonic()))
        except BaseException as error:
            for item in added:
                # The journal may have the item in spite of the error, so it must not run here any more.
                why = f"had not started when its process had to end, and could not be handed over: {error}"
                self._end(item, (Status.INTERRUPTED, None, ItemInterruptedError(f"{_name(item)} {why}")))
            if not isinstance(error, Exception):
                raise
            return 0
        for item in added:
            if (other := others.get(item.id)) is None:
                why = "was handed over when its process had to end: another process runs it"
                self._leave(item, ItemInterruptedError(f"{_name(item)} {why}, where background.get finds it"))
            else:
                why = f"item {other}, which has the same key, is queued or running"
                dropped = ItemCancelledError(f"{_name(item)} was dropped: {why}")
                self._end(item, (Status.CANCELLED, None, dropped))
                self._events.dropped(item, why)
        return len(added) - len(others)

    def _add(self, heir: Heir, one: _Taken, end: float) -> bool:
        """Add an item to the batch; or keep it, and note why."""
        item, executor = one.item, self._executors[one.item._task.executor]
        try:
            if time.monotonic() >= end:
                raise BackgroundError("the time was up")
            heir.add(item, *executor.arguments_of(item), one.due)
        except Exception as error:
            self._keep(item, _reason(error))
            self._ledger.put_back(item, executor)
            one.keep(item, self.why_kept(item))
            return False
        return True


def _name(item: WorkItem[Any]) -> str:
    return f"item {item.id} ({item.task_name})"


def _reason(error: Exception) -> str:
    """Return why an item cannot go. The text of an argument's error may contain values, which no log gets."""
    if isinstance(error, PayloadTooLargeError):
        return "its arguments are larger than BACKGROUND_MAX_PAYLOAD allows"
    if isinstance(error, ArgumentError):
        return "its arguments are not data; with BACKGROUND_STRICT, enqueue says which of them"
    if isinstance(error, BackgroundError):
        return str(error)
    return f"its arguments could not be stored ({type(error).__name__})"
