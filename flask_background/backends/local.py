"""Items in the memory of this process: counted, run by executors, and gone with the process."""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import native
from ..alarms import Alarm, Alarms
from ..config import Settings
from ..errors import ConfigurationError, ItemCancelled, QueueFull, Refused, Stopping
from ..events import Events
from ..executors.aio import AsyncioExecutor
from ..executors.base import Executor
from ..executors.threads import ThreadExecutor
from ..item import Status, WorkItem
from ..runner import Outcome, perform
from ..token import CancellationSource, CancelReason
from .base import Backend, Phase, Stats, Watcher
from .ledger import Ledger
from .stopping import StopClock

if TYPE_CHECKING:
    from flask import Flask


class LocalBackend(Backend):
    """The items of one app in one process."""

    def __init__(self, app: Flask, settings: Settings, watcher: Watcher) -> None:
        self.app = app
        self.pid = os.getpid()
        self.ledger = Ledger()
        self.lock = self.ledger.lock
        self.events = Events(app)
        self.clock = StopClock(self, settings.grace_period)
        self._settings = settings
        self._watcher = watcher
        self._alarms = Alarms()
        run = partial(perform, self)
        self._aio = AsyncioExecutor("asyncio", settings.executors["asyncio"].capacity, run)
        self._executors: dict[str, Executor] = {}
        for name, wanted in settings.executors.items():
            if name == "asyncio":
                self._executors[name] = self._aio
            elif wanted.kind == "asyncio":
                self._executors[name] = AsyncioExecutor(name, wanted.capacity, run)
            else:
                run_here = partial(run, adopt=self._aio.adopt)
                self._executors[name] = ThreadExecutor(name, wanted.capacity, run_here)

    # For views.

    def accept(self, item: WorkItem[Any], *, held: bool = False) -> None:
        executor = self._executor_of(item)
        limit = executor.capacity + self._settings.max_queued
        overflow = self._settings.overflow
        room = self.ledger.admit(item, executor, limit)
        if not room and overflow == "block":
            room = self._wait_for_room(item, executor, limit)
        if room:
            self._accepted(item)
            if not held:
                executor.put(item)
        elif overflow == "run" and self.ledger.admit(item, executor, math.inf):
            self._accepted(item)
            self._run_here(item, executor)
        else:
            raise self._refusal(item, executor)

    def release(self, item: WorkItem[Any]) -> None:
        if self._holds(item):
            self._executor_of(item).put(item)

    def drop(self, item: WorkItem[Any], error: BaseException) -> None:
        why = f"item {item.id} ({item.task_name}) was dropped: its view ended with {type(error).__name__}"
        if self.withdraw(item, (Status.CANCELLED, None, ItemCancelled(why))):
            self.events.dropped(item, error)

    def _accepted(self, item: WorkItem[Any]) -> None:
        if not self._watcher.awake:
            self._watcher.wake()
        self.events.enqueued(item)

    def _wait_for_room(self, item: WorkItem[Any], executor: Executor, limit: float) -> bool:
        while self.ledger.phase is not Phase.STOPPED:
            gate = native.Gate()
            if self.ledger.admit(item, executor, limit, gate):
                return True
            gate.wait()
        return False

    def _run_here(self, item: WorkItem[Any], executor: Executor) -> None:
        """Let the caller do the work, or wait for it: what is too much is slowed down where it comes from."""
        if executor.coroutines_only:
            executor.put(item)
        else:
            perform(self, item, self._aio.adopt)
        item.wait()

    def _executor_of(self, item: WorkItem[Any]) -> Executor:
        task = item._task
        executor = self._executors.get(task.executor)
        if executor is None:
            raise ConfigurationError(
                f"task {task.name} wants the executor {task.executor!r}; this app has"
                f" {', '.join(sorted(self._executors))}. BACKGROUND_EXECUTORS adds more"
            )
        if executor.coroutines_only and not task.is_coroutine:
            raise ConfigurationError(
                f"task {task.name} is not a coroutine function, and the executor {task.executor!r} runs"
                " coroutines: it would hold all of them up. Leave the executor out, or name one of threads"
            )
        return executor

    def _refusal(self, item: WorkItem[Any], executor: Executor) -> Refused:
        error: Refused
        if self.ledger.phase is Phase.STOPPED:
            error = Stopping(f"{item.task_name} was not enqueued: this process has stopped taking items")
        else:
            error = QueueFull(
                f"{item.task_name} was not enqueued: {self._settings.max_queued} items wait for the executor"
                f" {executor.name!r}, as many as BACKGROUND_MAX_QUEUED allows"
            )
        self.events.refused(item.task_name, error)
        return error

    # For runs.

    def start(self, item: WorkItem[Any]) -> bool:
        """Claim an item for its run; False if it was withdrawn, or all is over."""
        if not self.ledger.claim(item):
            return False
        self.events.started(item)
        return True

    def finish(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """Settle what a run has come to."""
        corrects = self.ledger.settle(item, outcome)
        status, _, error = outcome
        if not (corrects and status is Status.INTERRUPTED):
            self.events.finished(item, status, corrects)
        if error is not None:
            # The handle keeps the exception; what its frames hold (an upload, a page) need not stay with it.
            traceback.clear_frames(error.__traceback__)
        self._let_go(item)

    def set_alarm(self, item: WorkItem[Any], seconds: float) -> Alarm:
        """Ask a running item to end in so many seconds."""
        self.source_of(item).limit(time.monotonic() + seconds)
        return self._alarms.set(seconds, partial(self._ask_to_end, item, CancelReason.TIMEOUT))

    def cancel_alarm(self, alarm: Alarm) -> None:
        """It has ended before."""
        self._alarms.cancel(alarm)

    def trouble(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.events.trouble(what, error)

    # For handles.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of the item's token, made when it is first asked for."""
        source = item._source
        if source is None:
            with self.lock:
                source = item._source
                if source is None:
                    source = item._source = CancellationSource()
                    if self.ledger.phase is not Phase.RUNNING and self._holds(item):
                        source.limit(self.clock.on_record_at)
                        source.fire(CancelReason.SHUTDOWN)
        return source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end."""
        why = ItemCancelled(f"item {item.id} ({item.task_name}) was cancelled")
        if self.withdraw(item, (Status.CANCELLED, None, why)):
            return True
        if item.status not in (Status.RUNNING, Status.INTERRUPTED) or not self._holds(item):
            return False
        self._ask_to_end(item, CancelReason.REQUESTED)
        return True

    def get(self, item_id: str) -> WorkItem[Any] | None:
        return self.ledger.get(item_id)

    def items(self) -> list[WorkItem[Any]]:
        return self.ledger.all()

    def stats(self) -> Stats:
        return self.ledger.stats()

    def wait_idle(self, timeout: float | None) -> bool:
        return self.ledger.idle_gate().wait(timeout)

    # For the stop.

    def stop(self, grace: float | None) -> list[WorkItem[Any]]:
        began = time.monotonic()
        self.clock.begin(began, grace=grace)
        self.wait_idle(self.clock.up_at - time.monotonic())
        return [] if self.clock.close_if_idle() else self.clock.time_is_up()

    def withdraw(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """End a waiting item, so that it never runs; False if it does or did."""
        told = item.status
        if not self.ledger.withdraw(item, outcome):
            return False
        if told is not outcome[0]:
            self.events.finished(item, outcome[0], corrects=told is Status.INTERRUPTED)
        self._let_go(item)
        return True

    def call_back(self, callbacks: Iterable[Callable[[], object]]) -> None:
        """Call what waits for a token; what that raises is logged."""
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                self.trouble("A token's callback failed", error)

    def end(self, unfinished: list[WorkItem[Any]]) -> None:
        """Nothing will be accepted or started any more."""
        for executor in self._executors.values():
            executor.abort()
            executor.close()
        self.events.stopped(unfinished)

    def _ask_to_end(self, item: WorkItem[Any], reason: CancelReason) -> None:
        self.call_back(self.source_of(item).fire(reason))
        abort = item._abort
        if abort is not None:
            abort()

    def _holds(self, item: WorkItem[Any]) -> bool:
        return item.id in self.ledger.in_flight

    def _let_go(self, item: WorkItem[Any]) -> None:
        """The last thing in an item's life here: all have been told, so the process may end."""
        for upload in item._uploads:
            upload.close()
        item._args, item._kwargs, item._uploads = (), None, ()
        item._release()
        self.ledger.remove(item, self._executors[item._task.executor])
        if self.ledger.phase is not Phase.RUNNING:
            self._watcher.ring()
