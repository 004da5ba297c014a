"""Where an item stands, what may follow what, and what one run has come to."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple


class Status(StrEnum):
    """Where an item stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    next: tuple[Status, ...]
    """What may follow."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and this is on everybody's way

    @property
    def is_final(self) -> bool:
        """Whether an item that stands here has ended."""
        return self is not Status.QUEUED and self is not Status.RUNNING


# The one table of what may follow what. Interrupted is what goes on record while the host may kill the
# process at any moment; if the process lives on, so does the item, and the record is corrected.
_ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
# A run that fails may be followed by another one: the item is queued again.
Status.QUEUED.next = (Status.RUNNING, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED)
Status.RUNNING.next = (*_ENDS, Status.INTERRUPTED, Status.QUEUED)
Status.INTERRUPTED.next = (Status.RUNNING, *_ENDS)
for _end in _ENDS:
    _end.next = ()


class Progress(NamedTuple):
    """How far an item says that it is: ``done`` of ``total`` (None: unknown), and a message or None."""

    done: float
    total: float | None = None
    message: str | None = None


Outcome = tuple[Status, Any, BaseException | None]
"""What a run comes to: the status, what was returned, and what was raised."""


class Attempt:
    """One run of an item: when, how far it says that it is, what came of it. Times are ``time.time()``."""

    finished: float | None = None
    progress: Progress | None = None
    value: Any = None
    error: BaseException | None = None
    abort: Callable[[], None] | None = None
    number: int = 1

    def __init__(self, started: float | None = None) -> None:
        self.started = started
