"""Admission to an executor: for an item that finds no room, and for a task that no executor can run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.concurrency.stop_signals import interruptible_wait
from flask_background.core.backend import Overflow, Phase
from flask_background.core.callee import Callee
from flask_background.core.executor_check import check_executor
from flask_background.core.item import WorkItem
from flask_background.errors import EnqueueError, QueueFull, Stopping
from flask_background.executors.base import Executor
from flask_background.local.keys import Keys
from flask_background.local.ledger import Ledger

if TYPE_CHECKING:
    from flask_background.core.settings import Settings

# Items that are enqueued at the same time may refuse one another although there is room for some of them. So
# they are tried again one by one, and a waiting caller looks again after this many seconds: perhaps no item
# is in flight whose end would wake the caller.
_RETRY = 0.05


class Admission:
    """Admits items, each with its key. An item without room waits or is refused, by BACKGROUND_OVERFLOW."""

    def __init__(
        self, ledger: Ledger, keys: Keys, executors: Mapping[str, Executor], settings: Settings
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._executors = executors
        self._settings = settings
        self._one_by_one = native.new_lock()

    def enter(self, item: WorkItem[Any], executor: Executor, limit: float) -> WorkItem[Any] | None:
        """Admit an item unless its executor has limit items already; return None if the item is not admitted.

        Returns the item, or the item in flight with the same key.
        """
        if item._task.key is not None:
            return self._keys.enter(item, partial(self._ledger.admit, item, executor, limit))
        return item if self._ledger.admit(item, executor, limit) else None

    def wait_and_enter(self, item: WorkItem[Any], executor: Executor) -> tuple[WorkItem[Any], bool]:
        """Wait for room, and admit an item. Return whether its caller has to run it; raise EnqueueError."""
        limit = executor.capacity + self._settings.max_queued
        how = self._how()
        while True:
            with self._ledger.room_latch() as latch:
                with self._one_by_one:
                    if (accepted := self.enter(item, executor, limit)) is not None:
                        return accepted, False
                if how != "block" or self._ledger.phase is Phase.STOPPED:
                    break
                _wait_for_room(latch)
        if how == "journal" and _may_overflow(item) and self._ledger.phase is not Phase.STOPPED:
            raise Overflow(self.refusal(item, executor))
        if how == "run" and (accepted := self.enter(item, executor, math.inf)) is not None:
            return accepted, accepted is item
        raise self.refusal(item, executor)

    def enter_all(self, items: Sequence[WorkItem[Any]]) -> list[WorkItem[Any]]:
        """Admit items, all or none; an item in flight with the same key stands for one. Raises EnqueueError.

        With BACKGROUND_OVERFLOW = "run" there may be more items then than there is room for.
        """
        how, by_executor = self._how(), self._by_executor(items)
        fits = all(len(own) <= self.most(executor) for executor, own in by_executor.items())
        while True:
            with self._ledger.room_latch() as latch:
                with self._one_by_one:
                    if (accepted := self._try_all(items, self.most)) is not None:
                        return accepted
                if how != "block" or not fits or self._ledger.phase is Phase.STOPPED:
                    break
                _wait_for_room(latch)
        if how == "run" and (accepted := self._try_all(items, lambda _: math.inf)) is not None:
            return accepted
        executor = max(by_executor, key=lambda one: len(one.queued) + len(by_executor[one]))
        refusal = self.refusal(by_executor[executor][0], executor, len(items))
        if how == "journal" and all(map(_may_overflow, items)) and self._ledger.phase is not Phase.STOPPED:
            raise Overflow(refusal)
        raise refusal

    def most(self, executor: Executor) -> float:
        """Return how many items of an executor there may be."""
        return executor.capacity + self._settings.max_queued

    def _how(self) -> str:
        if self._settings.overflow != "journal" and any(each.is_here() for each in self._executors.values()):
            # A coroutine of ours must not wait here: it would block the items that it waits for.
            return "raise"
        return self._settings.overflow

    def _by_executor(self, items: Iterable[WorkItem[Any]]) -> dict[Executor, list[WorkItem[Any]]]:
        found: dict[Executor, list[WorkItem[Any]]] = {}
        for item in items:
            found.setdefault(self._executors[item._task.executor], []).append(item)
        return found

    def _try_all(
        self, items: Sequence[WorkItem[Any]], most: Callable[[Executor], float]
    ) -> list[WorkItem[Any]] | None:
        def admit(new: Sequence[WorkItem[Any]]) -> bool:
            return self._ledger.admit_all(self._by_executor(new), most)

        if any(item._task.key is not None for item in items):
            return self._keys.enter_all(items, admit)
        return list(items) if admit(items) else None

    def refusal(self, item: WorkItem[Any], executor: Executor, count: int = 1) -> EnqueueError:
        """Return the error for an item that was not admitted, perhaps one of so many."""
        if self._ledger.phase is Phase.STOPPED:
            return Stopping.refusing(item.task_name)
        what = f"{item.task_name} was not enqueued: {self._settings.max_queued} items wait"
        if count > 1:
            what = (
                f"none of {count} calls was enqueued: with those of {item.task_name} more than"
                f" {self._settings.max_queued} items would wait"
            )
        return QueueFull(
            f"{what} for the executor {executor.name!r}, as many as BACKGROUND_MAX_QUEUED allows. Give it"
            ' more workers, or let the view wait for room (BACKGROUND_OVERFLOW = "block"), or let items go to'
            ' the journal ("journal"), or make the task durable'
        )


def _may_overflow(item: WorkItem[Any]) -> bool:
    """Return whether an item may go to the journal. The keys of items in memory are not looked up there."""
    return item._task.portable and item._task.key is None


@interruptible_wait
def _wait_for_room(latch: native.Latch) -> None:
    latch.wait(_RETRY)


def check_here(task: Callee, executors: Mapping[str, Executor]) -> None:
    """Raise ConfigurationError if no executor of this process can run this task."""
    check_executor(task, executors)
    executors[task.executor].check(task)
