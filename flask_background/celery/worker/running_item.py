"""What a run in a Celery worker, and its item, need of whoever holds the item: there, the item's record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background.celery.records import Records
from flask_background.celery.redis.heartbeat import Life
from flask_background.celery.resources import Belongings
from flask_background.celery.worker.shutdown_flag import stop_flag
from flask_background.celery.worker.supervisor import Watch
from flask_background.concurrency import native
from flask_background.concurrency.timers import Timers
from flask_background.core.events import Events
from flask_background.core.item import WorkItem
from flask_background.core.runner import RunHost
from flask_background.core.status import Attempt, Outcome, Progress, Status
from flask_background.core.token import CancellationSource, CancelReason, call_back
from flask_background.payload.outcomes import progress_as_data

if TYPE_CHECKING:
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
        item._identify(item_id, record.enqueued)
        item._set_source(owner.source_of(item))
        return item


class RunOwner(RunHost):
    """Keeps one item while it runs here, and looks after it."""

    def __init__(self, place: Place, item_id: str, record: Record) -> None:
        super().__init__(place.part.app, place.events, _alarms, native.new_lock())
        self.records = place.records
        self.part = place.part
        self.id = item_id
        self.record = record
        self.ended = native.Latch()
        self.outcome: Outcome | None = None
        #: Seconds until another run follows, if one does.
        self.delay: float | None = None
        self._source = CancellationSource()
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
        item._begin(run)
        self._look: Callable[[], None] = partial(self._look_after, item)
        _watch.begin(self._look)
        self.events.started(item)
        return True

    def run_again(self, item: WorkItem[Any], run: Attempt, error: BaseException, delay: float) -> bool:
        self.delay = delay
        self.finish(item, run, (Status.FAILED, None, error))
        return True

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Let go on who waits for the end of the run."""
        self.outcome = outcome
        _watch.end(self._look)
        self.ended.open()

    # For the item.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of its token."""
        return self._source

    def cancel(self, item: WorkItem[Any]) -> bool:
        """It has cancelled itself."""
        if self.outcome is not None:
            return False
        self.ask_to_end(item, CancelReason.REQUESTED)
        return True

    # While it runs.

    def _look_after(self, item: WorkItem[Any]) -> None:
        """Show that it is alive, see whether it is to end, and tell how far it is. Raises nothing."""
        try:
            stop_at = stop_flag.at()
            if stop_at is not None:
                self._source.limit(stop_at)
                call_back(self._source.fire(CancelReason.SHUTDOWN), self.log_error)
            self.life.show(self.id)
            if self.records.is_asked_to_end(self.id):
                self.ask_to_end(item, CancelReason.REQUESTED)
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
