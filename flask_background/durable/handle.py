"""The handle of a durable item, which reads the journal while the item is not in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from flask_background.concurrency import native
from flask_background.concurrency.durations import deadline
from flask_background.core.callee import Callee
from flask_background.core.item import ItemHost, current_item_var
from flask_background.core.remote_item import RemoteItem
from flask_background.core.throttle import Throttle
from flask_background.durable.journal.row import timed_id
from flask_background.errors import BackgroundError, RecordGoneError

if TYPE_CHECKING:
    from flask_background.concurrency.timers import Timers
    from flask_background.core.request_state import RequestState
    from flask_background.core.status import Attempt
    from flask_background.durable.journal.row import ItemRow

R = TypeVar("R", covariant=True)

# How often a waiting thread reads the journal while the item is elsewhere, in seconds.
_LOOK = 0.05
# The longest wait for an end in this process before another look, because the item may leave, in seconds.
_STAY = 0.5


class JournalHost(ItemHost, Protocol):
    """The backend that has the journal, as the handle needs it."""

    def in_this_process(self) -> JournalHost: ...
    def look(self, item_id: str) -> ItemRow | None: ...
    def read_attempt(self, row: ItemRow) -> Attempt: ...
    def report(self, item: DurableItem[Any]) -> None: ...
    def want(self, item: DurableItem[Any]) -> None: ...


class DurableItem(RemoteItem[R]):
    """A durable work item. Its properties are up to date, whichever process of the app runs it.

    Once the journal has no record of the item, properties and waits raise RecordGoneError, unless
    this handle has seen the end.
    """

    __slots__ = ("held", "progress_throttle", "row")

    def __init__(
        self,
        task: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: RequestState | None,
        host: JournalHost,
    ) -> None:
        #: Whether the item is queued or running in this process, which then knows more than the journal.
        self.here = True
        self.row: ItemRow | None = None
        #: Whether the item waits for its response to be sent.
        self.held = False
        self.progress_throttle: Throttle | None = None
        super().__init__(task, args, kwargs, state, host)
        self._identify(timed_id(self.id, self._enqueued), self._enqueued)

    @classmethod
    def of(cls, row: ItemRow, task: Callee, state: RequestState | None, host: JournalHost) -> Self:
        """Return the handle of an item that is in the journal, and not in this process."""
        item = cls(task, (), {}, state, host)
        item._identify(row.id, row.enqueued)
        item._describe(row.description)
        item.row, item.here = row, False
        return item

    @property
    def _due(self) -> float:
        return super()._due if self.row is None else self.row.due

    def report_progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report the progress of the run, which every process of the app can show."""
        super().report_progress(done, total, message)
        # A process that the run has forked does not report: the run is the parent's.
        if self.here and self._attempt is not None and self._host.pid == os.getpid():
            cast(JournalHost, self._host).report(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to timeout seconds (None: no limit) for the end; return whether the item has ended."""
        if self._announced:
            return True
        self._follow_fork()
        waiting = current_item_var.get(None)
        lending = None if waiting is None else waiting._host.lending
        if waiting is not None and timeout is None:
            self._check_waiter(waiting)
        if waiting is not None and lending is not None:
            lending.check_wait(waiting, self, timeout)
        end = deadline(timeout)
        while True:
            left = max(0.0, end - time.monotonic())
            if self.here:
                if super().wait(min(_STAY, left)) and self._announced:
                    return True
            elif self.status.is_final:
                return True
            elif waiting is not None and lending is not None:
                lending.wait(waiting, self, native.Latch(), min(_LOOK, left))
            else:
                native.Latch().wait(min(_LOOK, left))
            if left == 0.0:
                return not self.here and self.status.is_final

    def __await__(self) -> Generator[Any, None, R]:
        yield from self._ended().__await__()
        return self.result(0)

    async def _ended(self) -> None:
        if not self._announced:
            self._follow_fork()
        waiting = current_item_var.get(None)
        if waiting is not None and (lending := waiting._host.lending) is not None:
            await lending.wait_async(waiting, self, self._look_until_ended)
        else:
            await self._look_until_ended()

    async def _look_until_ended(self) -> None:
        import asyncio

        while not (self._announced if self.here else self.status.is_final):
            await asyncio.sleep(_LOOK)

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except BackgroundError:
            return f"<WorkItem {self.id} {self.task_name}>"

    def cancel(self) -> bool:
        """Withdraw the item, or ask it to end, in whichever process; return False if it had ended."""
        self._follow_fork()
        return super().cancel()

    def _come_here(self) -> None:
        if not self.here:
            cast(JournalHost, self._host).want(self)

    def accepted(self, row: ItemRow, *, held: bool) -> None:
        """Bring the item into this process, as its row says; held: until its response has been sent."""
        self.row, self.held = row, held

    def unhold(self) -> None:
        """Stop waiting for a response."""
        self.held = False

    def arrive(self, row: ItemRow) -> None:
        """Bring the claimed item into this process, perhaps not for the first time."""
        with self._host.lock:
            self.row, self.here = row, True
            self._arrive()

    def leave(self) -> None:
        """Let the item leave this process: from now on the journal knows its status."""
        self.here = False
        self._wake_waiters()

    def throttle(self, timers: Timers, every: float) -> Throttle:
        """Return the throttle of the item's progress, made for its first report."""
        if self.progress_throttle is None:
            self.progress_throttle = Throttle(every, timers)
        return self.progress_throttle

    def _follow_fork(self) -> None:
        """Use the backend of this process after a fork: the inherited one belongs to the parent."""
        if self._host.pid != os.getpid():
            self.here = False
            self._change_host(cast(JournalHost, self._host).in_this_process())

    def doubt(self, row: ItemRow, process_id: str) -> None:
        """Doubt the end that was seen here if the journal has news, because the item may have been retried.

        ``row`` is the journal's row. ``process_id`` is this process, whose own news may not be in the journal
        yet.
        """
        if self._announced and self.row is not None and row.fence >= self.row.fence:
            is_news = row.status is not self.status and row.owner != process_id
            if is_news or row.fence > self.row.fence:
                self.here = False
                self._doubt_end()

    def _look(self) -> None:
        """Read the item's row, unless the item is in this process, or has ended for good."""
        if self._announced:
            return
        self._follow_fork()
        if self.here:
            return
        host = cast(JournalHost, self._host)
        row = host.look(self.id)
        if row is None:
            if self._status.is_final:
                return
            raise RecordGoneError(
                f"item {self.id} ({self.task_name}) is not in the journal any more: it ended and was removed"
                " after BACKGROUND_KEEP, or by `flask background purge`, or the journal was replaced"
            )
        attempt = host.read_attempt(row)
        with host.lock:  # the item may have arrived here meanwhile, or another thread has read a later row
            if self.here or self._announced or (self.row is not None and row.fence < self.row.fence):
                return
            self.row = row
            self._learn(row.status, attempt)
