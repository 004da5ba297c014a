"""The work item: one enqueued call of a task, its status, and its outcome.

Only this module changes an item. All others call the methods below (``_begin``, ``_end``, ``_announce_end``
and so on), so that an accepted item ends in exactly one final status, whichever backend runs it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flask_background.concurrency import native
from flask_background.concurrency.clock import Clock
from flask_background.concurrency.durations import bounded
from flask_background.concurrency.stop_signals import interruptible_wait
from flask_background.core.ids import make_ids, unused_ids
from flask_background.core.odd_errors import best_effort
from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.core.status import (
    QUEUED,
    RUNNING,
    SUCCEEDED,
    TRANSITIONS,
    Attempt,
    Outcome,
    Progress,
    Status,
)
from flask_background.core.token import CancelReason
from flask_background.errors import BackgroundError, NotFinishedError, WaitError

if TYPE_CHECKING:
    from _thread import LockType

    from werkzeug.datastructures import FileStorage

    from flask_background.core.callee import Callee
    from flask_background.core.token import CancellationSource, CancellationToken

R = TypeVar("R", covariant=True)


class PlaceLender(Protocol):
    """Lets another item of the same executor run in the place of an item that waits."""

    def check_wait(self, waiting: WorkItem[Any], awaited: WorkItem[Any], timeout: float | None) -> None: ...
    def wait(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], latch: native.Latch, timeout: float | None
    ) -> bool: ...
    async def wait_async(
        self, waiting: WorkItem[Any], awaited: WorkItem[Any], wait: Callable[[], Awaitable[object]]
    ) -> None: ...


class ItemHost(Protocol):
    """The backend that holds an item in this process, or the host of a direct call, as the item sees it."""

    pid: int
    lock: LockType
    clock: Clock
    lending: PlaceLender | None

    def cancel(self, item: WorkItem[Any]) -> bool: ...
    def source_of(self, item: WorkItem[Any]) -> CancellationSource: ...


current_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.item")
# The item whose end is being announced: a signal receiver must not wait for the item that it is called for.
ending_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.ending_item")


class WorkItem(Generic[R]):
    """One enqueued call of a task, returned by ``enqueue``; ``current_item`` is the item that is running.

    ``id`` is a string of 24 hexadecimal digits, at least 16 of them random, so an id may stand in a URL.
    ``state`` is a copy of the request that enqueued the item; outside of a request the state is empty, and
    false.
    """

    # Tens of thousands of items may be queued, so a token, an attempt and waiters are made only when needed.
    __slots__ = (
        "_announced",
        "_args",
        "_attempt",
        "_description",
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
            self.id = unused_ids.pop()
        except IndexError:
            self.id = make_ids()
        self.state = NO_REQUEST if state is None else state
        self._status = QUEUED
        self._task = task
        self._args = args
        self._kwargs = kwargs or None
        self._host = host
        self._enqueued = host.clock.time()
        self._attempt: Attempt | None = None
        self._source: CancellationSource | None = None
        self._uploads: Sequence[FileStorage] | None = None
        self._announced = False  # the end is in the log, and its signal was sent
        self._waiters: list[Callable[[], object]] | None = None

    @property
    def status(self) -> Status:
        """The item's status."""
        return self._status

    @property
    def task_name(self) -> str:
        """The name of the item's task."""
        return self._task.name

    @property
    def description(self) -> str | None:
        """The short text about the item that the task's ``describe`` returned, or None."""
        text: str | None = getattr(self, "_description", None)  # not set for items without one
        return text

    @property
    def token(self) -> CancellationToken:
        """The item's cancellation token."""
        return self._host.source_of(self).token

    @property
    def progress(self) -> Progress | None:
        """The last progress that the item reported; None before the first report."""
        return None if self._attempt is None else self._attempt.progress

    @property
    def attempt(self) -> int:
        """The number of the current or last run; 0 before the first run."""
        return 0 if self._attempt is None or self._attempt.started is None else self._attempt.number

    @property
    def enqueued_at(self) -> datetime:
        """The time at which the item was enqueued, in UTC."""
        return datetime.fromtimestamp(self._enqueued, UTC)

    @property
    def due_at(self) -> datetime:
        """The time before which the last run does not start, in UTC; of a queued item, the next run.

        A Celery worker knows the enqueue time only.
        """
        return datetime.fromtimestamp(self._due, UTC)

    @property
    def started_at(self) -> datetime | None:
        """The time at which the item's last run began, in UTC; None before the first run."""
        return _moment(None if self._attempt is None else self._attempt.started)

    @property
    def finished_at(self) -> datetime | None:
        """The time at which the item ended, in UTC; None before that."""
        return _moment(None if self._attempt is None else self._attempt.finished)

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report the progress of the run, which ``progress`` then returns."""
        if self._attempt is not None:
            self._attempt.progress = Progress(done, total, message)

    def cancel(self) -> bool:
        """Withdraw a queued item, or fire a running one's token (REQUESTED); False if the item had ended.

        A running coroutine is cancelled at its next await. A running function has to check its token.
        """
        return self._host.cancel(self)

    @interruptible_wait
    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: no limit) for the end; return whether the item has ended.

        Raises WaitError if the wait would block the very item that it waits for.
        """
        if self._announced or ending_item_var.get(None) is self:
            return True
        if self._host.pid != os.getpid():
            raise BackgroundError(
                f"item {self.id} belongs to process {self._host.pid}, which enqueued it before this process"
                " was forked: wait for it there"
            )
        waiting = current_item_var.get(None)
        if waiting is not None and timeout is None:
            self._check_waiter(waiting)
        latch = native.Latch()
        self._add_waiter(latch.open)
        try:
            if waiting is not None and (lending := waiting._host.lending) is not None:
                return lending.wait(waiting, self, latch, timeout)
            return latch.wait(timeout)
        finally:
            self._remove_waiter(latch.open)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that ``result`` would raise, or None.

        Waits up to timeout seconds (None: no limit), and raises NotFinishedError if the item has not ended.
        """
        if not self.wait(timeout) and not self.status.is_final:
            waited = "" if timeout is None else f", after {bounded(timeout):g} s"
            raise NotFinishedError(
                f"item {self.id} ({self.task_name}) has not ended{waited}: it is {self.status}. Wait longer,"
                " or look at its status"
            )
        return None if self._attempt is None else self._attempt.error

    def result(self, timeout: float | None = None) -> R:
        """Return the function's return value, or raise the function's exception.

        Waits up to timeout seconds (None: no limit), and raises NotFinishedError if the item has not ended.
        Also raises ItemCancelledError, ItemInterruptedError and the other ``Item...Error`` classes.
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
                pass  # the loop is closed, so no coroutine waits on it

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

    # These methods are for the code that accepts and runs items. If two threads could call one of them at the
    # same time, the caller holds the host's lock, or has claimed the item.

    @property
    def _age(self) -> float:
        """The seconds since the item was enqueued."""
        return max(0.0, self._host.clock.time() - self._enqueued)

    @property
    def _due(self) -> float:
        """See ``due_at``."""
        attempt = self._attempt
        due = None if attempt is None else attempt.next_due if self._status is QUEUED else attempt.due
        if due is None:
            due = self._enqueued if self._task.due is None else self._task.due(self._enqueued)
        return due

    def _identify(self, item_id: str, enqueued: float) -> None:
        """Give a new object the id and the enqueue time (``time.time()``) of the item that it stands for."""
        self.id = item_id
        self._enqueued = enqueued

    def _change_host(self, host: ItemHost) -> None:
        """Hand the item over to another host in this process."""
        self._host = host

    def _describe(self, description: str | None) -> None:
        """Give the item the text that stands for its arguments on pages and in logs."""
        if description is not None:
            self._description = description

    def _take_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Set the arguments of the next run."""
        self._args = args
        self._kwargs = kwargs or None

    def _adopt_uploads(self, uploads: Sequence[FileStorage]) -> None:
        """Make the item the owner of uploads, which the item will close."""
        self._uploads = uploads

    def _release_arguments(self) -> None:
        """Close the item's uploads and forget its arguments, because this object will not run again."""
        if self._uploads is not None:
            for upload in self._uploads:
                with best_effort():  # the run may have replaced the list with anything
                    upload.close()
            self._uploads = None
        self._args, self._kwargs = (), None

    def _set_source(self, source: CancellationSource) -> None:
        """Give the item the source of its token."""
        self._source = source

    def _is_unwanted(self) -> bool:
        """Return whether the item's end was requested."""
        return self._source is not None and self._source.token.reason is CancelReason.REQUESTED

    def _begin(self, attempt: Attempt) -> None:
        """Begin a run, even if the item was put on record as interrupted meanwhile."""
        before = self._attempt
        if before is not None and before.started is not None:
            attempt.number = before.number + 1
            attempt.due = before.next_due
        self._attempt = attempt
        if self._status is QUEUED:
            self._status = RUNNING  # the move of nearly every item; to look it up would cost 0.2 µs
        else:
            self._move(RUNNING)

    def _end(self, outcome: Outcome, attempt: Attempt | None = None) -> None:
        """Give the item its final outcome. ``attempt`` is its last run; None: the item ends without a run."""
        if attempt is None:
            attempt = self._attempt or Attempt()
        status, attempt.value, attempt.error = outcome
        attempt.finished = self._host.clock.time()
        self._attempt = attempt
        if status is SUCCEEDED and self._status is RUNNING:
            self._status = SUCCEEDED  # as in _begin
        else:
            self._move(status)

    def _requeue(self, error: BaseException, delay: float) -> None:
        """Queue a running item again after its run failed with error, for a run in delay seconds.

        The next run has a new token.
        """
        if self._attempt is not None:
            self._attempt.error = error
            self._attempt.next_due = self._host.clock.time() + delay
        self._move(QUEUED)
        self._renew_token()

    def _record_interrupted(self, error: BaseException) -> bool:
        """Put an item on record as interrupted while its run goes on; return False if the item has ended."""
        attempt = self._attempt or Attempt()
        if self._status.is_final:
            return False
        self._attempt = attempt
        # If the item ends at this very moment, its own outcome is written once more, after this one.
        attempt.error, attempt.finished = error, self._host.clock.time()
        self._status = Status.INTERRUPTED
        return True

    def _announce_end(self) -> None:
        """Wake all waiters: the log and the signals now have the item's final status.

        Called once for each final status. When "interrupted" is corrected, no thread waits any longer.
        """
        self._announced = True  # set before the waiters wake, who check it
        if self._waiters is not None:
            for callback in self._waiters:
                callback()

    def _learn(self, status: Status, attempt: Attempt | None) -> None:
        """Take over the record of an item that another process runs: any status may follow any other."""
        self._attempt = attempt
        self._status = status
        self._announced = status.is_final

    def _doubt_end(self) -> None:
        """Make the final status provisional: another process may have queued the item again."""
        self._announced = False

    def _arrive(self) -> None:
        """Queue the item in this process, perhaps again, and forget the earlier run."""
        self._learn(QUEUED, None)
        self._renew_token()

    def _wake_waiters(self) -> None:
        """Wake all waiters, which then follow the item in another process."""
        for callback in self._waiters or ():
            callback()

    def _renew_token(self) -> None:
        """Give the next run a new token, unless the item's end was requested."""
        if not self._is_unwanted():
            self._source = None

    def _move(self, status: Status) -> None:
        before = self._status  # another thread may be putting the item on record as interrupted
        if status not in TRANSITIONS[before] and status is not before:
            raise AssertionError(f"item {self.id} cannot go from {before} to {status}")
        self._status = status

    def _come_here(self) -> None:
        """Ask this process to claim the item, for which a place is lent here; only remote items need that."""

    def _check_waiter(self, waiting: WorkItem[Any]) -> None:
        """Raise WaitError if an item is about to wait, without a timeout, for its own end.

        Only a call that blocks its thread is checked: a task that a coroutine item has made may await it.
        """
        if waiting.id == self.id:
            raise WaitError(
                f"item {self.id} ({self.task_name}) waits for its own end, and so would never end: leave out"
                " that wait, or give it a timeout"
            )

    def _add_waiter(self, callback: Callable[[], object]) -> None:
        """Call callback when the item's end is announced, or at once if it has been."""
        with self._host.lock:
            self._waiters = [*(self._waiters or ()), callback]
        if self._announced:
            callback()

    def _remove_waiter(self, callback: Callable[[], object]) -> None:
        with self._host.lock:
            self._waiters = [waiter for waiter in self._waiters or () if waiter != callback]


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
