"""The values that a ``Monitor`` returns, true when it looked. Times are aware datetimes in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from operator import mul
from typing import Literal

from flask_background.core.buckets import BUCKETS as BUCKETS
from flask_background.core.status import Progress, Status

#: Where an item is: in the journal, in the memory of this process, or in a Celery cluster.
Place = Literal["journal", "memory", "celery"]
#: What can be paused.
PauseKind = Literal["task", "executor"]

# The least and the greatest time of each bucket, in seconds; the last one has no other bound than its least.
_LEAST = (0.0, *BUCKETS)
_GREATEST = (*BUCKETS, BUCKETS[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemQuery:
    """Selects items; None selects all. Every condition that is given has to hold.

    ``task``: a name, or a pattern such as "mail.*". ``text``: a part of the item's description or error, in
    any case. ``since`` and ``until``: the times between which the item was enqueued. ``ended_before``: the
    item has ended, and before this time; so ``cancel`` finds no such item.
    """

    status: Status | None = None
    task: str | None = None
    executor: str | None = None
    key: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ended_before: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSnapshot:
    """One run of an item. ``how``: a final status, "running", "crashed", or "interrupted"."""

    attempt: int
    how: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemSnapshot:
    """An item. It has no arguments, because arguments are never shown.

    ``error`` is one line, and ``traceback`` may be None though the item failed: a list of items has none.
    ``state`` has the method, URL and values of the request that enqueued the item, without secrets.
    ``wait`` and ``duration``: how long the item has waited, and its last run has taken, in seconds.
    ``is_paused``: the item is queued, and its task or executor is paused.
    """

    id: str
    task: str
    status: Status
    executor: str
    place: Place
    enqueued_at: datetime
    key: str | None = None
    description: str | None = None
    process: str | None = None
    attempt: int = 0
    max_attempts: int = 1
    crashes: int = 0
    is_cancel_requested: bool = False
    is_paused: bool = False
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wait: float | None = None
    duration: float | None = None
    progress: Progress | None = None
    error: str | None = None
    traceback: str | None = None
    state: dict[str, object] = field(default_factory=dict)
    #: All runs of the item, the oldest first; only ``Monitor.get`` fills this list.
    runs: tuple[RunSnapshot, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Some items, those enqueued last first. ``next``: the cursor of the next page, or None at the end.

    ``looked_back_to``: a search stops after a while; this is how far back it has looked, or None if it has
    looked at all items. The next page goes on from there.
    """

    items: tuple[ItemSnapshot, ...]
    next: str | None = None
    looked_back_to: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """How many items a query selects. ``is_exact`` is false if counting stopped: then there may be more."""

    items: int
    is_exact: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """How long something took, counted in buckets. ``counts`` has one number more than ``BUCKETS``."""

    counts: tuple[int, ...]
    seconds: float

    @property
    def total(self) -> int:
        """How often it happened."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the time, in seconds, that this share (0 to 1) took at most, as far as can be told.

        None if nothing was counted. Within a bucket times are taken to be spread evenly, as far as their sum
        allows: the quantiles of a single time are that time. A time above the highest bucket counts as that
        bucket's bound.
        """
        wanted, below = share * self.total, 0
        for number, count in enumerate(self.counts):
            if count and below + count >= wanted:
                low, high = _LEAST[number], _GREATEST[number]
                time = low + (high - low) * (wanted - below) / count
                # The sum of all times says more, unless rounding has put it outside of the buckets.
                least, most = (sum(map(mul, self.counts, times)) for times in (_LEAST, _GREATEST))
                rank = max(1, ceil(wanted - below))  # so many times of the bucket are no longer
                if least <= self.seconds:
                    time = min(time, low + (self.seconds - least) / (count - rank + 1))
                if self.seconds <= most and not self.counts[-1]:
                    time = max(time, high - (most - self.seconds) / rank)
                return time
            below += count
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class TallyEntry:
    """The items of one task that ended with one status in one period of time, which begins at ``at``."""

    at: datetime
    task: str
    status: Status
    items: int
    waits: Distribution
    runs: Distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSummary:
    """One task. ``ended``, ``failed``, ``waits`` and ``runs`` are of the period that was asked for.

    ``queued`` and ``running`` count the items in the journal, and in the memory of all processes that
    answer. ``late``: items that are due, and have waited for longer than ``LATE`` seconds.
    """

    name: str
    executor: str | None
    is_durable: bool
    is_known: bool
    queued: int
    running: int
    late: int
    ended: int
    failed: int
    waits: Distribution
    runs: Distribution
    last_failure: ItemSnapshot | None = None
    paused: PauseInfo | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSnapshot:
    """One periodic task. ``is_known``: this process has the task; another version of the app may have it.

    ``spec``: the schedule as code. ``when``: the same for people, as in "every 10 minutes" or
    "30 4 * * MON-FRI (Europe/Berlin)".
    """

    task: str
    spec: str
    when: str
    next_at: datetime | None
    last_at: datetime | None = None
    last_item: ItemSnapshot | None = None
    is_known: bool = True
    paused: PauseInfo | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorLoad:
    """One executor of one process; durable items that the process has claimed are counted."""

    name: str
    kind: str
    workers: int
    queued: int
    running: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSnapshot:
    """One process of the app on this machine.

    ``role``: for example "gunicorn worker", "worker" (of ``flask background worker``) or "process".
    ``phase``: "running", "stopping" or "stopped". ``queued``, ``running`` and ``oldest``: the items that only
    this process's memory has, and how long the oldest of them has waited, in seconds. ``answered_at``: when
    the process said so; None if it never has. ``is_this``: the process that was asked. ``runs``: the
    executors whose durable items the process runs; empty if it leaves durable items to other processes.
    ``tasks``: how many of the ``queued`` and ``running`` items each task has.
    """

    id: str
    host: str
    pid: int
    role: str
    since: datetime
    phase: str
    executors: tuple[ExecutorLoad, ...]
    queued: int
    running: int
    oldest: float | None
    answered_at: datetime | None
    is_this: bool
    runs: tuple[str, ...] = ()
    tasks: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseInfo:
    """A task or an executor whose durable items wait."""

    kind: PauseKind
    name: str
    since: datetime
    by: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many items there are by status: in the journal, in the memory of all processes, and in Celery."""

    journal: dict[Status, int]
    memory: dict[Status, int]
    celery: dict[Status, int]
    #: The items that are due and have waited for longer than ``LATE`` seconds; how long the oldest has.
    late: int = 0
    oldest_wait: float | None = None


#: How long an item that is due may wait before it counts as late, in seconds.
LATE = 60.0
