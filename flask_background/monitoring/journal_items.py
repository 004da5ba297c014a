"""Snapshots of the journal's rows. Whatever a row has in its columns, a snapshot can be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flask_background.core.status import Status
from flask_background.durable.journal.ended_runs import EndedRun
from flask_background.durable.journal.row import ItemRow
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
from flask_background.payload import data
from flask_background.payload.outcomes import error_and_trace


def error_of(row: ItemRow | EndedRun) -> tuple[str | None, str | None]:
    """Return an error's line and its traceback."""
    if row.error is not None:
        error, trace = error_and_trace(row.error)
        return line(error, LONGEST_ERROR), trace
    return (None if row.reason is None else line(row.reason, LONGEST_ERROR)), None


def snapshot(row: ItemRow, now: float, *, is_paused: bool = False) -> ItemSnapshot:
    """Return a row as an item without a traceback, state and runs."""
    is_running, is_final = row.status is Status.RUNNING, row.status.is_final
    has_run = row.started is not None and row.status is not Status.QUEUED
    until = row.started if has_run else row.finished if is_final else now
    ended = now if is_running else row.finished
    return ItemSnapshot(
        id=row.id,
        task=row.task,
        status=row.status,
        executor=row.executor,
        place="journal",
        enqueued_at=moment(row.enqueued) or EPOCH,
        key=row.key,
        description=None if row.description is None else line(row.description),
        process=row.owner,
        attempt=row.attempt,
        max_attempts=max_attempts(row.options),
        crashes=row.crashes,
        is_cancel_requested=bool(row.cancel),
        is_paused=is_paused and row.status is Status.QUEUED,
        due_at=moment(row.due),
        started_at=moment(row.started),
        finished_at=moment(row.finished),
        wait=between(row.due, until),
        duration=between(row.started, ended) if has_run else None,
        progress=progress_from(row.progress),
        error=error_of(row)[0],
    )


def state_of(row: ItemRow) -> dict[str, object]:
    """Return what is shown of the request that enqueued the item."""
    if row.state is None:
        return {}
    try:
        return without_secrets(data.load_state(row.state))
    except Exception:  # the column can hold anything
        return {}


def runs_of(row: ItemRow, earlier: list[EndedRun], now: float) -> tuple[RunSnapshot, ...]:
    """Return all runs of an item, the oldest first."""
    runs = []
    for run in earlier:
        error, trace = error_of(run)
        runs.append(
            RunSnapshot(
                attempt=run.attempt,
                how=run.how,
                started_at=moment(run.started),
                finished_at=moment(run.finished),
                error=error,
                traceback=trace,
            )
        )
    is_known = bool(earlier) and earlier[-1].started in (row.started, None)
    if row.started is not None and row.status is not Status.QUEUED and not is_known:
        error, trace = error_of(row)
        runs.append(
            RunSnapshot(
                attempt=row.attempt,
                how=str(row.status),
                started_at=moment(row.started),
                finished_at=moment(row.finished),
                error=error,
                traceback=trace,
            )
        )
    return tuple(runs)


def full_snapshot(
    row: ItemRow, earlier: list[EndedRun], now: float, is_paused: Callable[[str, str], bool] | None = None
) -> ItemSnapshot:
    """Return a row as an item with its traceback, state and runs."""
    paused = is_paused is not None and is_paused(row.task, row.executor)
    return replace(
        snapshot(row, now, is_paused=paused),
        traceback=error_of(row)[1],
        state=state_of(row),
        runs=runs_of(row, earlier, now),
    )
