"""A durable item as a row of the journal, and the conversions between items and rows."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_background.core.request_state import NO_REQUEST
from flask_background.core.status import Attempt, Status
from flask_background.errors import ItemCancelledError
from flask_background.payload import data
from flask_background.payload.outcomes import error_of, parked_error, progress_of, result_of

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.core.request_state import RequestState


class ItemRow(NamedTuple):
    """One row. Times are ``time.time()``.

    The journal does not read ``options``, ``payload``, ``state``, ``progress``, ``result`` and ``error``.
    """

    id: str
    task: str
    executor: str
    options: str
    payload: str
    status: Status
    max_crashes: int
    due: float
    enqueued: float
    uploads: bool = False
    state: str | None = None
    key: str | None = None
    #: The process that has claimed the item, and how often the item was claimed.
    owner: str | None = None
    fence: int = 0
    #: How many runs of the item have begun, and how many processes have died during one.
    attempt: int = 0
    crashes: int = 0
    cancel: bool = False
    started: float | None = None
    finished: float | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None
    #: Why the item was parked.
    reason: str | None = None
    #: The app's short text about the item.
    description: str | None = None


COLUMNS = ItemRow._fields


def timed_id(item_id: str, enqueued: float) -> str:
    """Return an id in the order of time, so that items enqueued together lie together in the index of ids."""
    return _time_of_id(enqueued) + item_id[8:]


def first_id_after(now: float) -> str:
    """Return a text that is above the ids of all items enqueued by now (``time.time()``)."""
    return f"{_time_of_id(now)}~"


def _time_of_id(seconds: float) -> str:
    # In sixteenths of a second; the numbers begin anew every eight years.
    return f"{int(seconds * 16) & 0xFFFF_FFFF:08x}"


def make_row(
    item: WorkItem[Any], task: Any, *, payload: str, uploads: bool, due: float, owner: str | None
) -> ItemRow:
    """Return the row of a new item. ``owner``: the process that claims the item by entering it."""
    options = task.options
    return ItemRow(
        id=item.id,
        task=task.name,
        executor=task.executor,
        options=_options_text(
            options.timeout, options.max_attempts, None if callable(options.backoff) else (options.backoff,)
        ),
        payload=payload,
        uploads=uploads,
        state=None if item.state is NO_REQUEST else data.dump_state(item.state),
        key=options.key,
        status=Status.QUEUED,
        owner=owner,
        fence=0 if owner is None else 1,
        max_crashes=options.max_crashes,
        due=due,
        enqueued=item._enqueued,
        description=item.description,
    )


@lru_cache(maxsize=256)
def _options_text(timeout: float | None, max_attempts: int, backoff: tuple[float | None] | None) -> str:
    """Return the options of a task that its item stores. A backoff function cannot be stored."""
    options = {"timeout": timeout, "max_attempts": max_attempts}
    return json.dumps(options if backoff is None else {**options, "backoff": backoff[0]})


def state_of(row: ItemRow) -> RequestState | None:
    """Return the state of the request that enqueued the item."""
    return None if row.state is None else data.load_state(row.state)


def attempt_of(row: ItemRow) -> Attempt:
    """Return the last attempt, as far as the journal knows it."""
    attempt = Attempt(row.started)
    attempt.number = row.attempt
    attempt.finished = row.finished
    if row.progress is not None:
        attempt.progress = progress_of(row.progress)
    name = f"item {row.id} ({row.task})"
    if row.status is Status.SUCCEEDED and row.result is not None:
        attempt.value, attempt.error = result_of(row.result)
    elif row.status is Status.FAILED and row.error is None:
        attempt.error = parked_error(row.id, row.task, row.reason)
    elif row.status is Status.FAILED and row.error is not None:
        attempt.error = error_of(row.error, name)
    elif row.status is Status.CANCELLED:
        attempt.error = ItemCancelledError(f"{name} was cancelled")
    return attempt
