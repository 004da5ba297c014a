"""The border of an executor: what becomes of an item that finds no room there, or no executor at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flask_background.concurrency import native
from flask_background.concurrency.stop_signals import interruptible_wait
from flask_background.core.backend import Phase
from flask_background.core.callee import Callee
from flask_background.core.item import WorkItem
from flask_background.errors import ConfigurationError, EnqueueError, QueueFull, Stopping
from flask_background.executors.base import Executor
from flask_background.local.keys import Keys
from flask_background.local.ledger import Ledger

if TYPE_CHECKING:
    from flask_background.core.settings import Settings

# Items that come at once may send one another away, where there is room for some of them. So they are tried
# again one by one, and a caller that waits looks again after so many seconds: there may be no item in flight
# whose end would wake the caller.
_RETRY = 0.05


class Admission:
    """Lets items in, each with its key, and holds those up that find no room, as BACKGROUND_OVERFLOW says."""

    def __init__(
        self, ledger: Ledger, keys: Keys, executors: Mapping[str, Executor], settings: Settings
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._executors = executors
        self._settings = settings
        self._one_by_one = native.new_lock()

    def enter(self, item: WorkItem[Any], executor: Executor, limit: float) -> WorkItem[Any] | None:
        """Let an item in unless its executor has limit items already; None if it is not let in.

        Returns the item, or the one in flight that has its key.
        """
        if item._task.key is not None:
            return self._keys.enter(item, partial(self._ledger.admit, item, executor, limit))
        return item if self._ledger.admit(item, executor, limit) else None

    def wait_and_enter(self, item: WorkItem[Any], executor: Executor) -> tuple[WorkItem[Any], bool]:
        """Let an item in once there is room. Says whether its caller has to run it; raises EnqueueError."""
        limit = executor.capacity + self._settings.max_queued
        how = self._settings.overflow
        if any(each.is_here() for each in self._executors.values()):
            how = "raise"  # a coroutine of ours: to wait here would hold up those that it waits for
        while True:
            with self._ledger.room_latch() as latch:
                with self._one_by_one:
                    if (accepted := self.enter(item, executor, limit)) is not None:
                        return accepted, False
                if how != "block" or self._ledger.phase is Phase.STOPPED:
                    break
                _wait_for_room(latch)
        if how == "run" and (accepted := self.enter(item, executor, math.inf)) is not None:
            return accepted, accepted is item
        raise self._refusal(item, executor)

    def _refusal(self, item: WorkItem[Any], executor: Executor) -> EnqueueError:
        if self._ledger.phase is Phase.STOPPED:
            return Stopping.refusing(item.task_name)
        return QueueFull(
            f"{item.task_name} was not enqueued: {self._settings.max_queued} items wait for the executor"
            f" {executor.name!r}, as many as BACKGROUND_MAX_QUEUED allows. Give it more workers,"
            ' or let the view wait for room (BACKGROUND_OVERFLOW = "block"), or make the task durable'
        )


@interruptible_wait
def _wait_for_room(latch: native.Latch) -> None:
    latch.wait(_RETRY)


class Kind(Protocol):
    """What has to be known of an executor: the executor itself, or its settings."""

    @property
    def coroutines_only(self) -> bool: ...


def check_executor(task: Callee, executors: Mapping[str, Kind]) -> None:
    """Raise ConfigurationError if none of the executors is for this task."""
    executor = executors.get(task.executor)
    if executor is None or (executor.coroutines_only and not task.is_coroutine):
        raise mismatch(task, executors)


def check_here(task: Callee, executors: Mapping[str, Executor]) -> None:
    """Raise ConfigurationError if the executors of this process cannot run this task."""
    check_executor(task, executors)
    executors[task.executor].check(task)


def mismatch(task: Callee, executors: Mapping[str, Kind]) -> ConfigurationError:
    """The error of a task that names an executor which is not there, or which is not for it."""
    if task.executor not in executors:
        return ConfigurationError(
            f"task {task.name} wants the executor {task.executor!r}; this app has"
            f" {', '.join(sorted(executors))}. BACKGROUND_EXECUTORS adds more"
        )
    return ConfigurationError(
        f"task {task.name} is not a coroutine function, and the executor {task.executor!r} runs"
        " coroutines: it would hold all of them up. Leave the executor out, or name one of threads"
    )
