"""What goes with an item's arguments to the worker that runs it: in the headers of Celery's message."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from flask_background.celery.record import Record
from flask_background.core.status import Status
from flask_background.payload import data

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.durable.journal.outbox import OutboxRow
    from flask_background.task import Task

_HEADER = "flask_background"
# Among the options of an item that waits in the journal: how many it has.
_UPLOADS = "uploads"


class Envelope(NamedTuple):
    """JSON values. Times are ``time.time()``."""

    enqueued: float
    due: float | None
    state: str | None
    traceparent: str | None
    #: As far as ``using`` may have changed them.
    options: dict[str, Any]
    #: What the item has besides: how many uploads, and the key by its name in Redis.
    uploads: int | None = None
    key: str | None = None
    #: Which message this is, once it is one: each has a name of its own, unless it takes another's place.
    message: str = ""

    @classmethod
    def of(
        cls, item: WorkItem[Any], due: float | None, uploads: int | None = None, key: str | None = None
    ) -> Self:
        """What a new item needs."""
        task: Any = item._task
        options = {name: getattr(task.options, name) for name in ("timeout", "max_attempts", "max_crashes")}
        if not callable(task.options.backoff):
            options["backoff"] = task.options.backoff
        state = item.state
        return cls(
            item._enqueued,
            due,
            None if state is None else data.dump_state(state),
            None if state is None else state.traceparent,
            options,
            uploads,
            key,
        )

    @classmethod
    def of_entry(cls, entry: OutboxRow) -> Self:
        """What an item needs that waits in the journal."""
        trace = None if entry.state is None else data.load_state(entry.state).traceparent
        options = json.loads(entry.options)
        uploads = options.pop(_UPLOADS, None)
        return cls(entry.enqueued, entry.due, entry.state, trace, options, uploads)

    def options_text(self) -> str:
        """The options of an item that is to wait in the journal, and how many uploads it has."""
        uploads = {} if self.uploads is None else {_UPLOADS: self.uploads}
        return json.dumps({**self.options, **uploads})

    @classmethod
    def open(cls, headers: Mapping[str, Any]) -> Self:
        """Read what ``headers`` gave."""
        fields = headers[_HEADER]
        return cls(
            fields["enqueued"],
            fields["due"],
            fields["state"],
            headers.get("traceparent"),
            fields["options"],
            fields.get("uploads"),
            fields.get("key"),
            fields["message"],
        )

    def headers(self) -> dict[str, Any]:
        """The message's headers; the trace context is where tracing tools look for it."""
        fields = self._asdict()
        del fields["traceparent"]
        trace = {} if self.traceparent is None else {"traceparent": self.traceparent}
        headers = {_HEADER: fields, **trace}
        self.rename(headers)
        return headers

    def rename(self, headers: dict[str, Any]) -> None:
        """Before it is sent once more: the first one may have arrived."""
        headers[_HEADER]["message"] = self.message or secrets.token_hex(8)

    def record(self, task_name: str) -> Record:
        """The first record of the item."""
        record = Record(task_name, Status.QUEUED, self.enqueued, self.state)
        return record._replace(due=self.due, uploads=self.uploads, key=self.key)

    def task(self, task: Task[..., Any]) -> Task[..., Any]:
        """The task with the options that the item was enqueued with."""
        changed = {
            name: value for name, value in self.options.items() if value != getattr(task.options, name)
        }
        return task.using(**changed) if changed else task

    def seconds_left(self) -> float:
        """How long until it is due, or 0."""
        return 0.0 if self.due is None else max(0.0, self.due - time.time())
