"""The runs of durable items: what the journal hears of them, and how they leave this process.

Before a run its beginning is written to this process's own file, so that whoever recovers its items after a
crash knows which of them were running. The end goes to the journal, and is told when it is on disk.
"""

from __future__ import annotations

import contextvars
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background import signals
from flask_background.concurrency import callbacks
from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import add_note, let_frames_go
from flask_background.core.status import Attempt, Outcome, Progress, Status
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal import statements as store
from flask_background.durable.journal import wakeups as bells
from flask_background.durable.uploads import UploadFolder
from flask_background.errors import ItemFailedError
from flask_background.payload.outcomes import error_as_data, progress_as_data, result_as_data

if TYPE_CHECKING:
    import sqlite3

    from flask_background.concurrency.timers import Timer
    from flask_background.core.token import CancellationSource
    from flask_background.durable.journal.process_lock import ProcessLock
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.journal.writer import Writer
    from flask_background.local.backend import LocalBackend

# A run may report its progress as often as it likes; the journal hears of it so often, in seconds.
_REPORT_EVERY = 0.25
# When an item is tried again whose files cannot be opened for a reason that may pass, in seconds.
_PUT_OFF = 5.0


class Runs(ABC):
    """What a run needs of the backend that holds its item, with the journal behind it."""

    def __init__(
        self, local: LocalBackend, writer: Writer, owner: ProcessLock, packing: UploadFolder
    ) -> None:
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
        assert isinstance(item, DurableItem)
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
            self.log_error(f"Item {item.id} runs uncounted, should its process die", error)
        run.number = entry.attempt + 1
        if not self.local.start(item, run):
            self.owner.end(item.id)
            self.let_arguments_go(item)
            return False
        began = partial(store.start, item_id=item.id, fence=entry.fence, now=run.started or time.time())
        self.writer.later(began, sync=False)
        return True

    def finish(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> None:
        """Put what a run has come to into the journal; when it is there, tell it."""
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        self.lasted[item._task.executor] = time.time() - (run.started or time.time())
        try:
            step, then = self._last_step(item, item.entry, run, outcome)
        except Exception as error:  # such as a backoff function's, or an exception's that has no text
            add_note(error, f"item {item.id} ({item.task_name}) had {outcome[0]}")
            outcome = Status.FAILED, None, error
            step, then = self._end_step(item.entry, outcome), self._announced
        # Told in the item's context, as everything about it: a Sentry scope, a request id for the log.
        tell = partial(contextvars.copy_context().run, then, item, run, outcome)
        # Receivers may take long, and hold up no other item's end.
        self.writer.later(step, partial(self._tell_apart, tell) if signals.item_finished.receivers else tell)

    def _tell_apart(self, tell: Callable[..., object], value: Any) -> None:
        callbacks.threads.call(
            partial(tell, value), partial(self.log_error, "The end of an item was not told")
        )

    def _last_step(
        self, item: DurableItem[Any], entry: ItemRow, run: Attempt, outcome: Outcome
    ) -> tuple[Callable[..., Any], Callable[..., None]]:
        """What the journal is to hear of a run's end, and what is done when it has."""
        status, _, error = outcome
        this, now = (entry.id, entry.fence), time.time()
        if run.progress is not None:
            self._report(item, entry, run.progress)
        if status is Status.INTERRUPTED:  # the host stopped, so the run does not count
            return partial(_release, this, now=now, charged=False), self._left
        if error is not None and (delay := self._delay_after(item, run, outcome)) is not None:
            step = partial(_release, this, now=now, due=now + delay, error=error_as_data(error))
            return step, partial(self._retried, delay=delay)
        return self._end_step(entry, outcome), self._announced

    def _end_step(self, entry: ItemRow, outcome: Outcome) -> Callable[..., Any]:
        status, value, error = outcome
        result = result_as_data(value, self.packing.max_bytes) if status is Status.SUCCEEDED else None
        failed = None if error is None else error_as_data(error)
        this = entry.id, entry.fence
        return partial(_finish, this, status=status, result=result, error=failed, now=time.time())

    def report(self, item: DurableItem[Any], progress: Progress) -> None:
        """Let other processes see the progress, now and then; in the end the last one."""
        assert item.entry is not None
        now = time.monotonic()
        if now - item.reported >= _REPORT_EVERY:
            item.reported = now
            self._report(item, item.entry, progress)
        elif item.reported <= now:
            item.reported += _REPORT_EVERY  # the time of the next report, which is on its way
            self.local.call_later(item.reported - now, partial(self._catch_up, item, item.entry))

    def _catch_up(self, item: DurableItem[Any], entry: ItemRow) -> None:
        if (
            item.here
            and item.entry is entry
            and item._attempt is not None
            and item._attempt.progress is not None
        ):
            self._report(item, entry, item._attempt.progress)

    def _report(self, item: DurableItem[Any], entry: ItemRow, progress: Progress) -> None:
        text = progress_as_data(progress)
        self.writer.later(
            partial(store.report, item_id=item.id, fence=entry.fence, progress=text), sync=False
        )

    def give_back(self, item: DurableItem[Any]) -> None:
        """Leave an item that has not started to the other processes, and to those that come."""
        assert item.entry is not None
        step = partial(store.release, item_id=item.id, fence=item.entry.fence, now=time.time())
        self.writer.later(step, partial(self._leave, item))

    def _put_off(self, item: DurableItem[Any], error: OSError) -> None:
        """Leave an item to all that cannot be started just now; that does not count as an attempt."""
        assert item.entry is not None
        if self.local.let_go(item):
            self.log_error(f"Item {item.id} ({item.task_name}) is tried again in {_PUT_OFF:g} s", error)
            now = time.time()
            step = partial(
                store.release, item_id=item.id, fence=item.entry.fence, now=now, due=now + _PUT_OFF
            )
            self.writer.later(step, partial(self._leave, item))

    def park(self, item: DurableItem[Any], reason: str) -> None:
        """End an item that cannot be run as failed, until somebody has it retried."""
        assert item.entry is not None
        why = ItemFailedError(f"item {item.id} ({item.task_name}) was parked: {reason}")
        if self.local.withdraw(item, (Status.FAILED, None, why)):
            step = partial(
                store.park, item_id=item.id, fence=item.entry.fence, reason=reason, now=time.time()
            )
            self.writer.later(step)

    def set_timer(self, item: WorkItem[Any], seconds: float) -> Timer:
        """Ask a running item to end in so many seconds."""
        return self.local.set_timer(item, seconds)

    def cancel_timer(self, alarm: Timer) -> None:
        """It has ended before."""
        self.local.cancel_timer(alarm)

    def log_error(self, what: str, error: BaseException) -> None:
        """Log what hurts no item."""
        self.local.log_error(what, error)

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        """The write side of the item's token."""
        return self.local.source_of(item)

    def call_others(self) -> None:
        """Wake every process of the app, this one too: there is something to claim or to cancel."""
        bells.ring(self.owner.folder)

    # When the journal has it; on the writer's thread for such calls.

    def _announced(self, item: DurableItem[Any], run: Attempt, outcome: Outcome, is_mine: bool) -> None:
        self.owner.end(item.id)
        if is_mine:
            self.local.conclude(item, run, outcome)
            if outcome[0] is Status.SUCCEEDED and item.entry is not None and item.entry.uploads:
                self.packing.forget(item.id)  # what has not succeeded may be retried
            self.claim_more(item)
        else:
            self.local.events.late(item, outcome)
            self._left(item, run, outcome, None)

    def _retried(
        self, item: DurableItem[Any], run: Attempt, outcome: Outcome, ended: ItemRow | None, delay: float
    ) -> None:
        _, _, error = outcome
        assert error is not None
        let_frames_go(error)
        if ended is None:
            self.local.events.retried(item, error, delay)
        self._left(item, run, outcome, ended)

    def _left(self, item: DurableItem[Any], run: Attempt, outcome: Outcome, ended: ItemRow | None) -> None:
        self.owner.end(item.id)
        self.let_arguments_go(item)
        self.local.let_go(item, running=True)
        self._leave(item, ended)

    def _leave(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        """It is free again, or it ended instead."""
        item.leave()
        if ended is None:
            self.call_others()
        else:
            self.tell_end(ended)

    def _delay_after(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> float | None:
        status, _, error = outcome
        if status is not Status.FAILED or error is None or item.is_unwanted():
            return None
        return item._task.retry.delay_after(run.number, error)

    def let_arguments_go(self, item: WorkItem[Any]) -> None:
        """The next run makes its own."""
        for upload in item._uploads or ():
            upload.close()
        item._args, item._kwargs, item._uploads = (), None, None

    @abstractmethod
    def tell_end(self, entry: ItemRow) -> None:
        """Tell the end of an item that no process has run to it."""

    @abstractmethod
    def claim_more(self, item: WorkItem[Any]) -> None:
        """An item has ended, so there is room for another one."""


def _release(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> ItemRow | None:
    return store.release(db, *this, **values)


def _finish(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> bool:
    return store.finish(db, *this, **values)
