"""Items of this process that wait for their delay to pass, or for their next attempt.

Waiting items are counted as queued. When the process stops, their time can no longer come: they are handed
over, or ended and logged, and the stop does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask_background.concurrency import native
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.item import WorkItem
from flask_background.core.status import Outcome, Status
from flask_background.errors import ItemInterruptedError, Stopping

# How long an item waits for another try when it is due and no thread can be started, in seconds.
_NO_THREAD = 0.5


class DelayedItems:
    """Holds waiting items, and starts each at its time.

    ``start`` gives a queued item to its executor, and raises RuntimeError if no thread can be started.
    ``withdraw`` ends an item that has not started.
    """

    def __init__(
        self,
        timers: Timers,
        *,
        start: Callable[[WorkItem[Any]], None],
        withdraw: Callable[[WorkItem[Any], Outcome], bool],
        log_error: Callable[[str, BaseException, WorkItem[Any]], None],
        too_late: Callable[[WorkItem[Any], float], None],
    ) -> None:
        """``too_late`` gets an item that is queued again when the process stops, and when the item is due."""
        self._timers = timers
        self._start = start
        self._withdraw = withdraw
        self._log_error = log_error
        self._too_late = too_late
        self._lock = native.new_lock()
        #: The waiting items by id, each with its timer and the time at which it is due (``time.time()``).
        self._waiting: dict[str, tuple[WorkItem[Any], Timer, float]] = {}
        self._closed = False

    def wait_until(self, item: WorkItem[Any], due: float) -> None:
        """Let a new item start at its time (``time.time()``); raise Stopping if the process stops before."""
        if not self._enter(item, max(0.0, due - self._timers.clock.time())):
            error = Stopping(
                f"{item.task_name} was not enqueued: this process is stopping before the item is due. If its"
                " task is durable, the item waits on disk"
            )
            self._withdraw(item, (Status.CANCELLED, None, error))
            raise error

    def try_again(self, item: WorkItem[Any], delay: float) -> None:
        """Let an item that is queued again wait delay seconds for its run, unless the process stops."""
        if not self._enter(item, delay):
            self._too_late(item, self._timers.clock.time() + delay)

    def has(self, item: WorkItem[Any]) -> bool:
        """Return whether the item waits for its time."""
        return item.id in self._waiting

    def dismiss(self) -> list[tuple[WorkItem[Any], float]]:
        """Let go of the waiting items because the process stops, and take no more.

        Returns the items, which stay queued, each with the time at which it is due (``time.time()``).
        """
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
        for _, timer, _ in waiting.values():
            self._timers.cancel(timer)
        return [(item, due) for item, _, due in waiting.values()]

    def end(self, item: WorkItem[Any], why_kept: str = "") -> None:
        """End an item whose time cannot come. ``why_kept``: why the item was not handed over."""
        error = None if item._attempt is None else item._attempt.error
        what = "its time" if error is None else f"its attempt {item.attempt + 1}"
        why = ItemInterruptedError(
            f"item {item.id} ({item.task_name}) waited for {what} when the host stopped{why_kept}"
        )
        why.__cause__ = error
        self._withdraw(item, (Status.INTERRUPTED, None, why))

    def _enter(self, item: WorkItem[Any], seconds: float) -> bool:
        with self._lock:
            if not self._closed:
                timer = self._timers.set(seconds, partial(self._call, item))
                self._waiting[item.id] = item, timer, self._timers.clock.time() + seconds
            return not self._closed

    def _call(self, item: WorkItem[Any]) -> None:
        with self._lock:
            if self._waiting.pop(item.id, None) is None:
                return
        try:
            self._start(item)
        except RuntimeError as error:  # no thread can be started at this moment
            self._log_error(
                f"Item {item.id} ({item.task_name}) could not be started; the next try follows", error, item
            )
            if not self._enter(item, _NO_THREAD):
                self.end(item)
