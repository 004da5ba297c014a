"""Items in the memory of this process: counted, run by executors, and at its end handed over or lost."""

from __future__ import annotations

import math
import os
import weakref
from typing import TYPE_CHECKING, Any

from flask_background.concurrency.stop_signals import uninterruptible
from flask_background.concurrency.timers import Timers
from flask_background.core.backend import Companion, Entry, InProcessBackend, Phase, Stats
from flask_background.core.executor_check import mismatch
from flask_background.core.hub_events import make_events
from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import let_frames_go
from flask_background.core.run_host import RunHost
from flask_background.core.runner import perform
from flask_background.core.settings import Settings
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.errors import (
    ArgumentError,
    BackgroundError,
    ConfigurationError,
    EnqueuedInChildError,
    EnqueueError,
    ItemCancelledError,
    Stopping,
)
from flask_background.executors import close_all, make_executors
from flask_background.executors.base import Executor
from flask_background.local.admission import Admission
from flask_background.local.delayed import DelayedItems
from flask_background.local.handover import HandOver
from flask_background.local.keys import Keys
from flask_background.local.ledger import Ledger
from flask_background.local.lending import Lending
from flask_background.local.shutdown import ShutdownSequence
from flask_background.local.uploads import UploadRoom, put_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask import Flask

    from flask_background.core.callee import Callee
    from flask_background.core.registry import Registry
    from flask_background.core.request_state import RequestState
    from flask_background.hosts.base import Host
    from flask_background.local.handover import Heir, Leaving
    from flask_background.local.uploads import Copies

_RUNNING = Phase.RUNNING  # a local name, because every item passes here


