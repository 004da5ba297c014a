"""What a run in a Celery worker, and its item, need of whoever holds the item: there, the item's record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background.celery.records import Records
from flask_background.celery.redis.heartbeat import Life
from flask_background.celery.resources import Belongings
from flask_background.celery.worker.shutdown_flag import stop_flag
from flask_background.celery.worker.supervisor import Watch
from flask_background.concurrency import native
from flask_background.concurrency.timers import Timer, Timers
from flask_background.core.events import Events
from flask_background.core.item import WorkItem
from flask_background.core.status import Attempt, Outcome, Progress, Status
from flask_background.core.token import CancellationSource, CancelReason
from flask_background.payload.outcomes import progress_as_data

if TYPE_CHECKING:
    from _thread import LockType

    from celery import Celery

    from flask_background.app_state import BackgroundState
    from flask_background.celery.record import Record

_alarms = Timers()
_watch = Watch()

#: The runs of this process, by their items' ids.
running: dict[str, RunOwner] = {}


class Place:
    """What all runs of an app in one process have: its part, and where its records and belongings are.

    ``celery`` is the worker's. Raises ConfigurationError if BACKGROUND_UPLOADS is no place.
    """

    def __init__(self, part: BackgroundState, celery: Celery) -> None:
        self.part = part
        self.events = Events(part.app)
        self.records = Records(celery)
        self.belongings = Belongings(part.settings, celery, self.events)


class ClusterItem(WorkItem[Any]):
    """The item, as its function sees it."""

    __slots__ = ()

    @classmethod
    def of(
        cls, item_id: str, record: Record, task: Any, args: Any, kwargs: Any, owner: RunOwner
    ) -> ClusterItem:
        """The item that a record is about."""
        item = cls(task, args, kwargs, record.request_state(), owner)
        item.id, item._enqueued, item._source = item_id, record.enqueued, owner.source_of(item)
        return item


class RunOwner:
    """Keeps one item while it runs here, and looks after it."""

    def __init__(self, place: Place, item_id: str, record: Record) -> None:
        self.app = place.part.app
        self.pid = os.getpid()
        self.lock: LockType = native.new_lock()
        self.events = place.events
        self.records = place.records
        self.part = place.part
        self.id = item_id
        self.record = record
        self.ended = native.Latch()
        self.outcome: Outcome | None = None
        self._source = CancellationSource(self._callback_failed)
        self._sent: Progress | None = None
        self._in_trouble = False

    @property
    def life(self) -> Life:
        """The signs of life of items. What is asked for them is answered soon, or not at all."""
        return Life(self.part.celery.cluster.client)

    def put(self, **fields: Any) -> None:
        """Change the record. Raises BrokerError."""
        self.record = self.record._replace(**fields)
        self.records.write(self.id, self.record)

    # For the run.

    def start(self, item: WorkItem[Any], run: Attempt) -> bool:
        """It was claimed when its message came."""
        running[self.id] = self
        run.number = self.record.attempt
        item._attempt, item.status = run, Status.RUNNING
        self._look: Callable[[], None] = partial(self._look_after, item)
        _watch.begin(self._look)
        self.events.started(item)
        return True

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Ask the item to end in so many seconds."""
        self._source.limit(time.monotonic() + seconds)
        return _alarms.set(seconds, partial(self._ask_to_end, item, CancelReason.TIMEOUT))

    def cancel_timer(self, alarm: Timer) -> None:
        """It has ended before."""
        _alarms.cancel(alarm)

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Let go on who waits for the end of the run."""
        self.outcome = outcome
        _watch.end(self._look)
        self.ended.open()

    def log_error(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.events.log_error(what, error)

    # For the item.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of its token."""
        return self._source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """It has cancelled itself."""
        if self.outcome is not None:
            return False
        self._ask_to_end(item, CancelReason.REQUESTED)
        return True

    # While it runs.

    def _look_after(self, item: WorkItem[Any]) -> None:
        """Show that it is alive, see whether it is to end, and tell how far it is. Raises nothing."""
        try:
            stop_at = stop_flag.at()
            if stop_at is not None:
                self._source.limit(stop_at)
                self._source.fire(CancelReason.SHUTDOWN)
            self.life.show(self.id)
            if self.records.is_asked_to_end(self.id):
                self._ask_to_end(item, CancelReason.REQUESTED)
            with self.lock:
                if self.outcome is None:
                    self.report(item)
            self._in_trouble = False
        except Exception as error:
            if not self._in_trouble:  # once is enough
                self.log_error(f"Item {self.id} could not be looked after; it goes on", error)
            self._in_trouble = True

    def report(self, item: WorkItem[Any]) -> None:
        """Put its progress on record, if that is news. The lock is held."""
        progress = cast(Attempt, item._attempt).progress
        if progress is not None and progress is not self._sent:
            self._sent = progress
            self.put(progress=progress_as_data(progress))

    def _ask_to_end(self, item: WorkItem[Any], reason: CancelReason) -> None:
        self._source.fire(reason)
        abort = item._attempt.abort if item._attempt is not None else None
        if abort is not None:
            abort()

    def _callback_failed(self, error: BaseException) -> None:
        self.log_error("A token's callback failed", error)
