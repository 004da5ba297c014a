"""The manual backend, for tests: accepted items wait until the test runs them, on the test's own thread.

Its clock goes with the system's, and the test can move it ahead: delays, the time between two attempts,
timeouts and the schedules of periodic tasks follow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from flask_background.concurrency.clock import MovableClock
from flask_background.concurrency.timers import Timers
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.status import Status
from flask_background.errors import (
    BackgroundError,
    EnqueueError,
    ItemCancelledError,
    NotFinishedError,
    WaitError,
)
from flask_background.local.inline import InlineBackend
from flask_background.local.uploads import put_aside

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.registry import Registry
    from flask_background.core.request_state import RequestState
    from flask_background.core.settings import Settings
    from flask_background.local.backend import LocalBackend

R = TypeVar("R", covariant=True)

# How often items may enqueue further items, or fail and be queued again, while the clock stands.
_MOST_ROUNDS = 1_000


class ManualItem(WorkItem[R]):
    """An item that no thread will run: a wait for the item does not wait for ever."""

    __slots__ = ()

    _host: ManualBackend

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, in an item by running the awaited one here; return whether it has ended.

        Raises WaitError if nothing would end the wait.
        """
        self._host.run_awaited(self)
        if self._status is Status.QUEUED:
            if timeout is None:
                raise WaitError(self._why_queued())
            return False
        return super().wait(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that ``result`` would raise, or None; raises NotFinishedError."""
        self._host.run_awaited(self)
        if self._status is Status.QUEUED:
            raise NotFinishedError(self._why_queued())
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, R]:
        self._host.run_awaited(self)
        if self._status is Status.QUEUED:
            raise WaitError(self._why_queued())
        return (yield from super().__await__())

    def _why_queued(self) -> str:
        return (
            f"item {self.id} ({self.task_name}) is queued, and waits until the test runs it: call"
            " flask_background.testing.run_items() first"
        )


class ManualBackend(InlineBackend):
    """Accepts items as the local backend does, and runs them when it is told to."""

    def __init__(self, local: LocalBackend, settings: Settings, registry: Registry) -> None:
        self._moved = MovableClock()
        timers = Timers(local.timer_failed, self._moved)
        super().__init__(local, timers, settings.max_payload, strict=settings.strict)
        self._max_queued = settings.max_queued
        self._registry = registry
        #: The items that the test can run, in the order in which they came, each with the time it is due.
        self._waiting: dict[str, tuple[WorkItem[Any], float]] = {}
        #: The next time of each periodic task.
        self._planned: dict[str, float] = {}
        self.plan()

    # For views.

    def make_item(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], state: RequestState | None
    ) -> WorkItem[Any]:
        return ManualItem(callee, args, kwargs, state, self)

    def enter_books(self, item: WorkItem[Any]) -> WorkItem[Any]:
        local = self._local
        executor = local.executors[item._task.executor]
        copies = None if item._uploads is None else local.enter_uploads(item)
        # The item never waits for room, whatever BACKGROUND_OVERFLOW says: no thread would make room.
        accepted = local.admission.enter(item, executor, executor.capacity + self._max_queued)
        if accepted is not item:
            local.discard_uploads(item, copies)
        elif copies:
            put_aside(copies)
        if accepted is None:
            refusal: EnqueueError = local.admission.refusal(item, executor)
            raise refusal
        return accepted

    def may_start(self, item: WorkItem[Any], due: float | None) -> None:
        self._waiting[item.id] = item, item._enqueued if due is None else due

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        # Items that wait for a response may run at once: a test goes on when its view has ended. Those that
        # wait for a commit come by ``reserve``.
        return super().accept(item, due=due)

    def reserve(self, item: WorkItem[Any]) -> WorkItem[Any]:
        return super().accept(item, held=True)

    def start_held(self, item: WorkItem[Any]) -> None:
        """Do nothing: the item waits for the test, or has run."""

    def forget(self, item: WorkItem[Any]) -> None:
        super().forget(item)
        self._waiting.pop(item.id, None)

    # For tests.

    def plan(self) -> None:
        """Plan the periodic tasks that are new, from now on."""
        for name, periodic in self._registry.periodic.items():
            if name not in self._planned:
                self._planned[name] = periodic.schedule.next_after(self._moved.time())

    def run_all(self) -> list[WorkItem[Any]]:
        """Run what waits, whenever it is due, and what comes meanwhile; return what has run, in order."""
        return self._run_rounds(math.inf)

    def run_due(self, seconds: float, fire: Callable[[Callee], object]) -> list[WorkItem[Any]]:
        """Move the clock ahead by so many seconds, and run what is due on the way, each at its time.

        ``fire`` enqueues an item of a periodic task. Returns the items that ran, in order.
        """
        self.plan()
        end = self._moved.time() + seconds
        ran: list[WorkItem[Any]] = []
        while True:
            ran += self._run_rounds(None)
            dues = [due for _, due in self._waiting.values()] + list(self._planned.values())
            moment = min(dues, default=math.inf)
            if moment > end:
                self.move_to(end)
                return list(dict.fromkeys(ran))
            self.move_to(moment)
            self._fire_periodic(fire)

    def move(self, seconds: float) -> None:
        """Move the clock ahead. Tokens of running items fire here, if their time is up."""
        self.move_to(self._moved.time() + seconds)

    def move_to(self, moment: float) -> None:
        """Move the clock ahead to this time, unless it is past that."""
        self._moved.move_to(moment)
        self.timers.fire_due()

    def run_this(self, item: WorkItem[Any]) -> bool:
        """Run one attempt of an item, now; return False if the item does not wait for the test."""
        if self._waiting.pop(item.id, None) is None:
            return False
        self.run_once(item)
        self.raise_from_signal(item)
        return True

    def run_awaited(self, item: WorkItem[Any]) -> None:
        """Run an item that another item waits for, if it is due: its own executor would have run it."""
        if current_item_var.get(None) is None:
            return
        while (entry := self._waiting.get(item.id)) is not None and entry[1] <= self._moved.time():
            self.run_this(item)

    def wait_idle(self, timeout: float | None) -> bool:
        """Return False at once if items wait for the test; raise WaitError if that were to be waited for."""
        if self._waiting and timeout is None:
            raise WaitError(
                f"{len(self._waiting)} items are queued, and wait until the test runs them: call"
                " flask_background.testing.run_items() first"
            )
        return not self._waiting and self._local.wait_idle(timeout)

    def wait_for_retry(self, item: WorkItem[Any], delay: float) -> None:
        self._waiting[item.id] = item, self._moved.time() + delay

    def _run_rounds(self, until: float | None) -> list[WorkItem[Any]]:
        """Run what is due until then (None: now), in the order in which it is due, until nothing is."""
        ran: dict[str, WorkItem[Any]] = {}
        for _ in range(_MOST_ROUNDS):
            now = self._moved.time() if until is None else until
            batch = [(due, item) for item, due in self._waiting.values() if due <= now]
            if not batch:
                return list(ran.values())
            if until is None:
                batch.sort(key=lambda entry: entry[0])
            for _, item in batch:
                if self.run_this(item):
                    ran[item.id] = item
        raise BackgroundError(
            f"{_MOST_ROUNDS} rounds of items have run, and more wait, such as {batch[-1][1]!r}: an item that"
            " enqueues itself, or fails and is tried again, never comes to an end. Give it a delay, and use"
            " run_due(after=...)"
        )

    def _fire_periodic(self, fire: Callable[[Callee], object]) -> None:
        now = self._moved.time()
        for name, planned in self._planned.items():
            if planned <= now:
                periodic = self._registry.periodic[name]
                self._planned[name] = periodic.schedule.catch_up(planned, now)
                in_flight = any(item.task_name == name for item in self._local.ledger.unfinished())
                if periodic.overlap or not in_flight:
                    fire(periodic.task)

    # The stop: the contract of a companion of the local backend.

    def stop_begins(self) -> None:
        """End what waits for the test, which will not run it any more."""
        for item in self._local.ledger.unfinished():
            if isinstance(item, ManualItem) and item.status is Status.QUEUED:
                why = ItemCancelledError(
                    f"item {item.id} ({item.task_name}) was not run: the app stopped while it waited for"
                    " the test"
                )
                self._local.withdraw(item, (Status.CANCELLED, None, why))
                self.forget(item)

    def expect_kill(self) -> None:
        """Do nothing: the test decides when its process ends."""

    def stopped(self) -> None:
        """Let the thread for timeouts end."""
        self.timers.close()
