"""The work item: one enqueued call of a task, its status, and its outcome.

Only this file changes an item. Every other room uses the verbs below (``_begin``, ``_end``, ``_announce_end``
and so on), so that an accepted item ends in exactly one final status, whoever runs it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flask_background.concurrency import native
from flask_background.concurrency.durations import bounded
from flask_background.concurrency.stop_signals import interruptible_wait
from flask_background.core.odd_errors import best_effort
from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.core.status import QUEUED, RUNNING, TRANSITIONS, Attempt, Outcome, Progress, Status
from flask_background.core.token import CancelReason
from flask_background.errors import BackgroundError, NotFinishedError

if TYPE_CHECKING:
    from _thread import LockType

    from werkzeug.datastructures import FileStorage

    from flask_background.core.callee import Callee
    from flask_background.core.token import CancellationSource, CancellationToken

R = TypeVar("R", covariant=True)


class PlaceLender(Protocol):
    """What waits in an item for another item, while the waiting item's place in its executor is lent."""

    def check_wait(self, waiting: WorkItem[Any], awaited: WorkItem[Any], timeout: float | None) -> None: ...
    def wait(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], latch: native.Latch, timeout: float | None
    ) -> bool: ...
    async def wait_async(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], wait: Callable[[], Awaitable[object]]
    ) -> None: ...


class ItemHost(Protocol):
    """What an item needs of its host: the backend that holds it in this process, or a direct call."""

    pid: int
    lock: LockType
    lending: PlaceLender | None

    def cancel(self, item: WorkItem[Any]) -> bool: ...
    def source_of(self, item: WorkItem[Any]) -> CancellationSource: ...


current_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.item")
# The item whose end is being announced: a signal receiver that waits for this item must not wait for itself.
ending_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.ending_item")


