"""The host of one item while a Celery worker runs it: the item's record takes the place of memory."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from flask_background.celery.records.base import RunId
from flask_background.concurrency import native
from flask_background.concurrency.timers import Timers
from flask_background.core.item import WorkItem
from flask_background.core.run_host import RunHost
from flask_background.core.status import Attempt, Outcome, Progress, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.payload.outcomes import progress_as_data

if TYPE_CHECKING:
    from flask_background.celery.client.session import CelerySession
    from flask_background.celery.worker.run_table import RunTable

# How often each run of this process is looked after, and its progress put on record, in seconds.
_LOOK = 0.1
_REPORT = 0.5
# How long before or after a child the main process may hear of a TERM that was sent to both (seconds).
_ECHO = 1.0

_timeouts, _looks = Timers(), Timers()


class StopReachedError(BaseException):
    """Raised in a function on a process' main thread: the grace period is over. Not for users to catch."""


class RunningItem(RunHost):
    """Keeps one item while it runs in this process, and looks after it."""

    def __init__(
        self, session: CelerySession, table: RunTable, row: int, run: RunId, number: int, limit: float | None
    ) -> None:
        """``number``: of the attempt. ``limit``: when Celery kills this process (``time.monotonic()``)."""
        around = session.registry.around_item
        super().__init__(session.process.app, session.events, _timeouts, native.new_lock(), around)
        self._ended = native.Latch()
        self.outcome: Outcome | None = None
        #: The context in which the run has ended: what is logged about the item is logged there.
        self.context = contextvars.copy_context()
        #: Seconds until another run follows, if one does.
        self.delay: float | None = None
        self._number = number
        self._records, self._table, self._row, self._run = session.records, table, row, run
        self._max_bytes = session.settings.max_payload
        self._limit = limit
        self._source = CancellationSource(self.callback_failed)
        self._sent: Progress | None = None
        self._reported_at = 0.0
        self._in_trouble = self._is_in_function = self._is_cut = False
        self._is_on_main_thread = threading.current_thread() is threading.main_thread()

    # For the run.

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        """The run was claimed when its message came."""
        attempt.number = self._number
        item._begin(attempt)
        self.events.started(item)
        self._is_in_function = True
        _looks.set(_LOOK, partial(self._look_after, item))
        return True

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        """The record is to say so, and is written when the run is over."""
        self.delay = delay
        self.finish(item, attempt, (Status.FAILED, None, error))
        return True

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Wake whoever waits for the end of the run."""
        self._is_in_function = False
        self.context = contextvars.copy_context()
        with self.lock:
            self.outcome = outcome
        self._ended.open()

    def wait(self) -> Outcome:
        """Wait for the outcome: a Future that the function returned may end on another thread."""
        self._ended.wait()
        assert self.outcome is not None
        return self.outcome

    # For the item.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of its token."""
        return self._source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """The item has cancelled itself."""
        if self.outcome is not None:
            return False
        self.ask_to_end(item, CancelReason.REQUESTED)
        return True

    # While it runs.

    @contextmanager
    def heeding_term(self) -> Iterator[None]:
        """While the item runs on the main thread, let TERM not cut it in a child whose worker stops.

        systemd, for one, sends TERM to all processes of a service. The main process alone says how long items
        have. A TERM that Celery sends a child for other reasons does what it did. In a pool of one, QUIT ends
        the grace period: Celery would end the item with an error of its own.
        """
        theirs = signal.getsignal(signal.SIGTERM) if self._is_on_main_thread else None
        if not callable(theirs):
            yield
            return
        quits = signal.getsignal(signal.SIGQUIT)

        def heed(number: int, frame: FrameType | None) -> None:
            if self._is_cut:
                if self._is_in_function:
                    raise StopReachedError
            elif not (self._table.is_childs and self._is_stop()):
                theirs(number, frame)

        def hurry(number: int, frame: FrameType | None) -> None:
            self._table.stop_in(0.0)
            theirs(signal.SIGTERM, frame)

        signal.signal(signal.SIGTERM, heed)
        if not self._table.is_childs:
            signal.signal(signal.SIGQUIT, hurry)
        try:
            yield
        finally:
            self._is_in_function = False
            with self.lock:  # from here on nobody raises TERM for the run's sake
                self._is_on_main_thread = False
            signal.signal(signal.SIGTERM, theirs)
            signal.signal(signal.SIGQUIT, quits)

    def _is_stop(self) -> bool:
        """Whether TERM has come because the worker stops; the main process may hear of it a little later."""
        end = min(time.monotonic() + _ECHO, self._limit or float("inf"))
        while self._table.stops_at() is None and time.monotonic() < end:
            time.sleep(0.02)
        is_late = self._limit is not None and time.monotonic() >= self._limit
        return time.monotonic() - self._table.stop_began() < 2 * _ECHO and not is_late

    def _look_after(self, item: WorkItem[Any]) -> None:
        """Ask the item to end where that is wanted, and tell how far it is. Raises nothing."""
        if self.outcome is not None:
            return
        try:
            self._look_at_stop()
            if self._table.is_wanted(self._row):
                self.ask_to_end(item, CancelReason.REQUESTED)
            self._report_sometimes(item)
            self._in_trouble = False
        except Exception as error:
            if not self._in_trouble:  # one line for each time of trouble
                self.log_error(f"Item {item.id} could not be looked after; it goes on", error, item)
            self._in_trouble = True
        _looks.set(_LOOK, partial(self._look_after, item))

    def _look_at_stop(self) -> None:
        stops_at = self._table.stops_at()
        if stops_at is None:
            return
        self._source.limit(stops_at)
        self._source.fire(CancelReason.SHUTDOWN)
        with self.lock:
            if time.monotonic() >= stops_at and self._is_on_main_thread and self.outcome is None:
                self._is_cut = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _report_sometimes(self, item: WorkItem[Any]) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT:
            self._reported_at = now
            if (text := self.news(item)) is not None:
                self._records.report(self._run, text)

    def news(self, item: WorkItem[Any]) -> str | None:
        """The item's progress, if it is not on record yet."""
        progress = cast(Attempt, item._attempt).progress
        if progress is None or progress is self._sent:
            return None
        self._sent = progress
        return progress_as_data(progress, self._max_bytes)
