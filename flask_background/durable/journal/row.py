"""A durable item as the journal has it."""

from __future__ import annotations

from typing import NamedTuple

from flask_background.core.status import Status


class ItemRow(NamedTuple):
    """One row. Times are ``time.time()``; ``options``, ``payload``, ``state``, ``progress``, ``result`` and
    ``error`` are text that the journal does not read.
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
    #: The process that has claimed it, and how many claims there have been.
    owner: str | None = None
    fence: int = 0
    #: How many runs there have been, and how many of their processes ended in them.
    attempt: int = 0
    crashes: int = 0
    cancel: bool = False
    started: float | None = None
    finished: float | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None
    #: Why it was parked.
    reason: str | None = None


COLUMNS = ItemRow._fields
