"""Snapshots of the items that only this process's memory has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flask_background.core.odd_errors import text_of, trace_of
from flask_background.core.status import Attempt, Status
from flask_background.core.stop_tally import is_kept
from flask_background.monitoring.secrets import without_secrets
from flask_background.monitoring.snapshots import ItemSnapshot, RunSnapshot
from flask_background.monitoring.values import LONGEST_ERROR, harmless, line, moment
from flask_background.payload.outcomes import described

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.durable.journal.conditions import Conditions
    from flask_background.local.backend import LocalBackend


def items_of(local: LocalBackend) -> Iterator[WorkItem[Any]]:
    """Return the items in flight, and those that ended last, that no journal has."""
    for item in local.items():
        if not is_kept(item):
            yield item


def selects(conditions: Conditions, status: Status | None, item: WorkItem[Any]) -> bool:
    """Return whether an item fulfils all conditions."""
    return (
        status in (None, item._status)
        and conditions.fit(
            item.task_name, item._task.executor, item._task.key, item._enqueued, _finished(item)
        )
        and (conditions.text is None or conditions.mentions(item.description, _error_of(item)))
    )


def snapshot(item: WorkItem[Any], process: str, *, is_full: bool = False) -> ItemSnapshot:
    """Return an item, with its traceback, state and run if ``is_full``."""
    attempt = item._attempt or Attempt()
    status, started, finished, now = item._status, attempt.started, attempt.finished, time.time()
    is_queued = status is Status.QUEUED
    due = item._due
    has_run = started is not None and not is_queued
    until = started if has_run else finished if finished is not None else now
    error = None if attempt.error is None else line(_error_of(item), LONGEST_ERROR)
    trace = trace_of(attempt.error) if is_full and attempt.error is not None else None
    run = RunSnapshot(
        attempt=attempt.number,
        how=str(Status.FAILED if is_queued else status),
        started_at=moment(started),
        finished_at=moment(finished),
        error=error,
        traceback=trace,
    )
    return ItemSnapshot(
        id=item.id,
        task=item.task_name,
        status=status,
        executor=item._task.executor,
        place="memory",
        enqueued_at=item.enqueued_at,
        key=item._task.key,
        description=item.description,
        process=process,
        attempt=0 if started is None else attempt.number,
        max_attempts=item._task.retry.max_attempts,
        is_cancel_requested=item._is_unwanted() and not status.is_final,
        due_at=moment(due),
        started_at=moment(started),
        finished_at=moment(finished),
        wait=None if until is None else max(0.0, until - due),
        duration=max(0.0, (now if finished is None else finished) - started)
        if has_run and started is not None
        else None,
        progress=None if attempt.progress is None else harmless(attempt.progress),
        error=error,
        traceback=trace,
        state=without_secrets(item.state) if is_full else {},
        runs=(run,) if is_full and started is not None else (),
    )


def _finished(item: WorkItem[Any]) -> float | None:
    return item._attempt.finished if item._status.is_final and item._attempt is not None else None


def _error_of(item: WorkItem[Any]) -> str | None:
    error = None if item._attempt is None else item._attempt.error
    if error is None:
        return None
    kind = type(error)
    return described(f"{kind.__module__}.{kind.__qualname__}", text_of(error))
