"""The record of one item: where it stands, and all that a worker needs to run it.

A record is stored as a flat map of strings. Its arguments, state, result, error and progress are texts that
the storage does not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.core.status import Attempt, Status
from flask_background.durable.journal.outbox import OutboxRow
from flask_background.errors import ItemCancelledError, ItemFailedError
from flask_background.payload import data
from flask_background.payload.outcomes import error_of, progress_of, result_of

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.core.item import WorkItem

# Among the options of an item that waits in the journal: how many uploads it has.
_UPLOADS = "uploads"


class Record(NamedTuple):
    """Where an item stands. Times are ``time.time()``."""

    task: str
    status: Status
    enqueued: float
    #: The task's options that ``using`` may have changed, as JSON.
    options: str = "{}"
    #: The arguments; None where they are not asked for, and once the item has ended.
    payload: str | None = None
    state: str | None = None
    traceparent: str | None = None
    #: The name of the app that enqueued it, and of the queue that its message goes through.
    home: str = ""
    queue: str = ""
    #: How many runs have begun, and in how many of them their process died.
    attempt: int = 0
    crashes: int = 0
    started: float | None = None
    finished: float | None = None
    #: When the next run may start, if not at once.
    due: float | None = None
    #: The token of the last run, and after how many seconds Celery kills that run's process.
    run: str | None = None
    limit: float | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None
    #: Why an item that has not failed by itself will not run.
    reason: str | None = None
    uploads: int = 0
    #: Its key, by the name that stands for it in Redis.
    key: str | None = None
    #: Somebody wants the running item to end.
    cancel: int = 0
    #: Its run's worker is stopping.
    stopping: int = 0
    #: The item's description.
    description: str | None = None

    @classmethod
    def of_item(
        cls, item: WorkItem[Any], due: float | None, payload: str, uploads: int, key: str | None
    ) -> Self:
        """The first record of a new item."""
        task = item._task
        options = {name: getattr(task.options, name) for name in ("timeout", "max_attempts", "max_crashes")}
        if not callable(task.options.backoff):
            options["backoff"] = task.options.backoff
        state = item.state
        return cls(
            task.name,
            Status.QUEUED,
            item._enqueued,
            json.dumps(options),
            payload,
            None if state is NO_REQUEST else data.dump_state(state),
            state.traceparent,
            due=due,
            uploads=uploads,
            key=key,
            description=item.description,
        )

    @classmethod
    def of_row(cls, row: OutboxRow) -> Self:
        """The first record of an item that waits in the journal."""
        options = json.loads(row.options)
        uploads = options.pop(_UPLOADS, 0)
        return cls(
            row.task,
            row.status,
            row.enqueued,
            json.dumps(options),
            row.payload,
            row.state,
            None if row.state is None else data.load_state(row.state).traceparent,
            due=row.due,
            finished=row.finished,
            reason=row.reason,
            uploads=uploads,
            description=row.description,
        )

    def as_row(self, item_id: str) -> OutboxRow:
        """The row of a new item that waits in the journal.

        Its uploads lie where those of all items for Celery do, not beside the journal.
        """
        options = json.dumps({**json.loads(self.options), _UPLOADS: self.uploads})
        payload = self.payload or ""
        return OutboxRow(
            item_id,
            self.task,
            payload,
            options,
            self.state,
            self.due,
            self.enqueued,
            description=self.description,
        )

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read what ``as_fields`` gave, of this version or a later one."""
        known = {name: _READ.get(name, str)(text) for name, text in fields.items() if name in cls._fields}
        return cls(**known)

    def as_fields(self) -> dict[str, str]:
        """Strings by their names; what is None or 0 is left out."""
        return {name: str(value) for name, value in self._asdict().items() if value not in (None, 0, "")}

    def task_of(self, task: Callee) -> Callee:
        """The task with the options that the item was enqueued with."""
        changed = {
            name: value
            for name, value in json.loads(self.options).items()
            if value != getattr(task.options, name)
        }
        return task.using(**changed) if changed else task

    def request_state(self) -> RequestState | None:
        """The state of the request that enqueued it."""
        return None if self.state is None else data.load_state(self.state)

    def attempt_of(self, item_id: str) -> Attempt:
        """The last attempt, as far as the record knows it."""
        attempt = Attempt(self.started)
        attempt.number = self.attempt
        attempt.finished = self.finished
        if self.progress is not None:
            attempt.progress = progress_of(self.progress)
        name = f"item {item_id} ({self.task})"
        if self.status is Status.SUCCEEDED and self.result is not None:
            attempt.value, attempt.error = result_of(self.result)
        elif self.status is Status.CANCELLED:
            attempt.error = ItemCancelledError(f"{name} was {self.reason or 'cancelled'}")
        elif self.status is Status.FAILED:
            attempt.error = (
                ItemFailedError(f"{name} was parked: {self.reason}")
                if self.error is None
                else error_of(self.error, name)
            )
        return attempt


# How the fields are read that are no text.
_READ: dict[str, Any] = {
    "status": Status,
    **dict.fromkeys(("attempt", "crashes", "uploads", "cancel", "stopping"), int),
    **dict.fromkeys(("enqueued", "started", "finished", "due", "limit"), float),
}
