"""Snapshots of the records of items in a Celery cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask_background.core.status import Status
from flask_background.monitoring.secrets import without_secrets
from flask_background.monitoring.snapshots import ItemSnapshot, RunSnapshot
from flask_background.monitoring.values import (
    EPOCH,
    LONGEST_ERROR,
    between,
    line,
    max_attempts,
    moment,
    progress_from,
)
from flask_background.payload.outcomes import error_and_trace

if TYPE_CHECKING:
    from flask_background.celery.records.record import Record
    from flask_background.durable.journal.conditions import Conditions

#: The executor of these items, as far as pages are concerned.
EXECUTOR = "celery"


def selects(conditions: Conditions, status: Status | None, record: Record) -> bool:
    """Return whether an item fulfils all conditions. Keys are not on record as they were given."""
    return (
        status in (None, record.status)
        and conditions.key is None
        and conditions.fit(record.task, EXECUTOR, None, record.enqueued, record.finished)
        and conditions.mentioned(record.description, record.reason, record.error)
    )


def snapshot(item_id: str, record: Record, *, is_full: bool = False) -> ItemSnapshot:
    """Return an item, with its traceback, state and last run if ``is_full``."""
    now = time.time()
    error, trace = (record.reason, None) if record.error is None else error_and_trace(record.error)
    shown = None if error is None else line(error, LONGEST_ERROR)
    due = record.enqueued if record.due is None else record.due
    has_run = record.started is not None and record.status is not Status.QUEUED
    until = record.started if has_run else now if record.finished is None else record.finished
    ended = now if record.finished is None else record.finished
    run = RunSnapshot(
        attempt=record.attempt,
        how=str(record.status),
        started_at=moment(record.started),
        finished_at=moment(record.finished),
        error=shown,
        traceback=trace,
    )
    return ItemSnapshot(
        id=item_id,
        task=record.task,
        status=record.status,
        executor=EXECUTOR,
        place="celery",
        enqueued_at=moment(record.enqueued) or EPOCH,
        description=None if record.description is None else line(record.description),
        attempt=record.attempt,
        max_attempts=max_attempts(record.options),
        crashes=record.crashes,
        is_cancel_requested=bool(record.cancel),
        due_at=moment(due),
        started_at=moment(record.started),
        finished_at=moment(record.finished),
        wait=between(due, until),
        duration=between(record.started, ended) if has_run else None,
        progress=progress_from(record.progress),
        error=shown,
        traceback=trace if is_full else None,
        state=_state_of(record) if is_full else {},
        runs=(run,) if is_full and has_run else (),
    )


def _state_of(record: Record) -> dict[str, object]:
    try:
        state = record.request_state()
    except Exception:  # the record can hold anything
        return {}
    return {} if state is None else without_secrets(state)
