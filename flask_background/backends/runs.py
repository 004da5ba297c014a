"""The runs of durable items: what the journal hears of them, and how they leave this process.

Before a run its beginning is written to this process's own file, so that whoever recovers its items after a
crash knows which of them were running. The end goes to the journal, and is told when it is on disk.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..errors import ItemFailed
from ..item import WorkItem
from ..journal import owner as owners
from ..journal import store
from ..journaled import JournaledItem
from ..packing import Packing, error_as_data, progress_as_data, result_as_data
from ..runner import let_frames_go
from ..status import Attempt, Outcome, Progress, Status

if TYPE_CHECKING:
    import sqlite3

    from ..alarms import Alarm
    from ..journal.entry import Entry
    from ..journal.owner import Owner
    from ..journal.writer import Writer
    from ..token import CancellationSource
    from .local import LocalBackend

# A run may report its progress as often as it likes; the journal hears of it so often, in seconds.
_REPORT_EVERY = 0.25
# When an item is tried again whose files cannot be opened for a reason that may pass, in seconds.
_PUT_OFF = 5.0


class DurableRuns(ABC):
    """What a run needs of the backend that holds its item, with the journal behind it."""

    def __init__(self, local: LocalBackend, writer: Writer, owner: Owner, packing: Packing) -> None:
        self.app = local.app
        self.pid = os.getpid()
        self.lock = local.lock
        self.local = local
        self.writer = writer
        self.owner = owner
        self.packing = packing
        #: How long the last run took, by executor, in seconds.
        self.lasted: dict[str, float] = {}

    def start(self, item: WorkItem[Any], run: Attempt) -> bool:
        """Make the arguments, and claim the item; False if it was withdrawn, or they do not fit."""
        assert isinstance(item, JournaledItem)
        assert item.entry is not None
        entry, task = item.entry, cast(Any, item._task)
        try:
            item._args, kwargs, item._uploads = self.packing.unpack(entry)
            item._kwargs = kwargs or None
            task.check_call(*item._args, **kwargs)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                self._put_off(item, error)  # too many open files, perhaps: that is not the item's fault
            else:
                self.park(item, f"its arguments do not fit any more: {error}")
            return False
        try:
            self.owner.begin(item.id)
        except OSError as error:
            self.trouble(f"Item {item.id} runs uncounted, should its process die", error)
        if not self.local.start(item, run):
            self.owner.end(item.id)
            self.let_arguments_go(item)
            return False
        run.number = entry.attempt + 1
        began = partial(store.start, item_id=item.id, fence=entry.fence, now=run.started or time.time())
        self.writer.later(began, sync=False)
        return True

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Put what a run has come to into the journal; when it is there, tell it."""
        assert isinstance(item, JournaledItem)
        assert item.entry is not None
        status, value, error = outcome
        this, now = (item.id, item.entry.fence), time.time()
        self.lasted[item._task.executor] = now - (run.started or now)
        then: Callable[..., None] = self._left
        if run.progress is not None:
            self._report(item, item.entry, run.progress)
        if status is Status.INTERRUPTED:  # the host stopped, so the run does not count
            step = partial(_release, this, charged=False)
        elif error is not None and (delay := self._delay_after(item, run, outcome)) is not None:
            step = partial(_release, this, due=now + delay, error=error_as_data(error))
            then = partial(self._retried, delay=delay)
        else:
            result = result_as_data(value, self.packing.max_bytes) if status is Status.SUCCEEDED else None
            failed = None if error is None else error_as_data(error)
            step = partial(_finish, this, status=status, result=result, error=failed, now=now)
            then = self._told
        self.writer.later(step, partial(then, item, run, outcome))

    def report(self, item: JournaledItem[Any], progress: Progress) -> None:
        """Let other processes see the progress, now and then."""
        assert item.entry is not None
        now = time.monotonic()
        if now - item.reported >= _REPORT_EVERY:
            item.reported = now
            self._report(item, item.entry, progress)

    def _report(self, item: JournaledItem[Any], entry: Entry, progress: Progress) -> None:
        text = progress_as_data(progress)
        self.writer.later(
            partial(store.report, item_id=item.id, fence=entry.fence, progress=text), sync=False
        )

    def give_back(self, item: JournaledItem[Any]) -> None:
        """Leave an item that has not started to the other processes, and to those that come."""
        assert item.entry is not None
        step = partial(store.release, item_id=item.id, fence=item.entry.fence)
        self.writer.later(step, lambda _: self._leave(item))

    def _put_off(self, item: JournaledItem[Any], error: OSError) -> None:
        """Leave an item to all that cannot be started just now; that does not count as an attempt."""
        assert item.entry is not None
        if self.local.let_go(item):
            self.trouble(f"Item {item.id} ({item.task_name}) is tried again in {_PUT_OFF:g} s", error)
            due = time.time() + _PUT_OFF
            step = partial(store.release, item_id=item.id, fence=item.entry.fence, due=due)
            self.writer.later(step, lambda _: self._leave(item))

    def park(self, item: JournaledItem[Any], reason: str) -> None:
        """End an item that cannot be run as failed, until somebody has it retried."""
        assert item.entry is not None
        why = ItemFailed(f"item {item.id} ({item.task_name}) was parked: {reason}")
        if self.local.withdraw(item, (Status.FAILED, None, why)):
            step = partial(
                store.park, item_id=item.id, fence=item.entry.fence, reason=reason, now=time.time()
            )
            self.writer.later(step)

    def set_alarm(self, item: WorkItem[Any], seconds: float) -> Alarm:
        """Ask a running item to end in so many seconds."""
        return self.local.set_alarm(item, seconds)

    def cancel_alarm(self, alarm: Alarm) -> None:
        """It has ended before."""
        self.local.cancel_alarm(alarm)

    def trouble(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.local.trouble(what, error)

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of the item's token."""
        return self.local.source_of(item)

    def call_others(self) -> None:
        """Wake every process of the app, this one too: there is something to claim or to cancel."""
        owners.ring(self.owner.folder)

    # When the journal has it; on the writer's thread for such calls.

    def _told(self, item: JournaledItem[Any], run: Attempt, outcome: Outcome, is_mine: bool) -> None:
        self.owner.end(item.id)
        if is_mine:
            self.local.conclude(item, run, outcome)
            if outcome[0] is Status.SUCCEEDED and item.entry is not None and item.entry.uploads:
                self.packing.forget(item.id)  # what has not succeeded may be retried
            self.claim_more(item)
        else:
            self.local.events.late(item, outcome)
            self._left(item, run, outcome, is_mine)

    def _retried(
        self, item: JournaledItem[Any], run: Attempt, outcome: Outcome, is_mine: bool, delay: float
    ) -> None:
        _, _, error = outcome
        assert error is not None
        let_frames_go(error)
        self.local.events.retried(item, error, delay)
        self._left(item, run, outcome, is_mine)

    def _left(self, item: JournaledItem[Any], run: Attempt, outcome: Outcome, is_mine: bool) -> None:
        self.owner.end(item.id)
        self.let_arguments_go(item)
        self.local.let_go(item)
        self._leave(item)

    def _leave(self, item: JournaledItem[Any]) -> None:
        item.leave()
        self.call_others()

    def _delay_after(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> float | None:
        status, _, error = outcome
        if status is not Status.FAILED or error is None:
            return None
        return item._task.retry.delay_after(run.number, error)

    def let_arguments_go(self, item: WorkItem[Any]) -> None:
        """The next run makes its own."""
        for upload in item._uploads or ():
            upload.close()
        item._args, item._kwargs, item._uploads = (), None, None

    @abstractmethod
    def claim_more(self, item: WorkItem[Any]) -> None:
        """An item has ended, so there is room for another one."""


def _release(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> bool:
    return store.release(db, *this, **values)


def _finish(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> bool:
    return store.finish(db, *this, **values)
