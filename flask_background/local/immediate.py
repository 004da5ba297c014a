"""The immediate backend, for tests and scripts: an item runs inside enqueue, before enqueue returns.

These items are ordinary items of the process: its LocalBackend counts them, gives them tokens and keeps their
results. Neither a delay nor the time between two attempts is waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.await_here import await_here
from flask_background.core.backend import Backend
from flask_background.core.item import WorkItem
from flask_background.core.run_host import RunHost
from flask_background.core.runner import Run, perform
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.errors import Stopping
from flask_background.local.admission import check_executor
from flask_background.payload import data
from flask_background.payload.outcomes import result_as_data, result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.datastructures import FileStorage

    from flask_background.core.callee import Callee
    from flask_background.core.request_state import RequestState
    from flask_background.core.token import CancellationSource
    from flask_background.local.backend import LocalBackend


class ImmediateBackend(Backend[WorkItem[Any]], RunHost):
    """Runs items on the caller's thread, after converting their arguments as another backend would."""

    def __init__(self, local: LocalBackend, max_bytes: int, *, strict: bool) -> None:
        super().__init__(local.app, local.events, local.timers, local.lock)
        self._local = local
        self._max_bytes = max_bytes
        self._strict = strict
        #: For each item whose arguments became data: a function that makes the arguments again.
        self._remake: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._turns: dict[str, native.Latch] = {}
        self._raised: dict[str, BaseException] = {}

    # For views.

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        return WorkItem(callee, args, kwargs, state, self)

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        task, local = item._task, self._local
        check_executor(task, local.executors)
        if task.portable and (self._strict or _stands_for_data(task)):
            self._make_data(item)
        accepted = local.take_with_key(item)
        if accepted is not item:
            self._remake.pop(item.id, None)
        if accepted is None:
            error = Stopping.refusing(task.name)
            local.events.refused(task.name, error)
            raise error
        if accepted is not item:
            return accepted  # the item that has the key
        try:
            local.events.enqueued(item)
        finally:  # a signal may raise here, when the item has been accepted
            if not held:
                self._run(item)
        return item

    def start_held(self, item: WorkItem[Any]) -> None:
        if self._local.is_in_flight(item):
            self._run(item)

    def cancel_held(self, item: WorkItem[Any], why: str) -> None:
        self._local.cancel_held(item, why)
        self._remake.pop(item.id, None)

    def reserve(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return self.accept(item, held=True)

    def submit_reserved(self, item: WorkItem[Any], due: float | None) -> None:
        self.start_held(item)

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

    def _run(self, item: WorkItem[Any]) -> None:
        """Run all attempts, one after the other."""
        queued = self._local.executors[item._task.executor].queued
        try:
            while item.id in queued:
                self._turns[item.id] = ended = native.Latch()
                perform(item, _await)
                ended.wait()  # a Future that the function returned may end on another thread
        finally:
            self._turns.pop(item.id, None)
            self._remake.pop(item.id, None)
        if (error := self._raised.pop(item.id, None)) is not None:
            raise error

    # For runs.

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
                self._turns[item.id].open()
        return follows

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
        """Withdraw a held item, or ask a running one to end."""
        cancelled = self._local.cancel(item)
        if item.status.is_final:
            self._remake.pop(item.id, None)
        return cancelled


def _stands_for_data(task: Callee) -> bool:
    """Return whether another backend would keep the arguments and results of the task as data."""
    return task.portable and task.durable


def _await(run: Run, awaitable: Awaitable[Any]) -> None:
    """Await a result on this thread, or on another thread if the caller is a coroutine."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await_here(run, awaitable)
    else:
        native.start_thread(lambda: await_here(run, awaitable), "background-immediate")
