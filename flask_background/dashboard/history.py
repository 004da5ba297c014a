"""The counts of past minutes, kept in this process: they change no more, and a page needs many of them."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

from flask import Flask

from flask_background.core.status import Status
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import BUCKETS, Distribution, TallyEntry

#: Processes add now and then what ended in their memory: for so long an ended step may still change.
_SETTLES = timedelta(minutes=3)


class Sums(NamedTuple):
    """The items of one task, or of several, that ended in a step or a period."""

    ended: int
    failed: int
    waits: Distribution
    runs: Distribution


class Step(NamedTuple):
    """A step of a span: its entries by task and status, and their sums."""

    entries: list[TallyEntry]
    sums: Sums


_Steps = dict[datetime, Step]
_kept: WeakKeyDictionary[Flask, dict[timedelta, _Steps]] = WeakKeyDictionary()


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


def span(now: datetime, period: timedelta, steps: int) -> Span:
    """Return a period as steps, which begin at full minutes, so that a chart moves once per step."""
    length = max(60, int(period.total_seconds()) // steps)
    end = (int(now.timestamp()) // length + 1) * length
    return Span(datetime.fromtimestamp(end - length * steps, UTC), timedelta(seconds=length), steps)


@lru_cache(16)
def clock(over: Span) -> list[str]:
    """Return the time at which each step begins, as text."""
    return [f"{over.since + over.step * number:%H:%M} UTC" for number in range(over.steps)]


def steps(app: Flask, monitor: Monitor, over: Span, now: datetime) -> list[Step]:
    """Return the tally of a span, step by step. Steps that ended a while ago are asked for once.

    Raises JournalError.
    """
    by_length = _kept.setdefault(app, {})
    known = by_length.get(over.step, {})
    starts = [over.since + over.step * number for number in range(over.steps)]
    settled = now - _SETTLES - over.step
    first = next((start for start in starts if start not in known or start > settled), over.until)
    fresh: defaultdict[datetime, list[TallyEntry]] = defaultdict(list)
    for entry in monitor.tally(first, over.until, over.step):
        fresh[starts[min(over.steps - 1, max(0, (entry.at - over.since) // over.step))]].append(entry)
    found = {
        start: known[start] if start < first else Step(fresh[start], sums(fresh[start])) for start in starts
    }
    # Another thread may do the same at this moment: each one puts a whole dict in place.
    by_length[over.step] = known | {start: step for start, step in found.items() if start <= settled}
    _forget(by_length, now)
    return [found[start] for start in starts]


def sums(found: list[TallyEntry]) -> Sums:
    """Add entries up."""
    return Sums(
        ended=sum(entry.items for entry in found),
        failed=sum(entry.items for entry in found if entry.status is Status.FAILED),
        waits=add([entry.waits for entry in found]),
        runs=add([entry.runs for entry in found]),
    )


def add(parts: list[Distribution]) -> Distribution:
    """Return the sum of distributions."""
    if not parts:
        return Distribution(counts=(0,) * (len(BUCKETS) + 1), seconds=0.0)
    return Distribution(
        counts=tuple(map(sum, zip(*(part.counts for part in parts), strict=True))),
        seconds=sum(part.seconds for part in parts),
    )


def _forget(by_length: dict[timedelta, _Steps], now: datetime) -> None:
    """Let steps go that no page shows any more."""
    for length, kept in list(by_length.items()):
        by_length[length] = {start: each for start, each in kept.items() if now - start < timedelta(hours=26)}
