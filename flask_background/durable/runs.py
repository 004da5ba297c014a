"""The runs of durable items: what the journal hears of them, and how they leave this process.

Before a run its beginning is written to this process's own file, so that whoever recovers its items after a
crash knows which of them were running. The end goes to the journal, and is told when it is on disk.
"""

from __future__ import annotations

import contextvars
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background import signals
from flask_background.concurrency import callbacks
from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import add_note, let_frames_go
from flask_background.core.runner import RunHost
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.durable.handle import DurableItem
from flask_background.durable.journal import statements as store
from flask_background.durable.journal import wakeups as bells
from flask_background.durable.uploads import UploadFolder
from flask_background.payload.outcomes import error_as_data, parked_error, progress_as_data, result_as_data

if TYPE_CHECKING:
    import sqlite3

    from flask_background.core.token import CancellationSource
    from flask_background.durable.journal.process_lock import ProcessLock
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.journal.writer import Writer
    from flask_background.local.backend import LocalBackend

# A run may report its progress as often as it likes; the journal hears of it so often, in seconds.
_REPORT_EVERY = 0.25
# When an item is tried again whose files cannot be opened for a reason that may pass, in seconds.
_PUT_OFF = 5.0


class Runs(RunHost):
    """Runs durable items: a LocalBackend holds them while they are here, the journal hears of each step."""

    def __init__(
        self, local: LocalBackend, writer: Writer, owner: ProcessLock, packing: UploadFolder
    ) -> None:
        super().__init__(local.app, local.events, local.timers, local.lock)
        self.local = local
        self.writer = writer
        self.owner = owner
        self.packing = packing
        #: How long the last run took, by executor, in seconds.
        self.lasted: dict[str, float] = {}

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        entry, task = item.entry, cast(Any, item._task)
        try:
            args, kwargs, uploads = self.packing.unpack(entry)
            item._take_arguments(args, kwargs)
            item._adopt_uploads(uploads)
            task.check_call(*args, **kwargs)
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
        attempt.number = entry.attempt + 1
        if not self.local.start(item, attempt):
            self.owner.end(item.id)
            item._release_arguments()
            return False
        began = partial(store.start, item_id=item.id, fence=entry.fence, now=attempt.started or time.time())
        self.writer.later(began, sync=False)
        return True

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        self._run_is_over(item, attempt)
        now = time.time()
        step = partial(_release, _this(item.entry), now=now, due=now + delay, error=error_as_data(error))
        self.writer.later(step, partial(self._retried, contextvars.copy_context(), item, error, delay))
        return True

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Put the outcome of a run into the journal, and announce it once it is there."""
        assert isinstance(item, DurableItem)
        assert item.entry is not None
        self._run_is_over(item, attempt)
        if outcome[0] is Status.INTERRUPTED:  # the host stopped, so the run does not count
            release = partial(_release, _this(item.entry), now=time.time(), charged=False)
            self.writer.later(release, partial(self._left, item))
        else:
            try:
                step = self._end_step(item.entry, outcome)
            except Exception as error:  # of ours, for what is foreign is made data in any case
                add_note(error, f"item {item.id} ({item.task_name}) had {outcome[0]}")
                outcome = Status.FAILED, None, error
                step = self._end_step(item.entry, outcome)
            tell = partial(self._tell_end_apart, contextvars.copy_context(), item, attempt, outcome)
            self.writer.later(step, tell)

    def _tell_end_apart(
        self,
        context: contextvars.Context,
        item: DurableItem[Any],
        attempt: Attempt,
        outcome: Outcome,
        is_mine: bool,
    ) -> None:
        """Tell an end in its item's context (a Sentry scope, a request's id).

        Not here if there are receivers, which may take long: they hold up no other item's end.
        """
        tell = partial(context.run, partial(self._ended, item, attempt, outcome, is_mine))
        if signals.item_finished.receivers:
            callbacks.threads.call(
                tell, partial(self.log_error, f"The end of item {item.id} could not be told")
            )
        else:
            tell()

    def _run_is_over(self, item: DurableItem[Any], attempt: Attempt) -> None:
        self.lasted[item._task.executor] = time.time() - (attempt.started or time.time())
        if attempt.progress is not None:  # the last one, which the throttle may have held back
            self._report(item, item.entry)

    def _end_step(self, entry: ItemRow, outcome: Outcome) -> Callable[..., Any]:
        status, value, error = outcome
        result = result_as_data(value, self.packing.max_bytes) if status is Status.SUCCEEDED else None
        failed = None if error is None else error_as_data(error)
        return partial(_finish, _this(entry), status=status, result=result, error=failed, now=time.time())

    def report(self, item: DurableItem[Any]) -> None:
        """Let other processes see the item's progress."""
        item.throttle(self.timers, _REPORT_EVERY).call(partial(self._report, item, item.entry))

    def _report(self, item: DurableItem[Any], entry: ItemRow | None) -> None:
        progress = None if item._attempt is None else item._attempt.progress
        if progress is None or entry is None or not item.here or item.entry is not entry:
            return  # a late report, of a run that is over
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
        why = parked_error(item.id, item.task_name, reason)
        if self.local.withdraw(item, (Status.FAILED, None, why)):
            step = partial(
                store.park, item_id=item.id, fence=item.entry.fence, reason=reason, now=time.time()
            )
            self.writer.later(step)

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        return self.local.source_of(item)

    def call_others(self) -> None:
        """Wake every process of the app, this one too: there is something to claim or to cancel."""
        bells.ring(self.owner.folder)

    # Once the journal has it; on the writer's thread for such calls.

    def _ended(self, item: DurableItem[Any], attempt: Attempt, outcome: Outcome, is_mine: bool) -> None:
        if is_mine:
            self.owner.end(item.id)
            self.local.finish(item, attempt, outcome)
            if outcome[0] is Status.SUCCEEDED and item.entry is not None and item.entry.uploads:
                self.packing.forget(item.id)  # what has not succeeded may be retried
            self.claim_more(item)
        else:
            self.events.late(item, outcome)
            self._left(item, None)

    def _retried(
        self,
        context: contextvars.Context,
        item: DurableItem[Any],
        error: BaseException,
        delay: float,
        ended: ItemRow | None,
    ) -> None:
        if ended is None:
            context.run(self.tell_retried, item, error, delay)
        else:  # somebody had asked for its end
            let_frames_go(error)
        self._left(item, ended)

    def _left(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        self.owner.end(item.id)
        item._release_arguments()
        self.local.let_go(item, running=True)
        self._leave(item, ended)

    def _leave(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        """It is free again, or it ended instead."""
        item.leave()
        if ended is None:
            self.call_others()
        else:
            self.tell_end(ended)

    @abstractmethod
    def tell_end(self, entry: ItemRow) -> None:
        """Tell the end of an item that no process has run to it."""

    @abstractmethod
    def claim_more(self, item: WorkItem[Any]) -> None:
        """An item has ended, so there is room for another one."""


def _this(entry: ItemRow) -> tuple[str, int]:
    """This claim of an item: a later one, of whichever process, makes what is written for it harmless."""
    return entry.id, entry.fence


def _release(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> ItemRow | None:
    return store.release(db, *this, **values)


def _finish(this: tuple[str, int], db: sqlite3.Connection, **values: Any) -> bool:
    return store.finish(db, *this, **values)
