"""The contract between an item, its runs and the backend that holds the item."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import best_effort, let_frames_go
from flask_background.core.status import Attempt, Outcome
from flask_background.core.token import CancelReason

if TYPE_CHECKING:
    from _thread import LockType

    from flask import Flask

    from flask_background.concurrency.timers import Timer, Timers
    from flask_background.core.around import AroundFunction
    from flask_background.core.events import Events
    from flask_background.core.item import PlaceLender
    from flask_background.core.token import CancellationSource


class RunHost(ABC):
    """A backend that holds items and runs them in this process.

    A run begins with ``start`` and ends with ``finish``. After a failure the run itself decides whether
    another run follows, and then calls ``run_again`` in place of ``finish``.
    """

    #: False if another process decides whether a failed run is followed by another.
    decides_retries: ClassVar[bool] = True
    #: Lends the places of items that wait for others; None where items take up no place.
    lending: PlaceLender | None = None
    #: Whether items outlive this process; an item that cannot be started now then waits in the journal.
    keeps_items: ClassVar[bool] = False

    def __init__(
        self, app: Flask, events: Events, timers: Timers, lock: LockType, around: Sequence[AroundFunction]
    ) -> None:
        self.app = app
        self.pid = os.getpid()
        self.events = events
        self.timers = timers
        self.clock = timers.clock
        self.lock = lock
        #: The functions of the app around each run, the outermost first.
        self.around = around

    @abstractmethod
    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """Return the write side of the item's token."""

    @abstractmethod
    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end; return False if the item had ended."""

    @abstractmethod
    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        """Claim an item for a run, and begin the run; return False if the item must not run."""

    @abstractmethod
    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        """Schedule another run in delay seconds; return False if the failed run has to be the last."""

    @abstractmethod
    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Settle the outcome of an item's last run."""

    def put_off(self, item: WorkItem[Any], seconds: float) -> None:
        """Leave a queued item to all processes, in so many seconds. Only for a host that keeps items."""
        raise NotImplementedError

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Start a timer that asks a running item to end after this many seconds (TIMEOUT)."""
        self.source_of(item).limit(self.clock.monotonic() + seconds)
        return self.timers.set(seconds, partial(self.ask_to_end, item, CancelReason.TIMEOUT))

    def cancel_timer(self, timer: Timer) -> None:
        """Cancel a run's timer, because the run has ended."""
        self.timers.cancel(timer)

    def ask_to_end(self, item: WorkItem[Any], reason: CancelReason) -> None:
        """Fire the item's token, and cancel what its run awaits."""
        self.source_of(item).fire(reason)
        attempt = item._attempt
        if attempt is not None and attempt.abort is not None:
            attempt.abort()

    def tell_retried(self, item: WorkItem[Any], error: BaseException, delay: float) -> None:
        """Prepare the item for a further run, which is certain to follow, and send the event."""
        for upload in item._uploads or ():
            with best_effort():  # the run may have replaced the list with anything
                rest = getattr(upload.stream, "rest", None)
                if rest is not None:
                    rest()  # a file that needs no descriptor while the item waits
                elif not upload.stream.closed and upload.stream.seekable():
                    upload.stream.seek(0)
        let_frames_go(error)
        self.events.retried(item, error, delay)

    def log_error(self, what: str, error: BaseException, about: WorkItem[Any] | str | None = None) -> None:
        """Log an error that is no outcome. ``about``: the item that the line is about, or its id."""
        self.events.log_error(what, error, about)

    def callback_failed(self, error: BaseException) -> None:
        """Log the error of a token's callback."""
        self.log_error("A token's callback failed", error)
