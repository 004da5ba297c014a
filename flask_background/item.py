"""The work item: one enqueued call of a task, where it stands, and what came of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from . import native
from .errors import BackgroundError, NotFinished

if TYPE_CHECKING:
    from _thread import LockType

    from werkzeug.datastructures import FileStorage

    from .state import RequestState
    from .token import CancellationSource, CancellationToken

R = TypeVar("R", covariant=True)


class Status(StrEnum):
    """Where an item stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether an item that stands here has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


# Interrupted is what goes on record while the host may kill the process at any moment. If the process lives
# on, so does the item, and the record is corrected.
_ALLOWED: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED, Status.INTERRUPTED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED}),
    Status.INTERRUPTED: frozenset({Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


class Progress(NamedTuple):
    """How far an item says that it is: ``done`` of ``total`` (None: unknown), and a message or None."""

    done: float
    total: float | None = None
    message: str | None = None


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


class Keeper(Protocol):
    """What an item needs of whoever keeps it: the backend of its process, or a direct call."""

    pid: int
    lock: LockType

    def cancel(self, item: WorkItem[Any]) -> bool: ...
    def source_of(self, item: WorkItem[Any]) -> CancellationSource: ...


current_item_var: ContextVar[WorkItem[Any]] = ContextVar("flask_background.item")


class WorkItem(Generic[R]):
    """One enqueued call of a task: what ``enqueue`` returns, and what ``current_item`` stands for.

    ``id`` is 24 random hexadecimal digits, hard enough to guess to stand in a URL. ``state`` is the copied
    request (None outside of one). ``attempt`` counts the runs: 0 while queued.
    """

    # Tens of thousands may be queued, so what only a running or awaited item has is made when it is needed.
    __slots__ = (
        "_abort",
        "_args",
        "_enqueued",
        "_error",
        "_finished",
        "_gates",
        "_keeper",
        "_kwargs",
        "_progress",
        "_source",
        "_started",
        "_task",
        "_told",
        "_uploads",
        "_value",
        "attempt",
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
        keeper: Keeper,
    ) -> None:
        self.id = os.urandom(12).hex()
        self.state = state
        self.status = Status.QUEUED
        self.attempt = 0
        self._task = task
        self._args = args
        self._kwargs = kwargs or None
        self._keeper = keeper
        self._enqueued = time.time()
        self._started: float | None = None
        self._finished: float | None = None
        self._progress: Progress | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._source: CancellationSource | None = None
        self._abort: Callable[[], None] | None = None
        self._uploads: Sequence[FileStorage] = ()
        self._told = False
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
        return self._progress

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued, in UTC."""
        return datetime.fromtimestamp(self._enqueued, UTC)

    @property
    def started_at(self) -> datetime | None:
        """When its run began, in UTC; None while it is queued."""
        return None if self._started is None else datetime.fromtimestamp(self._started, UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; None before that."""
        return None if self._finished is None else datetime.fromtimestamp(self._finished, UTC)

    @property
    def age(self) -> float:
        """Seconds since it was enqueued."""
        return max(0.0, time.time() - self._enqueued)

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is; shown by ``progress`` until the item says something else."""
        self._progress = Progress(done, total, message)

    def cancel(self) -> bool:
        """Take a queued item back; ask a running one to end (REQUESTED). False if it had ended.

        A running coroutine is cancelled at its next await; a function has to look at its token.
        """
        return self._keeper.cancel(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: without limit) for the end; says whether it has come."""
        if self._told:
            return True
        if self._keeper.pid != os.getpid():
            raise BackgroundError(
                f"item {self.id} belongs to process {self._keeper.pid}, which enqueued it before this one was"
                " forked: wait for it there"
            )
        gate = native.Gate()
        self._when_final(gate.open)
        try:
            return gate.wait(timeout)
        finally:
            self._forget(gate.open)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ``result`` would raise, or None; waits like ``wait`` and raises NotFinished if that ends."""
        if not self.wait(timeout):
            raise NotFinished(f"item {self.id} ({self.task_name}) is {self.status} after {timeout} s")
        return self._error

    def result(self, timeout: float | None = None) -> R:
        """What the function returned; raises what it raised; or ItemCancelled, -Interrupted, NotFinished."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        value: R = self._value
        return value

    def __await__(self) -> Generator[Any, None, R]:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        self._when_final(tell)
        try:
            yield from ended.wait().__await__()
        finally:
            self._forget(tell)
        return self.result(0)

    def _when_final(self, callback: Callable[[], object]) -> None:
        """Call callback when the item ends, or at once."""
        gates = self._gates
        if gates is None:
            with self._keeper.lock:
                gates = self._gates = [] if self._gates is None else self._gates
        gates.append(callback)
        if self._told:
            callback()

    def _forget(self, callback: Callable[[], object]) -> None:
        gates = self._gates
        if gates is not None and callback in gates:
            gates.remove(callback)

    def _move(self, status: Status) -> None:
        """Change the status as the table allows. The keeper's lock is held."""
        if status not in _ALLOWED[self.status]:
            raise AssertionError(f"item {self.id} cannot go from {self.status} to {status}")
        self.status = status

    def _release(self) -> None:
        """Wake whoever waits for the end, now that it is in the log and its signal was sent."""
        self._told = True
        for callback in tuple(self._gates or ()):
            callback()

    def __repr__(self) -> str:
        return f"<WorkItem {self.id} {self.task_name} {self.status}>"
