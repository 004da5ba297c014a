"""One run of an item in a Celery worker: claim it, perform it, put on record what it came to."""

from __future__ import annotations

import time
from typing import Any

from flask_background.celery.records import Changed, Failure
from flask_background.celery.worker.claim import SOON, Claim
from flask_background.celery.worker.running_item import running
from flask_background.celery.worker.shutdown_flag import TERMINATED, hear_term
from flask_background.concurrency import native
from flask_background.core.await_here import await_here
from flask_background.core.item import WorkItem
from flask_background.core.runner import delay_until_next, let_frames_go, perform
from flask_background.core.status import Attempt, Outcome, Status
from flask_background.errors import BrokerError, ItemInterruptedError, ItemTimeoutError
from flask_background.payload.outcomes import error_as_data, result_as_data

# How often the outcome of a run is tried to be put on record, a second apart.
_PATIENCE = 30
# How long a message is kept back that nothing can be done with just now, in seconds.
_PAUSE = 1.0


class Again(Exception):
    """The message goes back to the queue, for this worker or another one."""


class ItemRun(Claim):
    """The way of one message through a worker."""

    def run(self) -> None:
        """From claim to end. Raises Again, or Failure for Celery's own records."""
        try:
            self._run()
        except (BrokerError, Changed) as error:
            native.sleep(_PAUSE)  # or the message would go round and round
            raise Again(str(error)) from error
        except Failure:
            self._let_go()
            raise
        finally:
            if running.get(self._owner.id) is self._owner:
                del running[self._owner.id]
            for upload in self._opened:
                upload.close()
        self._let_go()

    def _run(self) -> None:
        owner = self._owner
        hear_term(self._limit)
        item = self.claim()
        if item is None:
            return
        perform(item, await_here)
        owner.ended.wait()  # a Future that the function returned may end on another thread
        assert owner.outcome is not None
        with owner.lock:
            self._settle(item, owner.outcome)

    def _let_go(self) -> None:
        """Once the item has ended, whoever has ended it."""
        uploads, key = self._envelope.uploads, self._envelope.key
        if self._owner.record.status.is_final:
            self._belongings.let_go(self._owner.id, uploads, key)
            if uploads:
                self._belongings.sweep(self._owner.records)

    # After the run.

    def _settle(self, item: WorkItem[Any], outcome: Outcome) -> None:
        """Put on record what the run has come to; then tell it, or send the item on its way again."""
        owner, run = self._owner, item._attempt
        assert run is not None
        delay = owner.delay
        if _is_terminated(outcome[2]):
            outcome = self._outcome_of_kill(item, run, outcome)
            delay = delay_until_next(item, run, outcome)
        status, value, error = outcome
        run.value, run.error, run.finished = value, error, time.time()
        owner.report(item)
        if status is Status.INTERRUPTED:  # the worker stops, so the run does not count
            self._put_surely(status=Status.QUEUED, attempt=owner.record.attempt - 1)
            owner.events.requeued(item.id, item.task_name, item._age)
            raise Again(str(error))
        failed = None if error is None else error_as_data(error)
        if error is not None and delay is not None:
            due = time.time() + delay
            self._put_surely(status=Status.QUEUED, error=failed, due=due)
            owner.tell_retried(item, error, delay)
            self.send_again(due)
            return
        result = None
        if status is Status.SUCCEEDED:
            result = result_as_data(value, self._part.settings.max_payload)
        self._put_surely(status=status, result=result, error=failed, finished=run.finished)
        item._end(outcome, run)
        item._announce_end()
        owner.events.finished(item, outcome)
        if error is not None:
            let_frames_go(error)
        if status is Status.FAILED:
            raise Failure(str(owner.record.attempt_of(owner.id).error), owner.record.as_data()) from error

    def _outcome_of_kill(self, item: WorkItem[Any], run: Attempt, outcome: Outcome) -> Outcome:
        """What it means that Celery ends this process: the run has lasted too long, or the worker stops."""
        name, error = f"item {self._owner.id} ({self._name})", outcome[2]
        limit = self._limit
        if limit is not None and time.time() - (run.started or 0.0) >= limit - SOON:
            late = ItemTimeoutError(f"{name} did not end within {limit:g} s, so its process was killed")
            late.__cause__ = error
            return Status.FAILED, None, late
        return (
            Status.INTERRUPTED,
            None,
            ItemInterruptedError(f"{name} ended because its worker's process was ended"),
        )

    def _put_surely(self, **fields: Any) -> None:
        """The item has run, so this is not given up at once."""
        for attempt in range(_PATIENCE, -1, -1):
            try:
                self._owner.put(**fields)
                break
            except BrokerError as error:
                if not attempt:
                    raise
                if attempt == _PATIENCE:  # once is enough
                    what = f"What item {self._owner.id} came to cannot be put on record yet"
                    self._owner.log_error(what, error)
            native.sleep(_PAUSE)


def _is_terminated(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and error.code == TERMINATED
