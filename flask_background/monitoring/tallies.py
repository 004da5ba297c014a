"""The tally as distributions, step by step; steps that are over are kept, and not read again."""

from __future__ import annotations

import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from flask_background.core.buckets import BUCKETS
from flask_background.core.status import Status
from flask_background.durable.journal import tally
from flask_background.durable.journal.tally import COARSE_STEP, STEP, TallyRow
from flask_background.durable.tally import rows_of
from flask_background.monitoring.snapshots import Distribution, TallyEntry
from flask_background.monitoring.values import EPOCH, moment

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState

# A step is over so many minutes after its end: until then processes may add items of their memory.
_SETTLED = 2
# How many steps are kept: for example those of several pages.
_MOST = 500
# A period up to so many minutes is added up from small steps, a longer one from large steps.
_LONG = 400
_BUCKETS = len(BUCKETS) + 1


class Sums:
    """The items of one task and status in one period."""

    __slots__ = ("items", "run_seconds", "runs", "wait_seconds", "waits")

    def __init__(self) -> None:
        self.items = 0
        self.waits, self.runs = [0] * _BUCKETS, [0] * _BUCKETS
        self.wait_seconds = self.run_seconds = 0.0

    def add_row(self, row: TallyRow) -> None:
        """Add the items of a row."""
        self.items += row.items
        self.waits[row.waited] += row.items
        self.wait_seconds += row.wait_seconds
        if row.ran >= 0:
            self.runs[row.ran] += row.items
            self.run_seconds += row.run_seconds

    def add(self, other: Sums) -> None:
        """Add the items of other sums."""
        self.items += other.items
        self.waits = [one + more for one, more in zip(self.waits, other.waits, strict=True)]
        self.runs = [one + more for one, more in zip(self.runs, other.runs, strict=True)]
        self.wait_seconds += other.wait_seconds
        self.run_seconds += other.run_seconds

    def distributions(self) -> tuple[Distribution, Distribution]:
        """Return how long the items waited, and how long their last runs took."""
        return (
            Distribution(counts=tuple(self.waits), seconds=self.wait_seconds),
            Distribution(counts=tuple(self.runs), seconds=self.run_seconds),
        )


class Step:
    """The sums of one step, by task and status."""

    __slots__ = ("_entries", "sums")

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Sums] = {}
        self._entries: list[TallyEntry] | None = None

    def sums_of(self, task: str, status: str) -> Sums:
        """Return the sums of a task and status, for adding more."""
        self._entries = None
        sums = self.sums.get((task, status))
        if sums is None:
            sums = self.sums[task, status] = Sums()
        return sums

    def add(self, other: Step) -> None:
        """Add the items of another step."""
        for key, sums in other.sums.items():
            self.sums_of(*key).add(sums)

    def entries(self, minute: int) -> list[TallyEntry]:
        """Return the sums as entries of a step that begins at this minute."""
        if self._entries is None:
            self._entries = [_entry(minute, *found) for found in sorted(self.sums.items())]
        return self._entries


def _entry(minute: int, key: tuple[str, str], sums: Sums) -> TallyEntry:
    waits, runs = sums.distributions()
    task, status = key
    return TallyEntry(
        at=moment(minute * 60) or EPOCH,
        task=task,
        status=Status(status),
        items=sums.items,
        waits=waits,
        runs=runs,
    )


class TallyReader:
    """Reads the tally of one app. Several threads may use one reader."""

    def __init__(self) -> None:
        # By the first minute of a step and its length in minutes.
        self._steps: OrderedDict[tuple[int, int], Step] = OrderedDict()

    def entries(
        self, state: BackgroundState, since: float, until: float, minutes: int | None
    ) -> list[TallyEntry]:
        """Return the entries between two times, for each step of so many minutes. Raises JournalError."""
        first, last = _minutes(since, until)
        if last < first:
            return []
        if minutes is None:
            return self.total(state, since, until).entries(first)
        steps = self._read(state, first, last, minutes)
        return [entry for start, step in sorted(steps.items()) for entry in step.entries(start)]

    def total(self, state: BackgroundState, since: float, until: float) -> Step:
        """Return all items between two times. Raises JournalError."""
        first, last = _minutes(since, until)
        length = STEP if last - first <= _LONG else COARSE_STEP
        total = Step()
        # The period begins with a full step, so that the same steps are asked for in the next minute.
        for step in self._read(state, first - first % length, last, length).values():
            total.add(step)
        return total

    def _read(self, state: BackgroundState, first: int, last: int, length: int) -> dict[int, Step]:
        """Return the steps of so many minutes from the first minute on."""
        starts = range(first, last + 1, length)
        found = {start: step for start in starts if (step := self._steps.get((start, length))) is not None}
        missing = [start for start in starts if start not in found]
        if missing:
            read = {start: Step() for start in missing}
            for row in _rows(state, missing[0], min(last, missing[-1] + length - 1), length):
                if row.minute in read:
                    read[row.minute].sums_of(row.task, row.status).add_row(row)
            self._keep(read, length, last)
            found |= read
        changed: set[int] = set()
        for row in _rows_in_memory(state):
            if first <= row.minute <= last:
                start = row.minute - (row.minute - first) % length
                if start not in changed:  # the step may be one that is kept
                    changed.add(start)
                    kept, found[start] = found[start], Step()
                    found[start].add(kept)
                found[start].sums_of(row.task, row.status).add_row(row)
        return found

    def _keep(self, steps: dict[int, Step], length: int, last: int) -> None:
        over = min(last, int(time.time() // 60) - _SETTLED)
        for start, step in steps.items():
            if start + length - 1 <= over:
                self._steps[start, length] = step
        while len(self._steps) > _MOST:
            self._steps.popitem(last=False)


def _rows(state: BackgroundState, first: int, last: int, length: int) -> list[TallyRow]:
    if not state.has_journal():
        return []
    return state.durable.session.writer.read(partial(tally.read, first=first, last=last, step=length))


def _rows_in_memory(state: BackgroundState) -> list[TallyRow]:
    """Return the items of this process's memory that are not in the journal's tally yet."""
    return rows_of(state.backend.ledger.tally().look(time.time()))


def _minutes(since: float, until: float) -> tuple[int, int]:
    """Return the first and the last minute of a period. A minute that it only touches is included."""
    return int(since // 60), int(-(-until // 60)) - 1
