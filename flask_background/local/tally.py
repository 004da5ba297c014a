"""The tally of the items of this process's memory that have ended: how many, and how long they took.

Nothing is done when an item ends: items are counted together, when a page of ended items is full or somebody
looks. If very many end, the waits and run times of those that succeeded are measured on a sample.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flask_background.concurrency import native
from flask_background.core.buckets import BUCKETS, NO_RUN
from flask_background.core.status import SUCCEEDED
from flask_background.core.stop_tally import is_kept

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem

#: The minute of the end, the task, the status, and the numbers of the buckets of the wait and the run.
TallyKey = tuple[int, str, str, int, int]
#: How many items, and the sums of their waits and runs in seconds.
Totals = tuple[int, float, float]

# Of so many items that end together, waits and run times are measured on one of several.
_MANY = 250
# About how many of them are measured.
_SAMPLE = 100
# How long counts are kept that nobody takes, in minutes.
_KEPT_MINUTES = 2 * 24 * 60


class MemoryTally:
    """Counts ended items, until somebody takes the counts."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._totals: dict[TallyKey, Totals] = {}

    def count(self, items: Sequence[WorkItem[Any]]) -> None:
        """Add items, of which those that a journal has are left out."""
        own = [item for item in items if not is_kept(item)]
        weights = [1] * len(own)
        if len(own) > _MANY:
            own, weights = _sample(own)
        found: dict[TallyKey, Totals] = {}
        for item, weight in zip(own, weights, strict=True):
            key, wait, run = _measure(item)
            count, waits, runs = found.get(key, _NONE)
            found[key] = count + weight, waits + weight * wait, runs + weight * run
        self.add(found)

    def add(self, totals: dict[TallyKey, Totals]) -> None:
        """Add counts, for example those that were taken and could not be used."""
        with self._lock:
            for key, (count, waits, runs) in totals.items():
                before = self._totals.get(key, _NONE)
                self._totals[key] = before[0] + count, before[1] + waits, before[2] + runs

    def take(self) -> dict[TallyKey, Totals]:
        """Return the counts, and begin anew."""
        with self._lock:
            taken, self._totals = self._totals, {}
        return taken

    def look(self, now: float) -> dict[TallyKey, Totals]:
        """Return the counts, and forget very old ones, which nobody has taken."""
        oldest = now // 60 - _KEPT_MINUTES
        with self._lock:
            self._totals = {key: found for key, found in self._totals.items() if key[0] >= oldest}
            return dict(self._totals)


_NONE: Totals = (0, 0.0, 0.0)


def _sample(items: Sequence[WorkItem[Any]]) -> tuple[list[WorkItem[Any]], list[int]]:
    """Return some of the items, and for how many each of them stands: all that have not succeeded for one."""
    others = [item for item in items if item._status is not SUCCEEDED]
    succeeded = [item for item in items if item._status is SUCCEEDED]
    counts = Counter([item._task.name for item in succeeded])
    chosen = succeeded[:: max(1, len(succeeded) // _SAMPLE)]
    seen = {item._task.name for item in chosen}
    if len(seen) < len(counts):  # a task of which no item was chosen
        for item in succeeded:
            if item._task.name not in seen:
                seen.add(item._task.name)
                chosen.append(item)
    each = Counter([item._task.name for item in chosen])
    weights = []
    for item in chosen:
        name = item._task.name
        weight = counts[name] // each[name]  # the last one stands for the rest
        counts[name] -= weight
        each[name] -= 1
        weights.append(weight)
    return others + chosen, [1] * len(others) + weights


def _measure(item: WorkItem[Any]) -> tuple[TallyKey, float, float]:
    """Return where an item is counted, and how long it waited and ran, in seconds."""
    attempt, task, due = item._attempt, item._task.name, item._due
    assert attempt is not None
    finished = attempt.finished or item._enqueued
    started = attempt.started
    minute, status = int(finished // 60), str(item._status)
    if started is None:
        wait = max(0.0, finished - due)
        return (minute, task, status, bisect_left(BUCKETS, wait), NO_RUN), wait, 0.0
    wait, run = max(0.0, started - due), max(0.0, finished - started)
    key = minute, task, status, bisect_left(BUCKETS, wait), bisect_left(BUCKETS, run)
    return key, wait, run
