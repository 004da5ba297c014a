"""The work item: one enqueued call of a task, where it stands, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flask_background.concurrency import native
from flask_background.concurrency.stop_signals import interruptible_wait
from flask_background.core.status import Attempt, Progress, Status
from flask_background.core.token import CancelReason
from flask_background.errors import BackgroundError, NotFinishedError

if TYPE_CHECKING:
    from _thread import LockType

    from werkzeug.datastructures import FileStorage

    from flask_background.core.request_state import RequestState
    from flask_background.core.retry import RetryPolicy
    from flask_background.core.token import CancellationSource, CancellationToken

R = TypeVar("R", covariant=True)


class Callee(Protocol):
    """What an item needs to know of its task."""

    @property
    def name(self) -> str: ...
    @property
    def func(self) -> Callable[..., Any]: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def executor(self) -> str: ...
    @property
    def is_coroutine(self) -> bool: ...
    @property
    def retry(self) -> RetryPolicy: ...
    @property
    def key(self) -> str | None: ...
    @property
    def durable(self) -> bool: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def portable(self) -> bool: ...
    @property
    def due(self) -> Callable[[float], float] | None: ...


class ItemHost(Protocol):
    """What an item needs of whoever keeps it: the backend of its process, or a direct call."""

    pid: int
    lock: LockType

    def cancel(self, item: WorkItem[Any]) -> bool: ...
    def source_of(self, item: WorkItem[Any]) -> CancellationSource: ...


_QUEUED = Status.QUEUED  # looked up once: this is on every item's way

current_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.item")
# The item whose end is being told: those who are told must not have to wait for themselves.
ending_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.ending_item")


class WorkItem(Generic[R]):
    """One enqueued call of a task: what ``enqueue`` returns, and what ``current_item`` stands for.

    ``id`` is 24 hexadecimal digits, at least 16 of them random: hard enough to guess to stand in a URL.
    ``state`` is the copied request (None outside of one).
    """

    # Tens of thousands may be queued, so what only a running or awaited item has is made when it is needed.
    __slots__ = (
        "_announced",
        "_args",
        "_attempt",
        "_enqueued",
        "_gates",
        "_keeper",
        "_kwargs",
        "_source",
        "_task",
        "_uploads",
        "id",
        "state",
        "status",
    )

    def __init__(
        self,
        task: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: RequestState | None,
        keeper: ItemHost,
    ) -> None:
        self.id = _ids.pop() if _ids else _make_ids()
        self.state = state
        self.status = _QUEUED
        self._task = task
        self._args = args
        self._kwargs = kwargs or None
        self._keeper = keeper
        self._enqueued = time()
        self._attempt: Attempt | None = None
        self._source: CancellationSource | None = None
        self._uploads: Sequence[FileStorage] | None = None
        self._announced = False  # the end is in the log, and its signal was sent
        self._gates: list[Callable[[], object]] | None = None

    @property
    def task_name(self) -> str:
        """The name of the task that this is a call of."""
        return self._task.name

    @property
    def token(self) -> CancellationToken:
        """Tells the item that it should end."""
        return self._keeper.source_of(self).token

    @property
    def progress(self) -> Progress | None:
        """What the item last reported; None before it did."""
        return None if self._attempt is None else self._attempt.progress

    @property
    def attempt(self) -> int:
        """Which run this is, or was the last: 0 before the first one."""
        return 0 if self._attempt is None or self._attempt.started is None else self._attempt.number

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued, in UTC."""
        return datetime.fromtimestamp(self._enqueued, UTC)

    @property
    def started_at(self) -> datetime | None:
        """When its run began, in UTC; None while it is queued."""
        return _moment(None if self._attempt is None else self._attempt.started)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; None before that."""
        return _moment(None if self._attempt is None else self._attempt.finished)

    @property
    def age(self) -> float:
        """Seconds since it was enqueued."""
        return max(0.0, time() - self._enqueued)

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is; shown by ``progress`` until the item says something else."""
        if self._attempt is not None:
            self._attempt.progress = Progress(done, total, message)

    def cancel(self) -> bool:
        """Take a queued item back; ask a running one to end (REQUESTED). False if it had ended.

        A running coroutine is cancelled at its next await; a function has to look at its token.
        """
        return self._keeper.cancel(self)

    @interruptible_wait
    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end; says whether it has come."""
        if self._announced or ending_item_var.get(None) is self:
            return True
        if self._keeper.pid != os.getpid():
            raise BackgroundError(
                f"item {self.id} belongs to process {self._keeper.pid}, which enqueued it before this one was"
                " forked: wait for it there"
            )
        gate = native.Latch()
        self._when_final(gate.open)
        try:
            return gate.wait(timeout)
        finally:
            self._forget(gate.open)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what ``result`` would raise, or None; waits like ``wait``, and raises NotFinishedError."""
        if not self.wait(timeout) and not self.status.is_final:
            raise NotFinishedError(f"item {self.id} ({self.task_name}) is {self.status} after {timeout} s")
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

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:
                pass  # the loop has been closed, so nobody waits on it

        self._when_final(tell)
        try:
            yield from ended.wait().__await__()
        finally:
            self._forget(tell)
        return self.result(0)

    def forget_token(self) -> None:
        """The next attempt has a token of its own, unless somebody wants the whole item to end."""
        source = self._source
        if source is not None and source.token.reason is not CancelReason.REQUESTED:
            self._source = None

    def is_unwanted(self) -> bool:
        """Whether somebody has asked for its end."""
        return self._source is not None and self._source.token.reason is CancelReason.REQUESTED

    def _when_final(self, callback: Callable[[], object]) -> None:
        """Call callback when the item has ended, or at once."""
        with self._keeper.lock:
            self._gates = [*(self._gates or ()), callback]
        if self._announced:
            callback()

    def _forget(self, callback: Callable[[], object]) -> None:
        with self._keeper.lock:
            self._gates = [gate for gate in self._gates or () if gate != callback]

    def _move(self, status: Status) -> None:
        """Change the status as the table allows."""
        if status not in self.status.next:
            raise AssertionError(f"item {self.id} cannot go from {self.status} to {status}")
        self.status = status

    def _wake(self) -> None:
        """Wake whoever waits for the end. ``_told`` is set before: a waiter looks at that last."""
        if self._gates:
            for callback in self._gates:
                callback()

    def __repr__(self) -> str:
        return f"<WorkItem {self.id} {self.task_name} {self.status}>"


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


# Random bytes come from the operating system, which means giving up the GIL: not for each item.
_ids: list[str] = []


def _make_ids() -> str:
    random = os.urandom(12 * 256).hex()
    _ids.extend([random[start : start + 24] for start in range(0, len(random), 24)])
    return _ids.pop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)  # or parent and child would give out the same
