"""The end of a run whose process has died: its item runs again, or has ended."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from flask_background.core.status import Status
from flask_background.errors import ItemTimeoutError
from flask_background.payload.outcomes import error_as_data

if TYPE_CHECKING:
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.records.base import Records, RunId
    from flask_background.celery.records.record import Record

#: A process that dies this many seconds before Celery kills it for its time was killed for that.
NEARLY = 1.0
# The text of such an error is short.
_MAX_BYTES = 10_000


def settle_lost(
    backend: CeleryBackend, records: Records, run: RunId, now: float, *, is_certain: bool
) -> None:
    """Requeue or end the item, and log that. Raises BrokerError.

    ``now``: the time by the clock that the records have. ``is_certain``: the kernel says that the process is
    dead. Otherwise nothing happens if the run has shown a sign of life meanwhile.
    """
    record = records.read(run.item_id)
    if record is None or record.status is not Status.RUNNING or record.run != run.token:
        return
    settle = partial(records.settle, run, only_if_silent=not is_certain)
    ended = _ended(run.item_id, record, now)
    if ended is not None:
        if settle(ended.status, error=ended.error):
            backend.tell_end(run.item_id, ended._replace(finished=time.time()))
    elif record.stopping:
        if settle(Status.QUEUED, attempt=record.attempt - 1):
            backend.session.events.requeued(run.item_id, record.task, max(0.0, now - record.enqueued))
    # Without full records the broker gives the message out again, and that is counted then.
    elif records.is_full and settle(Status.QUEUED, crashes=record.crashes + 1):
        backend.session.events.run_lost(run.item_id, record.task)


def time_is_up(item_id: str, record: Record, now: float) -> ItemTimeoutError | None:
    """The error of a run that has just died, or was cut, because its limit was reached."""
    limit = record.limit
    if limit is None or now - (record.started or 0.0) < limit - NEARLY:
        return None
    return ItemTimeoutError(
        f"item {item_id} ({record.task}) did not end within {limit:g} s, so its process was killed"
    )


def _ended(item_id: str, record: Record, now: float) -> Record | None:
    """The record of an item that has ended with its run; None if another run follows."""
    if (error := time_is_up(item_id, record, now)) is not None:
        return record._replace(status=Status.FAILED, error=error_as_data(error, _MAX_BYTES))
    return record._replace(status=Status.CANCELLED) if record.cancel else None
