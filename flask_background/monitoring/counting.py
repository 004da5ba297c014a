"""Counts of the journal's items, which are kept for a moment if counting takes long."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from flask_background.concurrency import native
from flask_background.core.status import Status
from flask_background.durable.journal import counts
from flask_background.durable.journal.counting import Counting
from flask_background.monitoring.snapshots import LATE

if TYPE_CHECKING:
    from collections.abc import Collection

    from flask_background.durable.journal.conditions import Conditions
    from flask_background.durable.journal.counts import TaskCounts
    from flask_background.durable.journal.writer import Writer

# Counts that took less than this are never kept, in seconds. Others are kept that many times as long as they
# took, so that counting takes a small part of a process's time, however many items wait.
_QUICK = 0.002
_TIMES = 20.0
# How long one count reads without a break, in which views may read, in seconds.
_CHUNK = 0.01
# So many steps are made however little time there is, so that a count of a small journal is always exact.
_STEPS = 4


class JournalCounts:
    """The counts of one journal, by task."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._kept: dict[str, TaskCounts] = {}
        self._until = 0.0

    def by_task(self, writer: Writer) -> dict[str, TaskCounts]:
        """Return the counts of each task that has items. Raises JournalError."""
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                now = time.time()
                query = partial(counts.task_counts, now=now, late_before=now - LATE)
                self._kept = writer.read(query)
                ended = time.monotonic()
                self._until = ended + _TIMES * (ended - began) if ended - began > _QUICK else 0.0
            return self._kept

    def count(
        self, writer: Writer, conditions: Conditions, statuses: Collection[Status], end: float
    ) -> tuple[int, bool]:
        """Return how many items fulfil the conditions, and whether all were counted.

        The count stops at ``end`` (``time.monotonic()``). Raises JournalError.
        """
        if not conditions.clause()[0]:
            found = sum(
                task.items.get(status, 0)
                for name, task in self.by_task(writer).items()
                if conditions.names(name)
                for status in statuses
            )
            return found, True
        counting = Counting(conditions, statuses)
        is_exact = False
        while not is_exact and (counting.steps < _STEPS or time.monotonic() < end):
            seconds = min(_CHUNK, end - time.monotonic())
            is_exact = writer.read(partial(counting.look, seconds=seconds))
        return counting.count, is_exact
