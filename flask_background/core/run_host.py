"""The contract of whoever runs items: between an item, its runs and the backend that holds it."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
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
    from flask_background.core.events import Events
    from flask_background.core.item import PlaceLender
    from flask_background.core.token import CancellationSource


class RunHost(ABC):
    """Holds items, and runs them in this process.

    A run begins with ``start`` and ends with ``finish``. Whether another run follows a failed one is decided
    by the run itself, which then calls ``run_again`` in place of ``finish``.
    """

    #: False where another process decides whether a failed run is followed by another.
    decides_retries: ClassVar[bool] = True
    #: Lends the places of items that wait for others; None where items take up no place.
    lending: PlaceLender | None = None

    def __init__(self, app: Flask, events: Events, timers: Timers, lock: LockType) -> None:
        self.app = app
        self.pid = os.getpid()
        self.events = events
        self.timers = timers
        self.lock = lock

    @abstractmethod
    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of the item's token."""

    @abstractmethod
    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end; False if the item had ended."""

    @abstractmethod
    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        """Claim an item for a run, and begin that; False if the item is not to run."""

    @abstractmethod
    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        """Have another run follow this failed one in delay seconds; False if this run has to be the last."""

    @abstractmethod
    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Settle the outcome of an item's last run."""

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Ask a running item to end in so many seconds (TIMEOUT)."""
        self.source_of(item).limit(time.monotonic() + seconds)
        return self.timers.set(seconds, partial(self.ask_to_end, item, CancelReason.TIMEOUT))

    def cancel_timer(self, timer: Timer) -> None:
        """The run ended before its time was up."""
        self.timers.cancel(timer)

    def ask_to_end(self, item: WorkItem[Any], reason: CancelReason) -> None:
        """Fire the item's token, and cancel what its run awaits."""
        self.source_of(item).fire(reason)
        attempt = item._attempt
        if attempt is not None and attempt.abort is not None:
            attempt.abort()

    def tell_retried(self, item: WorkItem[Any], error: BaseException, delay: float) -> None:
        """Another run is certain to follow: make the item ready for it, and send the event."""
        for upload in item._uploads or ():
            with best_effort():  # the run may have left anything in its place
                rest = getattr(upload.stream, "rest", None)
                if rest is not None:
                    rest()  # a file that needs no descriptor while the item waits
                elif not upload.stream.closed and upload.stream.seekable():
                    upload.stream.seek(0)
        let_frames_go(error)
        self.events.retried(item, error, delay)

    def log_error(self, what: str, error: BaseException) -> None:
        """Log an error that hurts no item."""
        self.events.log_error(what, error)

    def callback_failed(self, error: BaseException) -> None:
        """Log the error of a token's callback."""
        self.log_error("A token's callback failed", error)