class LocalBackend(InProcessBackend, RunHost):
    """The items of one app in one process."""

    can_retract = True

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        host: Host,
        registry: Registry,
        *,
        open_heir: Callable[[], Heir | None] = lambda: None,
        look_out: Callable[[], object] = lambda: None,
    ) -> None:
        """``open_heir`` opens the journal for the items that are handed over; None: there is none.

        ``look_out`` is called now and then while items are in flight, and raises nothing.
        """
        self._max_queued = settings.max_queued
        self._watcher = host
        self.keys = Keys()
        self.executors = make_executors(app, settings, perform, registry.tasks)
        # An item refers to its backend; an idle executor does not, and is closed when the backend is deleted.
        weakref.finalize(self, close_all, self.executors).atexit = False
        self.ledger = Ledger(self.executors.values())
        timers = Timers(self.timer_failed)
        super().__init__(app, make_events(app), timers, self.ledger.lock, registry.around_item)
        self.later = DelayedItems(
            self.timers,
            start=self._start_waiting,
            withdraw=self.withdraw,
            log_error=self.log_error,
            too_late=self._hand_over_late,
        )
        self.lending = self._lending = Lending(self.executors)
        self._uploads = UploadRoom()
        self.companion: Companion | None = None
        self.admission = Admission(self.ledger, self.keys, self.executors, settings)
        #: The ids of the items that wait for a response or a commit.
        self._held: set[str] = set()
        self._look_out = look_out
        self._hand_over = HandOver(
            self.ledger,
            self.executors,
            self.events,
            may_go=self._may_go,
            leave=self._leave,
            end=self._end_leaving,
            open_heir=open_heir,
        )
        self.shutdown = ShutdownSequence(
            self.ledger,
            self.events,
            min(settings.grace_period, host.longest_grace),
            settings.host_limit,
            hand_over=self._hand_over,
            source_of=self.source_of,
            withdraw=self.withdraw,
            look_after=self._look_after,
            at_begin=self._stop_begins,
            at_record=self._expect_kill,
            at_end=self._end,
        )

    # For views.

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        return WorkItem(callee, args, kwargs, state, self)

    @uninterruptible
    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        task = item._task
        executor = self.executors.get(task.executor)
        if executor is None or (executor.coroutines_only and not task.is_coroutine):
            raise mismatch(task, self.executors)
        executor.prepare(item)
        copies = None if item._uploads is None else self.enter_uploads(item)
        run_here = False
        if held:
            self._held.add(item.id)  # before anyone can see the item
        if task.key is not None or not self.ledger.admit(
            item, executor, executor.capacity + self._max_queued
        ):
            try:
                accepted, run_here = self.admission.wait_and_enter(item, executor)
            except BaseException as error:
                self._held.discard(item.id)
                self.discard_uploads(item, copies)
                if isinstance(error, EnqueueError):
                    self.events.refused(item.task_name, error)
                raise
            if accepted is not item:
                self._held.discard(item.id)
                self.discard_uploads(item, copies)
                return accepted  # the item that has the key
        if copies:
            put_aside(copies)
        try:
            if not self._watcher.awake:
                self._wake_watcher()
            self.events.enqueued(item)
        finally:  # a signal may raise here, when the item has been accepted
            if due is not None:
                self.later.wait_until(item, due)
            elif held:
                pass
            elif run_here:
                executor.run_here(item)
                item.wait()  # BACKGROUND_OVERFLOW slows the caller down
            else:
                self._put(item, executor)
        return item

    @uninterruptible
    def accept_many(
        self, entries: Sequence[Entry[WorkItem[Any]]], rest: Callable[[], object]
    ) -> list[WorkItem[Any]]:
        copies: dict[str, Copies] = {}
        items = [entry.item for entry in entries]
        try:
            if self.ledger.phase is not _RUNNING and any(entry.due is not None for entry in entries):
                raise Stopping.refusing(items[0].task_name)
            for entry in entries:
                self._prepare(entry, copies)
            accepted = self.admission.enter_all(items)
            try:
                rest()
            except BaseException:
                for item in items:
                    self._retract(item)
                raise
        except BaseException as error:
            for item in items:
                self.discard_uploads(item, copies.get(item.id))
            if isinstance(error, EnqueueError):
                self.events.refused(items[0].task_name, error)
            raise
        if not self._watcher.awake:
            self._wake_watcher()
        for entry, taken in zip(entries, accepted, strict=True):
            if taken is entry.item:
                put_aside(copies.get(taken.id, []))
                self._start_new(taken, entry.due)
            else:
                self.discard_uploads(entry.item, copies.get(entry.item.id))
        return accepted

    def _prepare(self, entry: Entry[WorkItem[Any]], copies: dict[str, Copies]) -> None:
        item, task = entry.item, entry.item._task
        executor = self.executors.get(task.executor)
        try:
            if executor is None or (executor.coroutines_only and not task.is_coroutine):
                raise mismatch(task, self.executors)
            executor.prepare(item)
        except (ArgumentError, ConfigurationError) as error:
            raise entry.refusing(error) from error
        if item._uploads is not None:
            copies[item.id] = self._uploads.enter(item)

    def _retract(self, item: WorkItem[Any]) -> None:
        """Take back an item that has not started, because its batch was refused."""
        if item._task.key is not None:  # others may have its handle
            self.cancel_held(item, "the batch that it was enqueued with was refused")
        elif self.is_in_flight(item):  # otherwise the stop has ended it
            self.let_go(item)

    def _start_new(self, item: WorkItem[Any], due: float | None) -> None:
        executor = self.executors[item._task.executor]
        try:
            self.events.enqueued(item)
        finally:  # a signal may raise here, when the item has been accepted
            if due is not None:
                self.later.try_again(item, due - self.timers.clock.time())
            elif len(executor.queued) + len(executor.running) > self.admission.most(executor):
                executor.run_here(item)
                item.wait()  # BACKGROUND_OVERFLOW slows the caller down
            else:
                self._put(item, executor)

    @uninterruptible
    def take(self, item: WorkItem[Any], held: bool = False) -> bool:
        """Take an item from the journal, even if the queue is full; return False after the stop."""
        executor = self.executors[item._task.executor]
        if not self.ledger.admit(item, executor, math.inf):
            return False
        if not self._watcher.awake:
            self._wake_watcher()
        if not held:
            try:
                executor.put(item)
            except RuntimeError:  # the system cannot start a thread
                return not self.let_go(item)
        return True

    @uninterruptible
    def take_with_key(self, item: WorkItem[Any]) -> WorkItem[Any] | None:
        """Take an item, held, or return the item in flight with the same key; return None after the stop."""
        accepted = self.admission.enter(item, self.executors[item._task.executor], math.inf)
        if accepted is item and not self._watcher.awake:
            self._wake_watcher()
        return accepted

    def let_go(self, item: WorkItem[Any], *, running: bool = False) -> bool:
        """Forget an item that goes on elsewhere; return False if it is not queued (or running) here."""
        executor = self.executors[item._task.executor]
        was_here = self.ledger.let_go(item, executor.running if running else executor.queued)
        self._lending.give_back(item)
        self._uploads.leave(item)
        if self.ledger.phase is not _RUNNING:
            self._watcher.ring()
        return was_here

    @uninterruptible
    def start_held(self, item: WorkItem[Any]) -> None:
        self._held.discard(item.id)
        if self.is_in_flight(item):
            self._put(item, self.executors[item._task.executor])

    def cancel_held(self, item: WorkItem[Any], why: str) -> None:
        error = ItemCancelledError(f"item {item.id} ({item.task_name}) was dropped: {why}")
        if self.withdraw(item, (Status.CANCELLED, None, error)):
            self.events.dropped(item, why)

    def reserve(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def submit_reserved(self, item: WorkItem[Any], due: float | None) -> None:
        if due is None:
            self.start_held(item)
        elif self.is_in_flight(item):
            self._held.discard(item.id)
            self.later.wait_until(item, due)

    def _wake_watcher(self) -> None:
        self._watcher.wake()
        self.ledger.let_old_go()  # the watcher has not done so while it slept

    def enter_uploads(self, item: WorkItem[Any]) -> Copies:
        """Count the uploads of an item, or copy them; see ``UploadRoom.enter``. Raises QueueFull."""
        try:
            return self._uploads.enter(item)
        except EnqueueError as error:
            self.events.refused(item.task_name, error)
            raise

    def discard_uploads(self, item: WorkItem[Any], copies: Copies | None) -> None:
        """Forget the uploads of an item that was not accepted."""
        self._uploads.discard(item, copies)

    def _put(self, item: WorkItem[Any], executor: Executor) -> None:
        try:
            executor.put(item)
        except RuntimeError as error:  # the system cannot start a thread
            why = ItemCancelledError(f"item {item.id} ({item.task_name}) could not be started: {error}")
            self.withdraw(item, (Status.CANCELLED, None, why))
            raise

    def _start_waiting(self, item: WorkItem[Any]) -> None:
        """Give an item whose time has come to its executor, unless it was withdrawn. Raises RuntimeError."""
        if self.is_in_flight(item):
            self.executors[item._task.executor].put(item)

    # For runs.

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        if not self.ledger.claim(item, self.executors[item._task.executor], attempt):
            return False
        self.events.started(item)
        return True

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        if not self.requeue(item, error, delay):
            return False
        self.later.try_again(item, delay)
        return True

    def requeue(self, item: WorkItem[Any], error: BaseException, delay: float) -> bool:
        """Queue a running item again, and report it; return False in a stop, in which nothing is retried."""
        if not self.ledger.requeue(item, self.executors[item._task.executor], error, delay):
            return False
        self._lending.give_back(item)
        self.tell_retried(item, error, delay)
        return True

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        self.ledger.settle(item, attempt, outcome)
        try:
            self._tell_end(item, outcome)
        finally:  # on the main thread a signal may raise here, when the item has ended
            if attempt.error is not None:
                let_frames_go(attempt.error)
            self.ledger.remove(item, self.executors[item._task.executor].running)
            if self.ledger.phase is not _RUNNING:
                self._watcher.ring()

    def timer_failed(self, error: BaseException) -> None:
        """Log the error of a timer's callback."""
        self.log_error("A timer's callback failed", error)

    # For handles.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """Return the write side of the item's token, made at the first call."""
        source = item._source
        if source is None:
            with self.lock:
                source = item._source
                if source is None:
                    source = CancellationSource(self.callback_failed, item._host.clock)
                    item._set_source(source)
                    if self.ledger.phase is not Phase.RUNNING and self.is_in_flight(item):
                        source.limit(self.shutdown.on_record_at)
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
        self.ask_to_end(item, CancelReason.REQUESTED)
        return True

    def get(self, item_id: str) -> WorkItem[Any] | None:
        return self.ledger.get(item_id)

    def items(self) -> list[WorkItem[Any]]:
        return self.ledger.all()

    def stats(self) -> Stats:
        return self.ledger.stats()

    def wait_idle(self, timeout: float | None) -> bool:
        with self.ledger.idle_latch() as latch:
            return latch.wait(timeout)

    def stop(self, grace: float | None) -> list[WorkItem[Any]]:
        return self.shutdown.stop(grace)

    # For the stop.

    def withdraw(self, item: WorkItem[Any], outcome: Outcome) -> bool:
        """End a queued item, so that it never runs; return False if it runs or has run."""
        if not self.ledger.withdraw(item, self.executors[item._task.executor], outcome):
            return False
        self._tell_end(item, outcome)
        self.ledger.remove(item, self.ledger.leaving)
        return True

    def _may_go(self, item: WorkItem[Any]) -> bool:
        """Return whether a queued item may be handed over: it is in memory only, and waits for its run."""
        return item._host is self and type(item) is WorkItem and item.id not in self._held

    def _hand_over_late(self, item: WorkItem[Any], due: float) -> None:
        """Hand over an item that was queued again just before the stop began, when the others were taken."""
        end = self.shutdown.must_be_done_by()
        self._hand_over.enter(self._hand_over.take_waiting([(item, due)], self.later.end, end))

    def _leave(self, item: WorkItem[Any], error: BaseException) -> None:
        """Forget an item that was handed over: it goes on elsewhere, under the same id."""
        item._end((Status.INTERRUPTED, None, error))
        self._release(item)
        self.ledger.let_go(item, self.ledger.leaving)
        item._announce_end()

    def _end_leaving(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """End an item that was taken out of the queue."""
        item._end(outcome)
        self._tell_end(item, outcome)
        self.ledger.remove(item, self.ledger.leaving)

    def _look_after(self) -> None:
        """Start threads that have died or could not be started, and forget items that ended long ago.

        Raises nothing. Called now and then while items are in flight.
        """
        self.timers.have_thread()
        for executor in self.executors.values():
            executor.have_thread()
        self.ledger.let_old_go()
        self._look_out()

    def _stop_begins(self, end: float) -> Leaving:
        leaving = self._hand_over.take_waiting(self.later.dismiss(), self.later.end, end)
        if self.companion is not None:
            self.companion.stop_begins()
        return leaving

    def _expect_kill(self) -> None:
        if self.companion is not None:
            self.companion.expect_kill()

    def _end(self, unfinished: list[WorkItem[Any]]) -> None:
        """Close the executors: from now on no item is accepted or started."""
        for executor in self.executors.values():
            executor.abort()
            executor.close()
        self.timers.close()
        self.events.stopped(unfinished)
        if self.companion is not None:
            self.companion.stopped()

    def _tell_end(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """Report the end of an item to the log, signals and waiters; after that the process may end."""
        corrects = item.id in self.ledger.recorded
        try:
            if not corrects or outcome[0] is not Status.INTERRUPTED:
                self.events.finished(item, outcome, corrects)
        finally:
            self._release(item)

    def _release(self, item: WorkItem[Any]) -> None:
        """Let go of what an item had here: it will not run here again."""
        if item._uploads is not None:
            self._uploads.leave(item)
        item._release_arguments()
        if item._task.key is not None:
            self.keys.give_back(item)
        if self._lending.lent:
            self._lending.give_back(item)
        if self._held:
            self._held.discard(item.id)

    def is_in_flight(self, item: WorkItem[Any]) -> bool:
        executor = self.executors[item._task.executor]
        return item.id in executor.queued or item.id in executor.running


class ChildBackend(LocalBackend):
    """The backend of a child process or a Celery worker: refuses items, which would be lost with it."""

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        raise EnqueuedInChildError(
            f"{item.task_name} was enqueued in a child process, by an item or as the app was loaded there,"
            " and would be lost with it: make the task durable=True, so that the journal keeps the item, or"
            " call it as a function"
        )

    def accept_many(
        self, entries: Sequence[Entry[WorkItem[Any]]], rest: Callable[[], object]
    ) -> list[WorkItem[Any]]:
        return [self.accept(entry.item) for entry in entries]
