"""The tally as distributions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from flask_background.core.buckets import BUCKETS
from flask_background.core.status import Status
from flask_background.durable.journal import tally
from flask_background.monitoring.snapshots import Distribution, TallyEntry
from flask_background.monitoring.values import EPOCH, moment

if TYPE_CHECKING:
    from flask_background.durable.journal.tally import TallyRow
    from flask_background.durable.journal.writer import Writer


class Sums:
    """The items of one task and status in one period."""

    def __init__(self) -> None:
        self.items = 0
        self._waits = [0] * (len(BUCKETS) + 1)
        self._runs = [0] * (len(BUCKETS) + 1)
        self._wait_seconds = self._run_seconds = 0.0

    def add(self, row: TallyRow) -> None:
        """Add the items of a row."""
        self.items += row.items
        self._waits[row.waited] += row.items
        self._wait_seconds += row.wait_seconds
        if row.ran >= 0:
            self._runs[row.ran] += row.items
            self._run_seconds += row.run_seconds

    @property
    def waits(self) -> Distribution:
        """How long the items waited."""
        return Distribution(counts=tuple(self._waits), seconds=self._wait_seconds)

    @property
    def runs(self) -> Distribution:
        """How long the last runs of the items took."""
        return Distribution(counts=tuple(self._runs), seconds=self._run_seconds)


def rows(writer: Writer | None, since: float, until: float, step: int | None) -> list[TallyRow]:
    """Return the tally between two times, for each step of so many minutes. Raises JournalError."""
    if writer is None or until <= since:
        return []
    # A minute that has only begun belongs to the period; one in which the period ends before does not.
    first, last = int(since // 60), int(-(-until // 60)) - 1
    return writer.read(partial(tally.read, first=first, last=last, step=step))


def entries(writer: Writer | None, since: float, until: float, step: timedelta | None) -> list[TallyEntry]:
    """Return the entries between two times, in their order. Raises JournalError."""
    minutes = None if step is None else max(1, int(step.total_seconds() // 60))
    sums = summed(rows(writer, since, until, minutes))
    return [
        TallyEntry(
            at=moment(minute * 60) or EPOCH,
            task=task,
            status=Status(status),
            items=found.items,
            waits=found.waits,
            runs=found.runs,
        )
        for (minute, task, status), found in sorted(sums.items())
    ]


def summed(found: Iterable[TallyRow]) -> dict[tuple[int, str, str], Sums]:
    """Return the sums by minute, task and status."""
    sums: dict[tuple[int, str, str], Sums] = defaultdict(Sums)
    for row in found:
        sums[row[:3]].add(row)
    return dict(sums)
