"""The base of the backends for tests and scripts: items run on the caller's own thread.

These items are ordinary items of the process: its LocalBackend counts them, gives them tokens and keeps their
results.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.await_here import await_here
from flask_background.core.backend import Backend, Entry
from flask_background.core.executor_check import check_executor
from flask_background.core.item import WorkItem
from flask_background.core.run_host import RunHost
from flask_background.core.runner import Run, perform
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.errors import ArgumentError, ConfigurationError, EnqueueError
from flask_background.payload import data
from flask_background.payload.outcomes import result_as_data, result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.datastructures import FileStorage

    from flask_background.concurrency.timers import Timers
    from flask_background.core.callee import Callee
    from flask_background.core.request_state import RequestState
    from flask_background.core.token import CancellationSource
    from flask_background.local.backend import LocalBackend


class InlineBackend(Backend[WorkItem[Any]], RunHost):
    """Accepts items, and converts their arguments as another backend would."""

    def __init__(self, local: LocalBackend, timers: Timers, max_bytes: int, *, strict: bool) -> None:
        super().__init__(local.app, local.events, timers, local.lock, local.around)
        self._local = local
        self._max_bytes = max_bytes
        self._strict = strict
        #: For each item whose arguments became data: a function that makes the arguments again.
        self._remake: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._turns: dict[str, native.Latch] = {}
        self._raised: dict[str, BaseException] = {}

    # For views.

    @abstractmethod
    def enter_books(self, item: WorkItem[Any]) -> WorkItem[Any]:
        """Count an item, held; return it or the item with the same key. Raises EnqueueError."""

    @abstractmethod
    def may_start(self, item: WorkItem[Any], due: float | None) -> None:
        """Run an accepted item, or let it wait. ``due``: when it may start, or None for now."""

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        return WorkItem(callee, args, kwargs, state, self)

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        task, local = item._task, self._local
        check_executor(task, local.executors)
        if task.portable and (self._strict or _stands_for_data(task)):
            self._make_data(item)
        try:
            accepted = self.enter_books(item)
        except EnqueueError as error:
            self.forget(item)
            local.events.refused(task.name, error)
            raise
        if accepted is not item:
            self.forget(item)
            return accepted  # the item that has the key
        try:
            local.events.enqueued(item)
        finally:  # a signal may raise here, when the item has been accepted
            if not held:
                self.may_start(item, due)
        return item

    def accept_many(
        self, entries: Sequence[Entry[WorkItem[Any]]], rest: Callable[[], object]
    ) -> list[WorkItem[Any]]:
        """Accept items one after the other, when the arguments of all have passed the check."""
        for entry in entries:
            task = entry.item._task
            try:
                check_executor(task, self._local.executors)
                if task.portable and (self._strict or _stands_for_data(task)):
                    self._make_data(entry.item)
            except (ArgumentError, ConfigurationError) as error:
                for one in entries:
                    self.forget(one.item)
                raise entry.refusing(error) from error
        return super().accept_many(entries, rest)

    def start_held(self, item: WorkItem[Any]) -> None:
        if self._local.is_in_flight(item):
            self.may_start(item, None)

    def cancel_held(self, item: WorkItem[Any], why: str) -> None:
        self._local.cancel_held(item, why)
        self.forget(item)

    def reserve(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def submit_reserved(self, item: WorkItem[Any], due: float | None) -> None:
        if self._local.is_in_flight(item):
            self.may_start(item, due)

    def forget(self, item: WorkItem[Any]) -> None:
        """Forget an item that will not run here again."""
        self._remake.pop(item.id, None)

    def _make_data(self, item: WorkItem[Any]) -> None:
        uploads: list[FileStorage] = []

        def refer(upload: FileStorage) -> dict[str, Any]:
            uploads.append(upload)
            return {"n": len(uploads) - 1}

        func, args, kwargs = item._task.func, item._args, item._kwargs or {}
        text = data.dump_call(func, args, kwargs, replace=refer, max_bytes=self._max_bytes)
        self._remake[item.id] = lambda: data.load_call(
            text, rebuild=lambda reference: uploads[reference["n"]]
        )

    # For runs.

    def run_once(self, item: WorkItem[Any]) -> None:
        """Run one attempt of a queued item, and wait for its end."""
        self._turns[item.id] = ended = native.Latch()
        try:
            perform(item, _await)
            ended.wait()  # a Future that the function returned may end on another thread
        finally:
            self._turns.pop(item.id, None)
            if not self._local.is_in_flight(item):
                self.forget(item)

    def raise_from_signal(self, item: WorkItem[Any]) -> None:
        """Raise the exception of a signal that came as the item began to run."""
        if (error := self._raised.pop(item.id, None)) is not None:
            raise error

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        remake = self._remake.get(item.id)
        if remake is not None:
            item._take_arguments(*remake())
        started = True
        try:
            started = self._local.start(item, attempt)
        except BaseException as error:  # raised by a signal, on the main thread: the item runs first
            self._raised[item.id] = error
        if not started:
            self._turns[item.id].open()
        return started

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        follows = True
        try:
            follows = self._local.requeue(item, error, delay)
        finally:
            if follows:
                self.wait_for_retry(item, delay)
                self._turns[item.id].open()
        return follows

    def wait_for_retry(self, item: WorkItem[Any], delay: float) -> None:
        """Act before the run of an item ends that another run follows, in delay seconds."""

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        status, value, _ = outcome
        if status is Status.SUCCEEDED and _stands_for_data(item._task):
            outcome = status, *result_of(result_as_data(value, self._max_bytes))
        try:
            self._local.finish(item, attempt, outcome)
        finally:
            self._turns[item.id].open()

    # For handles.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """Return the write side of the item's token."""
        return self._local.source_of(item)

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end."""
        cancelled = self._local.cancel(item)
        if item.status.is_final:
            self.forget(item)
        return cancelled


def _stands_for_data(task: Callee) -> bool:
    """Return whether another backend would keep the arguments and results of the task as data."""
    return task.portable and (task.durable or task.backend == "celery")


def _await(run: Run, awaitable: Awaitable[Any]) -> None:
    """Await a result on this thread, or on another thread if the caller is a coroutine."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await_here(run, awaitable)
    else:
        native.start_thread(lambda: await_here(run, awaitable), "background-immediate")
