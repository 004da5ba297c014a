"""Items that wait for their time in this process: for their delay to pass, or for their next attempt.

They are counted as queued. Their time does not come any more once the process stops, so then they are ended,
and named in the log, instead of being waited for.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.item import WorkItem
from flask_background.core.status import Status
from flask_background.errors import ItemInterruptedError, Stopping

if TYPE_CHECKING:
    from flask_background.local.backend import LocalBackend


# When an item is tried again that was due when no thread could be had, in seconds.
_NO_THREAD = 0.5


class DelayedItems:
    """Knows who waits, and releases each at its time."""

    def __init__(self, backend: LocalBackend, alarms: Timers) -> None:
        self._backend = backend
        self._alarms = alarms
        self._lock = native.new_lock()
        self._waiting: dict[str, tuple[WorkItem[Any], Timer]] = {}
        self._closed = False

    def wait_until(self, item: WorkItem[Any], due: float) -> None:
        """Let a new item start at its time (``time.time()``); raises Stopping if that will not come."""
        if not self._enter(item, max(0.0, due - time.time())):
            error = Stopping(
                f"{item.task_name} was not enqueued: this process stops before the item is due. An item of a"
                " durable task waits on disk instead"
            )
            self._backend.withdraw(item, (Status.CANCELLED, None, error))
            raise error

    def try_again(self, item: WorkItem[Any], delay: float) -> None:
        """Let an item that is queued again wait delay seconds for its run; end it if the process stops."""
        if not self._enter(item, delay):
            self._end(item)

    def dismiss(self) -> None:
        """The process stops: end those who wait, and let nobody else in."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
        for item, alarm in waiting.values():
            self._alarms.cancel(alarm)
            self._end(item)

    def _enter(self, item: WorkItem[Any], seconds: float) -> bool:
        with self._lock:
            if not self._closed:
                self._waiting[item.id] = item, self._alarms.set(seconds, partial(self._call, item))
            return not self._closed

    def _call(self, item: WorkItem[Any]) -> None:
        with self._lock:
            if self._waiting.pop(item.id, None) is None:
                return
        backend = self._backend
        if not backend.is_in_flight(item):
            return
        try:
            backend.executors[item._task.executor].put(item)
        except RuntimeError as error:  # there is no thread to be had at this moment
            backend.log_error(f"Item {item.id} ({item.task_name}) is started as soon as it can be", error)
            if not self._enter(item, _NO_THREAD):
                self._end(item)

    def _end(self, item: WorkItem[Any]) -> None:
        error = None if item._attempt is None else item._attempt.error
        what = "its time" if error is None else f"its attempt {item.attempt + 1}"
        why = ItemInterruptedError(
            f"item {item.id} ({item.task_name}) waited for {what} when the host stopped"
        )
        why.__cause__ = error
        self._backend.withdraw(item, (Status.INTERRUPTED, None, why))
