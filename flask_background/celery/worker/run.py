"""One message in a Celery worker: claim its item, run it, put the outcome on record.

A message may come twice: after a worker's death, because an acknowledgement was lost, or because the
reconciler has sent it again. The record decides: only a queued item is claimed, so an item that runs or has
ended is left alone.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, Reject

from flask_background.celery.records.base import LOST_AFTER, RunId
from flask_background.celery.records.record import Record
from flask_background.celery.worker.lost import NEARLY, time_is_up
from flask_background.celery.worker.running_item import RunningItem, StopReachedError
from flask_background.concurrency import native
from flask_background.core.await_here import await_here
from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import let_frames_go
from flask_background.core.runner import delay_until_next, perform
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.errors import BrokerError, ItemInterruptedError
from flask_background.payload.calls import unpack_call
from flask_background.payload.outcomes import error_as_data, error_of, result_as_data

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.worker.run_table import RunTable

# How often the outcome of a run is tried to be put on record, a second apart.
_PATIENCE = 30
# How long a message is kept back that nothing can be done with just now, in seconds.
_PAUSE = 1.0
# How long a message that has come again waits for the end of the first run's life, and between two looks.
_UNTIL_LOST, _LOOK = LOST_AFTER + 1.5, 0.25
# When an item is tried again whose uploads cannot be read just now, in seconds.
_PUT_OFF = 5.0
# What TERM raises in a child of Celery's: SystemExit with this code.
_TERMINATED = -(256 - signal.SIGTERM)

_unknown: set[str] = set()


class Failure(Exception):
    """The error that Celery gets for a failed item; the record and the app's log have the item's own."""


class _UnreadableError(Exception):
    """An upload cannot be read; the text says why."""


class _StoreAwayError(Exception):
    """An upload cannot be read now, and perhaps later."""


class ItemRun:
    """The way of one message through a worker."""

    def __init__(
        self, backend: CeleryBackend, table: RunTable, item_id: str, limit: float | None, *, is_second: bool
    ) -> None:
        """``limit``: after how many seconds Celery kills the run's process.

        ``is_second``: the broker has given the message out before, to a worker that may be dead.
        """
        self._backend = backend
        self._session = backend.session
        self._events = backend.session.events
        self._records = backend.session.records
        self._table = table
        self._run = RunId(item_id, secrets.token_hex(8))
        self._limit = limit
        self._is_second = is_second
        self._opened: list[FileStorage] = []

    def run(self, task_name: str, sent: Record | None) -> None:
        """From claim to end.

        Raises Failure if the item has failed, Ignore if it has not ended, Reject if the message is to come
        again.
        """
        if self._table.stops_at() is not None:
            raise Reject("the worker stops", requeue=True)
        task = self._session.registry.tasks.get(task_name)
        if task is None:
            self._put_off_unknown(task_name, sent)
        began = time.monotonic()
        limit = None if self._limit is None else began + self._limit - NEARLY
        row = self._table.begin(self._run, self._session.home)
        try:
            record = self._claim(sent)
            if record is None:
                self._leave_alone(sent)
            else:
                self._run_claimed(record, task, row, limit)
        except BrokerError as error:
            native.sleep(_PAUSE)  # or the message would go round and round
            raise Reject(str(error), requeue=True) from error
        finally:
            self._table.end(row)
            for upload in self._opened:
                upload.close()

    def _claim(self, sent: Record | None) -> Record | None:
        """Claim the item. A message that has come again waits until it is known whether the run lives.

        RabbitMQ gives it out before all others; the one that the reconciler sends then is behind them.
        """
        end = time.monotonic() + _UNTIL_LOST
        while (record := self._records.claim(self._run, self._limit, sent)) is None and self._is_second:
            known = self._records.read(self._run.item_id)
            is_running = known is not None and known.status is Status.RUNNING
            if not is_running or time.monotonic() > end or self._table.stops_at() is not None:
                break
            native.sleep(_LOOK)
        return record

    def _leave_alone(self, sent: Record | None) -> NoReturn:
        """The item is not to run now. Where no reconciler does it, its message follows when it is due."""
        if sent is not None:
            record = self._records.read(self._run.item_id) or sent
            if record.status is Status.QUEUED and record.due is not None:
                self._session.publish(self._run.item_id, sent._replace(due=record.due))
        raise Ignore

    def _put_off_unknown(self, task_name: str, sent: Record | None) -> NoReturn:
        """Leave an item to a worker with newer code; its arguments do not appear anywhere."""
        if task_name not in _unknown:
            _unknown.add(task_name)
            self._events.unknown_task(task_name)
        self._records.defer(self._run.item_id)
        if sent is not None:
            self._leave_alone(sent)
        raise Ignore

    def _run_claimed(self, record: Record, task: Any, row: int, limit: float | None) -> None:
        task = record.task_of(task)
        if record.crashes >= task.options.max_crashes:
            self._park(record, f"its process died under it {record.crashes} times")
        try:
            args, kwargs, self._opened = unpack_call(record.payload or "", self._open_upload)
            task.check_call(*args, **kwargs)
        except _StoreAwayError as error:
            what = f"Item {self._run.item_id} ({record.task}) is tried again in {_PUT_OFF:g} s"
            self._events.log_error(what, error, self._run.item_id)
            self._again(record, time.time() + _PUT_OFF, None, attempt=record.attempt - 1)
        except _UnreadableError as error:
            self._park(record, str(error))
        except Exception as error:
            self._park(record, f"its arguments do not fit any more: {error}")
        keeper = RunningItem(self._session, self._table, row, self._run, record.attempt, limit)
        item: WorkItem[Any] = WorkItem(task, args, kwargs, record.request_state(), keeper)
        item._identify(self._run.item_id, record.enqueued)
        item._describe(record.description)
        item._set_source(keeper.source_of(item))
        try:
            with keeper.heeding_term():
                perform(item, await_here)
                keeper.wait()
        except StopReachedError as error:  # a moment before or after the function
            keeper.finish(item, item._attempt or Attempt(), (Status.FAILED, None, error))
        self._settle(record, item, keeper, keeper.wait())

    def _open_upload(self, number: int) -> IO[bytes]:
        uploads = self._session.uploads
        if uploads is None:
            raise _UnreadableError("it has an upload, and BACKGROUND_UPLOADS is not set in this worker")
        try:
            return uploads.open(self._run.item_id, number)
        except (FileNotFoundError, PermissionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise _UnreadableError(
                f"its upload could not be read in {uploads.store.shown}: {what}"
            ) from error
        except Exception as error:  # a store that cannot be reached: that is not the item's fault
            raise _StoreAwayError from error

    # After the run.

    def _settle(self, record: Record, item: WorkItem[Any], keeper: RunningItem, reported: Outcome) -> None:
        """Put the outcome on record; then announce it. ``reported``: as the run itself sees it."""
        run = item._attempt
        assert run is not None
        outcome, delay = self._meaning(record, reported), keeper.delay
        if outcome is not reported:
            delay = delay_until_next(item, run, outcome)
        status, value, error = outcome
        news = keeper.news(item)
        progress = {} if news is None else {"progress": news}
        if status is Status.INTERRUPTED:  # the worker stops, so the run does not count
            tell = self._events.requeued
            requeued = partial(keeper.context.run, tell, item.id, item.task_name, item._age)
            self._again(record, None, requeued, attempt=record.attempt - 1)
        max_bytes = self._session.settings.max_payload
        failed = None if error is None else error_as_data(error, max_bytes)
        if error is not None and delay is not None:
            retried = partial(keeper.context.run, keeper.tell_retried, item, error, delay)
            self._again(record, time.time() + delay, retried, error=failed, **progress)
        fields: dict[str, Any] = {"error": failed, **progress}
        if status is Status.SUCCEEDED:
            fields["result"] = result_as_data(value, max_bytes)
        if not self._put_on_record(status, **fields):
            keeper.context.run(self._events.late, item, outcome)
            raise Ignore
        item._end(outcome, run)
        item._announce_end()
        if self._session.uploads is not None and record.uploads:
            self._session.uploads.discard(item.id, record.uploads)
            self._session.uploads.sweep(self._session.is_over)
        keeper.context.run(self._events.finished, item, outcome)
        if error is not None:
            let_frames_go(error)
        if status is Status.FAILED and failed is not None:
            raise Failure(str(error_of(failed, f"item {item.id} ({record.task})"))) from error

    def _meaning(self, record: Record, outcome: Outcome) -> Outcome:
        """The outcome of a run, also of one that was cut because its time was up or the worker stops."""
        error = outcome[2]
        is_ended = isinstance(error, SystemExit) and error.code == _TERMINATED
        if not (is_ended or isinstance(error, StopReachedError)):
            return outcome
        if (late := time_is_up(self._run.item_id, record, time.time())) is not None:
            return Status.FAILED, None, late
        name = f"item {self._run.item_id} ({record.task})"
        stopped = ItemInterruptedError(f"{name} ended because its worker's process was ended")
        return Status.INTERRUPTED, None, stopped

    def _again(
        self, record: Record, due: float | None, tell: Callable[[], None] | None, **fields: Any
    ) -> NoReturn:
        """Another run follows; ``tell`` says so. Raises Ignore, or Reject: the message comes again."""
        if self._put_on_record(Status.QUEUED, due, **fields) and tell is not None:
            tell()
        if self._records.is_full:
            raise Ignore
        if due is None:
            raise Reject("the worker stops", requeue=True)
        self._session.publish(self._run.item_id, record._replace(due=due))
        raise Ignore

    def _park(self, record: Record, reason: str) -> NoReturn:
        """End an item that cannot run. Raises Failure, or Ignore."""
        ended = record._replace(status=Status.FAILED, reason=reason, attempt=record.attempt - 1)
        fields: dict[str, Any] = {"reason": reason, "attempt": ended.attempt}
        if not self._put_on_record(Status.FAILED, **fields):
            raise Ignore
        self._backend.tell_end(self._run.item_id, ended._replace(finished=time.time()))
        raise Failure(str(ended.attempt_of(self._run.item_id).error))

    def _put_on_record(self, status: Status, due: float | None = None, **fields: Any) -> bool:
        """Settle the run. Tries for half a minute: the item has run, so its outcome should not be lost."""
        tries = 0
        while True:
            try:
                return self._records.settle(self._run, status, due, **fields)
            except BrokerError as error:
                if tries == _PATIENCE:
                    raise
                if not tries:  # one line is enough
                    what = f"What item {self._run.item_id} came to cannot be put on record yet"
                    self._events.log_error(what, error, self._run.item_id)
            tries += 1
            native.sleep(_PAUSE)
