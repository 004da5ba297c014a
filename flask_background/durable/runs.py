"""The runs of durable items: how the journal records them, and how items leave this process.

The beginning of a run is written to this process's own file first, so that the process that recovers its
items after a crash knows which of them were running. The outcome goes to the journal, and is announced once
it is on disk.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask_background import signals
from flask_background.concurrency import callbacks
from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import add_note, let_frames_go
from flask_background.core.run_host import RunHost
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.durable.handle import DurableItem, JournalHost
from flask_background.durable.journal import queries, statements
from flask_background.durable.journal.row import ItemRow, attempt_of
from flask_background.errors import JournalError
from flask_background.payload.outcomes import error_as_data, parked_error, progress_as_data, result_as_data

if TYPE_CHECKING:
    import sqlite3

    from flask_background.core.token import CancellationSource
    from flask_background.durable.backlog import Backlog
    from flask_background.durable.pauses import Pauses
    from flask_background.durable.session import JournalSession

# The shortest time between two progress reports to the journal, in seconds.
_REPORT_EVERY = 0.25
# How soon an item is tried again whose files cannot be opened for a temporary reason, in seconds.
_PUT_OFF = 5.0


class Runs(RunHost):
    """The host of durable items: the LocalBackend holds them while they are here, the journal records them.

    ``in_this_process`` gives a forked process the host in place of this one.
    """

    keeps_items = True

    def __init__(
        self,
        session: JournalSession,
        backlog: Backlog,
        pauses: Pauses,
        in_this_process: Callable[[], JournalHost],
    ) -> None:
        local = session.local
        super().__init__(local.app, local.events, local.timers, local.lock, local.around)
        self.in_this_process = in_this_process
        self._local = local
        self._session = session
        self.lending = session.local.lending
        self._backlog = backlog
        self._pauses = pauses
        self._uploads = session.uploads
        self._writer = session.writer

    # The runs.

    def start(self, item: WorkItem[Any], attempt: Attempt) -> bool:
        assert isinstance(item, DurableItem)
        assert item.row is not None
        row, task = item.row, cast(Any, item._task)
        if item.id not in self._local.executors[task.executor].queued:
            return False  # a stale entry of the executor's queue: the item left, or runs already
        if self._pauses.holds(row.task, row.executor):
            self.let_wait(item)
            return False
        try:
            args, kwargs, uploads = self._uploads.unpack(row)
            item._take_arguments(args, kwargs)
            item._adopt_uploads(uploads)
            task.check_call(*args, **kwargs)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                # Perhaps too many open files: not the item's fault.
                self.log_error(
                    f"Item {item.id} ({item.task_name}) is tried again in {_PUT_OFF:g} s", error, item
                )
                self.put_off(item, _PUT_OFF)
            else:
                self._park(item, f"its arguments no longer fit the function: {error}")
            return False
        try:
            self._session.process_lock.begin_run(item.id)
        except OSError as error:
            self.log_error(
                f"Item {item.id} runs, but a crash of its process would not be counted", error, item
            )
        attempt.number = row.attempt + 1
        if not self._local.start(item, attempt):
            self._session.process_lock.end_run(item.id)
            item._release_arguments()
            return False
        began = partial(
            statements.start, item_id=item.id, fence=row.fence, now=attempt.started or time.time()
        )
        self._writer.write_later(began, sync=False)
        return True

    def run_again(self, item: WorkItem[Any], attempt: Attempt, error: BaseException, delay: float) -> bool:
        assert isinstance(item, DurableItem)
        assert item.row is not None
        self._run_is_over(item, attempt)
        now = time.time()
        text = error_as_data(error, self._uploads.max_bytes)
        step = partial(_release, _claim_of(item.row), now=now, due=now + delay, error=text)
        self._writer.write_later(step, partial(self._retried, contextvars.copy_context(), item, error, delay))
        return True

    def finish(self, item: WorkItem[Any], attempt: Attempt, outcome: Outcome) -> None:
        """Write the outcome of a run to the journal, and announce it once it is there."""
        assert isinstance(item, DurableItem)
        assert item.row is not None
        self._run_is_over(item, attempt)
        if outcome[0] is Status.INTERRUPTED:  # the host stopped, so the run does not count
            if outcome[2] is not None:  # else no child process could be had, and the run had not begun
                self.events.runs_again(item)
            release = partial(_release, _claim_of(item.row), now=time.time(), charged=False)
            self._writer.write_later(release, partial(self._left, item))
            return
        try:
            step = self._end_step(item.row, outcome)
        except Exception as error:  # an error of ours, because foreign errors are always converted
            add_note(error, f"item {item.id} ({item.task_name}) had {outcome[0]}")
            outcome = Status.FAILED, None, error
            step = self._end_step(item.row, outcome)
        tell = partial(self._tell_end_apart, contextvars.copy_context(), item, attempt, outcome)
        self._writer.write_later(step, tell)

    def _run_is_over(self, item: DurableItem[Any], attempt: Attempt) -> None:
        self._backlog.note_run(item._task.executor, time.time() - (attempt.started or time.time()))
        if attempt.progress is not None:  # the last progress, which the throttle may have held back
            self._report(item, item.row)

    def _end_step(self, row: ItemRow, outcome: Outcome) -> Callable[..., Any]:
        status, value, error = outcome
        result = result_as_data(value, self._uploads.max_bytes) if status is Status.SUCCEEDED else None
        failed = None if error is None else error_as_data(error, self._uploads.max_bytes)
        return partial(_finish, _claim_of(row), status=status, result=result, error=failed, now=time.time())

    # The part of a host that handles use.

    def source_of(self, item: WorkItem[Any]) -> CancellationSource:
        return self._local.source_of(item)

    def look(self, item_id: str) -> ItemRow | None:
        """Return the item's row in the journal, or None. Raises JournalError."""
        return self._session.read_row(item_id)

    def read_attempt(self, row: ItemRow) -> Attempt:
        """Return the last attempt, as far as the journal knows it."""
        return attempt_of(row)

    def report(self, item: DurableItem[Any]) -> None:
        """Write the item's progress to the journal, for other processes."""
        item.throttle(self.timers, _REPORT_EVERY).call(partial(self._report, item, item.row))

    def cancel(self, item: WorkItem[Any]) -> bool:
        """Withdraw a queued item, or ask a running one to end, in whichever process it is."""
        assert isinstance(item, DurableItem)
        request = partial(statements.request_cancel, item_id=item.id, now=time.time())
        if item.here:
            answer = None
            # If this process dies, the next owner knows of the request; otherwise this process does.
            with suppress(JournalError):
                answer = self._writer.write(request)
            # The maintenance thread may have seen the request already.
            return self.cancel_here(item) or (answer is not None and item.status is Status.CANCELLED)
        answer = self._writer.write(request)
        if answer == "asked":
            self._session.wake_all()
        elif answer == "cancelled" and (row := self.look(item.id)) is not None:
            self._session.announce_end(item, row)
        return answer is not None

    def want(self, item: DurableItem[Any]) -> None:
        """Have this process claim an item that one of its running items waits for, if it can run it."""
        if item._task.executor in self._session.executors:
            self._backlog.want(item.id)

    def cancel_here(self, item: DurableItem[Any]) -> bool:
        """Withdraw an item that is queued in this process, or ask an item to end that runs here."""
        asked = self._local.cancel(item)
        if asked and item.status is Status.CANCELLED:
            self.end_unrun(item)
        return asked

    # Ways for items to leave this process without a run.

    def give_back(self, item: DurableItem[Any], due: float | None = None) -> None:
        """Leave an item that has not started to all processes, also to later ones; at once, or when due."""
        self._release_unrun(item, due)

    def let_wait(self, item: DurableItem[Any]) -> None:
        """Leave an item that has not started to all processes, because its task or executor is paused."""
        if self._local.let_go(item):
            assert item.row is not None
            step = partial(_release, _claim_of(item.row), now=time.time())
            self._writer.write_later(step, partial(self._leave_paused, item), sync=False)

    def end_unrun(self, item: WorkItem[Any]) -> None:
        """Record that an item was cancelled before it ran."""
        assert isinstance(item, DurableItem)
        assert item.row is not None
        step = partial(_cancel, item_id=item.id, fence=item.row.fence, now=time.time())
        self._writer.write_later(step, partial(self._forget_uploads, item.id))

    def _forget_uploads(self, item_id: str, is_known: bool) -> None:
        if not is_known:  # otherwise the item may be retried
            self._uploads.forget(item_id)

    def put_off(self, item: WorkItem[Any], seconds: float) -> None:
        """Leave an item to all processes that cannot be started just now; that is no attempt."""
        assert isinstance(item, DurableItem)
        if self._local.let_go(item):
            self._release_unrun(item, due=time.time() + seconds)

    def _release_unrun(self, item: DurableItem[Any], due: float | None) -> None:
        assert item.row is not None
        step = partial(_release, _claim_of(item.row), now=time.time(), due=due)
        self._writer.write_later(step, partial(self._leave, item))

    def _park(self, item: DurableItem[Any], reason: str) -> None:
        """End an item that cannot be run as failed, until an operator retries it."""
        assert item.row is not None
        why = parked_error(item.id, item.task_name, reason)
        if self._local.withdraw(item, (Status.FAILED, None, why)):
            step = partial(
                statements.park, item_id=item.id, fence=item.row.fence, reason=reason, now=time.time()
            )
            self._writer.write_later(step)

    def _report(self, item: DurableItem[Any], row: ItemRow | None) -> None:
        progress = None if item._attempt is None else item._attempt.progress
        if progress is None or row is None or not item.here or item.row is not row:
            return  # a late report of a run that is over
        text = progress_as_data(progress, self._uploads.max_bytes)
        step = partial(statements.report, item_id=item.id, fence=row.fence, progress=text)
        self._writer.write_later(step, sync=False)

    # Callbacks, called when the journal has the step on disk.

    def _tell_end_apart(
        self,
        context: contextvars.Context,
        item: DurableItem[Any],
        attempt: Attempt,
        outcome: Outcome,
        is_mine: bool,
    ) -> None:
        """Announce an end in its item's context (a Sentry scope, a request's id).

        Receivers may take long, so another thread announces the end: receivers delay no other item's end.
        """
        tell = partial(context.run, partial(self._ended, item, attempt, outcome, is_mine))
        if signals.item_finished.receivers:
            self._backlog.note_end(item._task.executor, item.id, is_told=False)
            callbacks.threads.call(
                tell, partial(self.log_error, f"The end of item {item.id} could not be announced")
            )
        else:
            tell()

    def _ended(self, item: DurableItem[Any], attempt: Attempt, outcome: Outcome, is_mine: bool) -> None:
        try:
            self._announce(item, attempt, outcome, is_mine)
        finally:
            self._backlog.note_end(item._task.executor, item.id, is_told=True)

    def _announce(self, item: DurableItem[Any], attempt: Attempt, outcome: Outcome, is_mine: bool) -> None:
        if is_mine:
            self._session.process_lock.end_run(item.id)
            self._local.finish(item, attempt, outcome)
            if outcome[0] is Status.SUCCEEDED and item.row is not None and item.row.uploads:
                # An item that has not succeeded may be retried, and needs its uploads.
                self._uploads.forget(item.id)
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
        else:  # the item's end was requested before
            let_frames_go(error)
        self._left(item, ended)

    def _left(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        self._session.process_lock.end_run(item.id)
        item._release_arguments()
        self._local.let_go(item, running=True)
        self._leave(item, ended)

    def _leave(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        """Announce that the item is free again, or has ended instead."""
        item.leave()
        if ended is None:
            self._session.wake_all()
        else:
            self._session.announce_end(item, ended)

    def _leave_paused(self, item: DurableItem[Any], ended: ItemRow | None) -> None:
        """Announce that the item has left, or has ended instead. No process has to look for the item now."""
        assert item.row is not None
        if ended is not None or not self._pauses.holds(item.row.task, item.row.executor):
            self._leave(item, ended)
        else:
            item.leave()


def _claim_of(row: ItemRow) -> tuple[str, int]:
    """Return the key of this claim of an item: after a later claim, writes under it change nothing."""
    return row.id, row.fence


def _release(claim: tuple[str, int], db: sqlite3.Connection, **values: Any) -> ItemRow | None:
    return statements.release(db, *claim, **values)


def _finish(claim: tuple[str, int], db: sqlite3.Connection, **values: Any) -> bool:
    return statements.finish(db, *claim, **values)


def _cancel(db: sqlite3.Connection, item_id: str, fence: int, now: float) -> bool:
    """Cancel an item; return whether the journal knows the item at all."""
    statements.finish(db, item_id, fence, Status.CANCELLED, now)
    return queries.get(db, item_id) is not None
