"""Items that wait for other items: while an item waits, its place in its executor is lent.

Without that, items that wait for queued items of their own executor could take up all of its places, and
nothing would end. An item that waits does nothing, so an item that is waited for may start in its place: no
more items are at work than the executor has places, unless a wait times out meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.item import WorkItem
from flask_background.errors import WaitError
from flask_background.executors.base import Executor

# How long an item waits before its place is lent, and between two looks at what could start, in seconds. Most
# items that are waited for are started by then.
_FIRST_LOOK = 0.005
_LOOK = 0.25


class Lending:
    """Lends the places of the items of one app in this process."""

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self._executors = executors
        self._lock = native.new_lock()
        #: The items that wait, by the executor whose places they take up, and how many waits each has.
        self._waiting = {name: Counter[str]() for name in executors}
        #: The items that were started in a lent place, by id, and their executors.
        self.lent: dict[str, str] = {}

    def check_wait(self, waiting: WorkItem[Any], awaited: WorkItem[Any], timeout: float | None) -> None:
        """Raise WaitError if the wait would hold up the event loop that the awaited item needs, for good."""
        executor = self._executors.get(awaited._task.executor)
        if timeout is None and executor is not None and executor.is_here():
            raise WaitError(
                f"item {waiting.id} ({waiting.task_name}) runs on the event loop of the executor"
                f" {executor.name!r}, as item {awaited.id} ({awaited.task_name}) does, and this wait would"
                " hold both up for good: await the item instead of calling wait() or result()"
            )

    def wait(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], latch: native.Latch, timeout: float | None
    ) -> bool:
        """Wait in an item for another one, as ``latch.wait`` does. Raises WaitError."""
        self.check_wait(waiting, awaited, timeout)
        end = deadline(timeout)
        with self._place_of(waiting):
            look = _FIRST_LOOK
            while not latch.wait(min(look, left := max(0.0, end - time.monotonic()))):
                if left == 0.0:
                    return False
                self._help(awaited)
                look = _LOOK
        return True

    async def wait_async(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], wait: Callable[[], Awaitable[object]]
    ) -> None:
        """Await in an item the end of another one; ``wait`` awaits that."""
        import asyncio

        with self._place_of(waiting):
            look = _FIRST_LOOK
            while True:
                try:
                    async with asyncio.timeout(look):
                        await wait()
                    return
                except TimeoutError:
                    self._help(awaited)
                    look = _LOOK

    def give_back(self, item: WorkItem[Any]) -> None:
        """Take back the place of a run that has ended, if the place was lent."""
        self.lent.pop(item.id, None)

    @contextmanager
    def _place_of(self, waiting: WorkItem[Any]) -> Iterator[None]:
        """Count the item among those that wait, in the executor whose place it takes up."""
        executor = self._executors.get(waiting._task.executor)
        for other in self._executors.values():
            if other.is_here():  # a coroutine that a function of another executor has returned
                executor = other
        if executor is None or waiting._status.is_final:
            yield
            return
        waits = self._waiting[executor.name]
        with self._lock:
            waits[waiting.id] += 1
        try:
            yield
        finally:
            with self._lock:
                waits[waiting.id] -= 1
                if not waits[waiting.id]:
                    del waits[waiting.id]

    def _help(self, awaited: WorkItem[Any]) -> None:
        """Start the item that is waited for in a lent place, if it waits for a place and one can be lent."""
        executor = self._executors.get(awaited._task.executor)
        if executor is None:
            return
        if awaited.id not in executor.queued:
            if len(self._waiting[executor.name]) > self._count_lent(executor.name):
                awaited._come_here()
            return
        with self._lock:
            lent = self._count_lent(executor.name)
            if awaited.id in self.lent or lent >= len(self._waiting[executor.name]):
                return
            self.lent[awaited.id] = executor.name
        try:
            started = executor.start_beside(awaited)
        except RuntimeError:  # the system cannot start a thread; the next look tries again
            started = False
        if not started:
            self.give_back(awaited)

    def _count_lent(self, executor: str) -> int:
        return list(self.lent.values()).count(executor)
