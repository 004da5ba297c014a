"""Items in the memory of this process: counted, run by executors, and gone with the process."""

from __future__ import annotations

import math
import os
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import hub
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.backend import Companion, InProcessBackend, Phase, Stats, Watcher
from flask_background.core.hub_events import make_events
from flask_background.core.item import WorkItem
from flask_background.core.runner import let_frames_go, perform
from flask_background.core.settings import Settings
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import BackgroundError, EnqueueError, ItemCancelledError
from flask_background.executors import close_all, make_executors
from flask_background.executors.base import Executor
from flask_background.local.admission import Admission, mismatch
from flask_background.local.delayed import DelayedItems
from flask_background.local.keys import Keys
from flask_background.local.ledger import Ledger
from flask_background.local.shutdown import ShutdownSequence

if TYPE_CHECKING:
    from flask import Flask

# How long a main thread that computes may keep callbacks waiting under gevent (seconds): one of them may end
# that computation.
_HURRY = 0.25

_RUNNING = Phase.RUNNING  # looked up once: this is on every item's way


class LocalBackend(InProcessBackend):
    """The items of one app in one process."""

    def __init__(self, app: Flask, settings: Settings, watcher: Watcher) -> None:
        self.app = app
        self.pid = os.getpid()
        self.events = make_events(app)
        self._max_queued = settings.max_queued
        self._watcher = watcher
        self._alarms = Timers()
        self.keys = Keys()
        self.executors = make_executors(app, settings, perform)
        # Items know their backend; an idle executor does not, and ends with it.
        weakref.finalize(self, close_all, self.executors).atexit = False
        self.ledger = Ledger(self.executors.values())
        self.lock = self.ledger.lock
        self.later = DelayedItems(self, self._alarms)
        self.companion: Companion | None = None
        self._border = Admission(self.ledger, self.executors, settings)
        self.clock = ShutdownSequence(self, settings.grace_period)

    # For views.

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        task = item._task
        executor = self.executors.get(task.executor)
        if executor is None or (executor.coroutines_only and not task.is_coroutine):
            raise mismatch(task, self.executors)
        if executor.prepares:
            executor.prepare(item)
        if task.key is not None and (other := self.keys.take(item)) is not item:
            return other
        run_here = False
        if not self.ledger.admit(item, executor, executor.capacity + self._max_queued):
            try:
                run_here = self._border.admit(item, executor)
            except BaseException as error:
                self.keys.give_back(item)
                if isinstance(error, EnqueueError):
                    self.events.refused(item.task_name, error)
                raise
        if not self._watcher.awake:
            self._watcher.wake()
        try:
            self.events.enqueued(item)
        finally:  # a signal may raise here, and the item has been accepted
            if due is not None:
                self.later.wait_until(item, due)
            elif held:
                pass
            elif run_here:
                executor.run_here(item)
                item.wait()  # what is too much is slowed down where it comes from
            else:
                self._put(item, executor)
        return item

    def take(self, item: WorkItem[Any], held: bool = False) -> bool:
        """Take an item that the journal has accepted, however many wait here; False if all is over here."""
        executor = self.executors[item._task.executor]
        if not self.ledger.admit(item, executor, math.inf):
            return False
        if not self._watcher.awake:
            self._watcher.wake()
        if not held:
            try:
                executor.put(item)
            except RuntimeError:  # the system has no thread to give
                return not self.let_go(item)
        return True

    def let_go(self, item: WorkItem[Any], *, running: bool = False) -> bool:
        """Know nothing more of an item that goes on elsewhere; False if it is not queued (running) here."""
        executor = self.executors[item._task.executor]
        was_here = self.ledger.let_go(item, executor.running if running else executor.queued)
        if self.ledger.phase is not _RUNNING:
            self._watcher.ring()
        return was_here

    def release(self, item: WorkItem[Any]) -> None:
        if self.is_in_flight(item):
            self._put(item, self.executors[item._task.executor])

    def drop(self, item: WorkItem[Any], why: str) -> None:
        error = ItemCancelledError(f"item {item.id} ({item.task_name}) was dropped: {why}")
        if self.withdraw(item, (Status.CANCELLED, None, error)):
            self.events.dropped(item, why)

    def hold(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def enter(self, item: WorkItem[Any], due: float | None) -> None:
        if due is None:
            self.release(item)
        elif self.is_in_flight(item):
            self.later.wait_until(item, due)

    def _put(self, item: WorkItem[Any], executor: Executor) -> None:
        try:
            executor.put(item)
        except RuntimeError as error:  # the system has no thread to give
            why = ItemCancelledError(f"item {item.id} ({item.task_name}) could not be started: {error}")
            self.withdraw(item, (Status.CANCELLED, None, why))
            raise

    # For runs.

    def start(self, item: WorkItem[Any], run: Attempt) -> bool:
        """Claim an item for its run; False if it was withdrawn, or all is over."""
        if not self.ledger.claim(item, self.executors[item._task.executor], run):
            return False
        self.events.started(item)
        return True

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Settle what a run has come to, unless another one follows."""
        if outcome[0] is Status.FAILED and self.later.try_again(item, run, outcome[2]):
            return
        self.conclude(item, run, outcome)

    def conclude(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Settle the outcome of an item, and tell it."""
        self.ledger.settle(item, run, outcome)
        try:
            self._tell_end(item, outcome)
        finally:  # on the main thread a signal may raise here, and the item has ended
            if run.error is not None:
                let_frames_go(run.error)
            self.ledger.remove(item, self.executors[item._task.executor].running)
            if item._gates is not None:
                item._wake()
            if self.ledger.phase is not _RUNNING:
                self._watcher.ring()

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Ask a running item to end in so many seconds."""
        self.source_of(item).limit(time.monotonic() + seconds)
        return self._alarms.set(seconds, partial(self._ask_to_end, item, CancelReason.TIMEOUT))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call what is quick, and raises nothing, in so many seconds."""
        self._alarms.set(seconds, callback)

    def cancel_timer(self, alarm: Timer) -> None:
        """It has ended before."""
        self._alarms.cancel(alarm)

    def log_error(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.events.log_error(what, error)

    # For handles.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of the item's token, made when it is first asked for."""
        source = item._source
        if source is None:
            with self.lock:
                source = item._source
                if source is None:
                    source = item._source = CancellationSource()
                    if self.ledger.phase is not Phase.RUNNING and self.is_in_flight(item):
                        source.limit(self.clock.on_record_at)
                        source.fire(CancelReason.SHUTDOWN)
        return source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end."""
        if self.pid != os.getpid():
            raise BackgroundError(f"item {item.id} belongs to process {self.pid}: cancel it there")
        why = ItemCancelledError(f"item {item.id} ({item.task_name}) was cancelled")
        if self.withdraw(item, (Status.CANCELLED, None, why)):
            return True
        if item.status not in (Status.RUNNING, Status.INTERRUPTED) or not self.is_in_flight(item):
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
        up_at = self.clock.up_at if grace is None else min(self.clock.up_at, began + grace)
        self.wait_idle(up_at - time.monotonic())
        self.clock.close_if_idle()
        return self.clock.time_is_up()

    def withdraw(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """End a queued item, so that it never runs; False if it does or did."""
        if not self.ledger.withdraw(item, self.executors[item._task.executor], outcome):
            return False
        self._tell_end(item, outcome)
        self.ledger.remove(item, self.ledger.leaving)
        item._wake()
        return True

    def call_back(self, callbacks: Sequence[Callable[[], object]]) -> None:
        """Call what waits for a token; errors of a callback are logged."""

        def call() -> None:
            for callback in callbacks:
                try:
                    callback()
                except BaseException as error:
                    self.log_error("A token's callback failed", error)

        if callbacks:
            hub.start(call, within=_HURRY)

    def end(self, unfinished: list[WorkItem[Any]]) -> None:
        """Nothing will be accepted or started any more."""
        for executor in self.executors.values():
            executor.abort()
            executor.close()
        self.events.stopped(unfinished)
        if self.companion is not None:
            self.companion.stopped()

    def _tell_end(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """Tell all who want to know; after that the process may end."""
        corrects = item.id in self.clock.recorded
        try:
            if not corrects or outcome[0] is not Status.INTERRUPTED:
                self.events.finished(item, outcome, corrects)
        except Exception:  # the log itself is broken: say so where logging does, and let nothing hang
            traceback.print_exc()
        finally:
            if item._uploads is not None:
                for upload in item._uploads:
                    upload.close()
                item._uploads = None
            item._args, item._kwargs = (), None
            self.keys.give_back(item)

    def _ask_to_end(self, item: WorkItem[Any], reason: CancelReason) -> None:
        self.call_back(self.source_of(item).fire(reason))
        abort = item._attempt.abort if item._attempt is not None else None
        if abort is not None:
            abort()

    def is_in_flight(self, item: WorkItem[Any]) -> bool:
        executor = self.executors[item._task.executor]
        return item.id in executor.queued or item.id in executor.running