class WorkItem(Generic[R]):
    """One enqueued call of a task: what ``enqueue`` returns, and what ``current_item`` stands for.

    ``id`` is 24 hexadecimal digits, at least 16 of them random: hard enough to guess to stand in a URL.
    ``state`` is a copy of the request that enqueued the item; outside of a request it is empty, and false.
    """

    # Tens of thousands may be queued, so a token, an attempt and waiters are made when they are needed.
    __slots__ = (
        "_announced",
        "_args",
        "_attempt",
        "_enqueued",
        "_host",
        "_kwargs",
        "_source",
        "_status",
        "_task",
        "_uploads",
        "_waiters",
        "id",
        "state",
    )

    def __init__(
        self,
        task: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: RequestState | None,
        host: ItemHost,
    ) -> None:
        try:
            self.id = _ids.pop()
        except IndexError:
            self.id = _make_ids()
        self.state = NO_REQUEST if state is None else state
        self._status = QUEUED
        self._task = task
        self._args = args
        self._kwargs = kwargs or None
        self._host = host
        self._enqueued = time()
        self._attempt: Attempt | None = None
        self._source: CancellationSource | None = None
        self._uploads: Sequence[FileStorage] | None = None
        self._announced = False  # the end is in the log, and its signal was sent
        self._waiters: list[Callable[[], object]] | None = None

    @property
    def status(self) -> Status:
        """Where the item stands."""
        return self._status

    @property
    def task_name(self) -> str:
        """The name of the item's task."""
        return self._task.name

    @property
    def token(self) -> CancellationToken:
        """Tells the item that it should end."""
        return self._host.source_of(self).token

    @property
    def progress(self) -> Progress | None:
        """The progress that the item last reported; None before that."""
        return None if self._attempt is None else self._attempt.progress

    @property
    def attempt(self) -> int:
        """The number of the current or last run: 0 before the first one."""
        return 0 if self._attempt is None or self._attempt.started is None else self._attempt.number

    @property
    def enqueued_at(self) -> datetime:
        """When the item was enqueued, in UTC."""
        return datetime.fromtimestamp(self._enqueued, UTC)

    @property
    def started_at(self) -> datetime | None:
        """When the item's run began, in UTC; None before that."""
        return _moment(None if self._attempt is None else self._attempt.started)

    @property
    def finished_at(self) -> datetime | None:
        """When the item ended, in UTC; None before that."""
        return _moment(None if self._attempt is None else self._attempt.finished)

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the run is, for ``progress`` to show."""
        if self._attempt is not None:
            self._attempt.progress = Progress(done, total, message)

    def cancel(self) -> bool:
        """Withdraw a queued item, or ask a running one to end (REQUESTED); False if the item had ended.

        A running coroutine is cancelled at its next await; a function has to look at its token.
        """
        return self._host.cancel(self)

    @interruptible_wait
    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end; says whether the item has ended."""
        if self._announced or ending_item_var.get(None) is self:
            return True
        if self._host.pid != os.getpid():
            raise BackgroundError(
                f"item {self.id} belongs to process {self._host.pid}, which enqueued it before this one was"
                " forked: wait for it there"
            )
        latch = native.Latch()
        self._add_waiter(latch.open)
        waiting = current_item_var.get(None)
        try:
            if waiting is not None and (lending := waiting._host.lending) is not None:
                return lending.wait(waiting, self, latch, timeout)
            return latch.wait(timeout)
        finally:
            self._remove_waiter(latch.open)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what ``result`` would raise, or None; waits like ``wait``, and raises NotFinishedError."""
        if not self.wait(timeout) and not self.status.is_final:
            waited = "" if timeout is None else f", after {bounded(timeout):g} s"
            raise NotFinishedError(
                f"item {self.id} ({self.task_name}) has not ended{waited}: it is {self.status}. Wait longer,"
                " or look at its status"
            )
        return None if self._attempt is None else self._attempt.error

    def result(self, timeout: float | None = None) -> R:
        """Return what the function returned, or raise what it raised.

        Raises ItemCancelledError, ItemInterruptedError, or NotFinishedError after ``timeout`` seconds.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        value: R = None if self._attempt is None else self._attempt.value  # type: ignore[assignment]
        return value

    def __await__(self) -> Generator[Any, None, R]:
        import asyncio

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:
                pass  # the loop has been closed, so nobody waits on it

        waiting = current_item_var.get(None)
        self._add_waiter(wake)
        try:
            if waiting is not None and (lending := waiting._host.lending) is not None:
                yield from lending.wait_async(waiting, self, ended.wait).__await__()
            else:
                yield from ended.wait().__await__()
        finally:
            self._remove_waiter(wake)
        return self.result(0)

    def __repr__(self) -> str:
        return f"<WorkItem {self.id} {self.task_name} {self.status}>"

    # The verbs of the rooms that accept and run items. Where two threads could meet in one of them, the
    # caller holds the host's lock, or has claimed the item.

    @property
    def _age(self) -> float:
        """Seconds since the item was enqueued."""
        return max(0.0, time() - self._enqueued)

    def _identify(self, item_id: str, enqueued: float) -> None:
        """Give a new object the id and the time (``time.time()``) of the item that it stands for."""
        self.id = item_id
        self._enqueued = enqueued

    def _change_host(self, host: ItemHost) -> None:
        """Hand the item over to another host of this process."""
        self._host = host

    def _take_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Set what the next run calls the function with."""
        self._args = args
        self._kwargs = kwargs or None

    def _adopt_uploads(self, uploads: Sequence[FileStorage]) -> None:
        """Make the item the owner of uploads, which it closes."""
        self._uploads = uploads

    def _release_arguments(self) -> None:
        """Close the item's uploads, and forget its arguments: no run of this object follows."""
        if self._uploads is not None:
            for upload in self._uploads:
                with best_effort():  # the run may have left anything in its place
                    upload.close()
            self._uploads = None
        self._args, self._kwargs = (), None

    def _set_source(self, source: CancellationSource) -> None:
        """Give the item the source of its token."""
        self._source = source

    def _is_unwanted(self) -> bool:
        """Whether somebody has asked for the item's end."""
        return self._source is not None and self._source.token.reason is CancelReason.REQUESTED

    def _begin(self, attempt: Attempt) -> None:
        """Begin a run. An item that was put on record as interrupted meanwhile goes on, too."""
        before = self._attempt
        if before is not None and before.started is not None:
            attempt.number = before.number + 1
        self._attempt = attempt
        self._move(RUNNING)

    def _end(self, outcome: Outcome, attempt: Attempt | None = None) -> None:
        """Give the item its final outcome; attempt: its last run, None if it is to end without one."""
        if attempt is None:
            attempt = self._attempt or Attempt()
        status, attempt.value, attempt.error = outcome
        attempt.finished = time()
        self._attempt = attempt
        self._move(status)

    def _requeue(self, error: BaseException) -> None:
        """Queue a running item again, whose run failed with error. The next run has a token of its own."""
        if self._attempt is not None:
            self._attempt.error = error
        self._move(QUEUED)
        self._renew_token()

    def _record_interrupted(self, error: BaseException) -> bool:
        """Put an item on record as interrupted; its run goes on. False if the item has ended."""
        attempt = self._attempt or Attempt()
        if self._status.is_final:
            return False
        self._attempt = attempt
        # Should the item end at this very moment, its own outcome is written once more, after this.
        attempt.error, attempt.finished = error, time()
        self._status = Status.INTERRUPTED
        return True

    def _announce_end(self) -> None:
        """The log and the signals have the item's final status: wake everybody who waits for it.

        Once for each final status. After a correction of "interrupted" nobody waits any more.
        """
        self._announced = True  # before the waiters wake: a waiter looks at this last
        if self._waiters is not None:
            for callback in self._waiters:
                callback()

    def _learn(self, status: Status, attempt: Attempt | None) -> None:
        """Take over what is on record of an item that another process runs: any status may follow another."""
        self._attempt = attempt
        self._status = status
        self._announced = status.is_final

    def _doubt_end(self) -> None:
        """Another process may have queued the item again: its final status here is not the last word."""
        self._announced = False

    def _arrive(self) -> None:
        """The item is queued in this process, perhaps again: nothing of an earlier run counts."""
        self._learn(QUEUED, None)
        self._renew_token()

    def _wake_waiters(self) -> None:
        """The item goes on in another process: have everybody who waits here look there."""
        for callback in self._waiters or ():
            callback()

    def _renew_token(self) -> None:
        """Give the next run a token of its own, unless somebody has asked for the item's end."""
        if not self._is_unwanted():
            self._source = None

    def _move(self, status: Status) -> None:
        before = self._status  # which another thread may just be about to put on record as interrupted
        if status not in TRANSITIONS[before] and status is not before:
            raise AssertionError(f"item {self.id} cannot go from {before} to {status}")
        self._status = status

    def _add_waiter(self, callback: Callable[[], object]) -> None:
        """Call callback when the item's end is announced, or at once."""
        with self._host.lock:
            self._waiters = [*(self._waiters or ()), callback]
        if self._announced:
            callback()

    def _remove_waiter(self, callback: Callable[[], object]) -> None:
        with self._host.lock:
            self._waiters = [waiter for waiter in self._waiters or () if waiter != callback]


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


# Random bytes come from the operating system, and to ask for them gives up the GIL: not for each item.
_ids: list[str] = []


def _make_ids() -> str:
    """Fill the list of ids, and return one more. Several threads may do this at once."""
    random = os.urandom(12 * 256).hex()
    first, *others = [random[start : start + 24] for start in range(0, len(random), 24)]
    _ids.extend(others)
    return first


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)  # or parent and child would give out the same ids
