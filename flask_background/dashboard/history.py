"""The tally of the last hours, step by step, as charts and tables need it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from flask_background.core.status import Status
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import BUCKETS, Distribution, TallyEntry


class Span(NamedTuple):
    """A number of steps of equal length that end with the present one."""

    since: datetime
    step: timedelta
    steps: int

    @property
    def until(self) -> datetime:
        """The end of the present step."""
        return self.since + self.step * self.steps

    @property
    def length(self) -> timedelta:
        """The length of all steps."""
        return self.step * self.steps


class Sums(NamedTuple):
    """The items that ended in a step or a period."""

    ended: int
    failed: int
    waits: Distribution
    runs: Distribution


def span(now: datetime, step: timedelta, steps: int) -> Span:
    """Return so many steps, each of full minutes, which begin at the same times in every request."""
    length = int(step.total_seconds())
    end = (int(now.timestamp()) // length + 1) * length
    return Span(datetime.fromtimestamp(end - length * steps, UTC), step, steps)


@lru_cache(16)
def clock(over: Span) -> list[str]:
    """Return the time at which each step begins, as text."""
    return [f"{over.since + over.step * number:%H:%M} UTC" for number in range(over.steps)]


def steps(monitor: Monitor, over: Span) -> list[list[TallyEntry]]:
    """Return the entries of each step. Raises JournalError."""
    numbers = {over.since + over.step * number: number for number in range(over.steps)}
    found: list[list[TallyEntry]] = [[] for _ in numbers]
    for entry in monitor.tally(over.since, over.until, over.step):
        found[numbers[entry.at]].append(entry)
    return found


def by_task(found: Sequence[Iterable[TallyEntry]]) -> dict[str, list[list[TallyEntry]]]:
    """Return the entries of each step by task."""
    tasks: defaultdict[str, list[list[TallyEntry]]] = defaultdict(lambda: [[] for _ in found])
    for number, entries in enumerate(found):
        for entry in entries:
            tasks[entry.task][number].append(entry)
    return tasks


def counts(entries: Iterable[TallyEntry]) -> tuple[int, int]:
    """Return how many items ended, and how many of them failed."""
    ended = failed = 0
    for entry in entries:
        ended += entry.items
        failed += entry.items if entry.status is Status.FAILED else 0
    return ended, failed


def sums(entries: Sequence[TallyEntry]) -> Sums:
    """Add entries up."""
    return Sums(
        *counts(entries),
        waits=add([entry.waits for entry in entries]),
        runs=add([entry.runs for entry in entries]),
    )


def add(parts: Sequence[Distribution]) -> Distribution:
    """Return the sum of distributions."""
    if not parts:
        return Distribution(counts=(0,) * (len(BUCKETS) + 1), seconds=0.0)
    return Distribution(
        counts=tuple(map(sum, zip(*(part.counts for part in parts), strict=True))),
        seconds=sum(part.seconds for part in parts),
    )
