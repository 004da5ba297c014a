"""What is known of an item that runs on other machines: one record, which all of them can read and write.

A record is JSON. Its result, error, progress and state are text, as a journal would have them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from flask_background.core.request_state import RequestState
from flask_background.core.status import Attempt, Status
from flask_background.errors import ItemCancelledError, ItemFailedError
from flask_background.payload import data
from flask_background.payload.outcomes import error_of, progress_of, result_of


class Record(NamedTuple):
    """Where an item stands. Times are ``time.time()``."""

    task: str
    status: Status
    enqueued: float
    state: str | None = None
    #: How many runs have begun, and how many of those never ended.
    attempt: int = 0
    crashes: int = 0
    started: float | None = None
    finished: float | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None
    #: Why an item that has not failed by itself will not run.
    reason: str | None = None
    #: The message that has brought about its last run: there may be others, and none is to run beside it.
    message: str | None = None
    #: When the next attempt may start.
    due: float | None = None
    #: What it has besides: how many uploads, and the key by its name there.
    uploads: int | None = None
    key: str | None = None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Read what ``as_data`` gave, of this version or a later one."""
        known = {name: value for name, value in fields.items() if name in cls._fields}
        return cls(**{**known, "status": Status(fields["status"])})

    def as_data(self) -> dict[str, Any]:
        """JSON values; what is None is left out."""
        return {name: value for name, value in self._asdict().items() if value is not None}

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
