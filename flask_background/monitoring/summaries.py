"""Summaries of tasks and schedules."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from flask_background.core.schedule import in_words
from flask_background.core.status import Status
from flask_background.durable.journal import counts, queries
from flask_background.durable.journal import schedules as journal_schedules
from flask_background.monitoring import journal_items, memory_items
from flask_background.monitoring.snapshots import (
    ItemSnapshot,
    PauseInfo,
    ProcessSnapshot,
    ScheduleSnapshot,
    TaskSummary,
)
from flask_background.monitoring.tallies import Step, Sums
from flask_background.monitoring.values import moment

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.durable.journal.writer import Writer


def tasks(
    state: BackgroundState,
    writer: Writer | None,
    found: dict[str, counts.TaskCounts],
    ended: Step,
    processes: Iterable[ProcessSnapshot],
    pauses: Iterable[PauseInfo],
) -> list[TaskSummary]:
    """Return all tasks, by name; see ``Monitor.tasks``. Raises JournalError.

    ``found``: the items in the journal, by task. ``ended``: the items that ended in the period.
    """
    sums: dict[str, tuple[Sums, int]] = {}
    for (name, status), one in ended.sums.items():
        total, failed = sums.get(name, (Sums(), 0))
        total.add(one)
        sums[name] = total, failed + one.items * (status == Status.FAILED)
    in_memory: dict[str, list[int]] = {}
    for process in processes:
        for name, (queued, running) in process.tasks.items():
            both = in_memory.setdefault(name, [0, 0])
            both[0] += queued
            both[1] += running
    paused = {pause.name: pause for pause in pauses if pause.kind == "task"}
    failures = _last_failures(state, writer, found, time.time())
    known = state.registry.tasks
    summaries = []
    for name in sorted(known.keys() | found.keys() | sums.keys() | in_memory.keys()):
        task = known.get(name)
        total, failed = sums.get(name, (Sums(), 0))
        items = found[name].items if name in found else {}
        queued, running = in_memory.get(name, (0, 0))
        waits, runs = total.distributions()
        summaries.append(
            TaskSummary(
                name=name,
                executor=None if task is None else task.executor,
                is_durable=name in found if task is None else task.durable,
                is_known=task is not None,
                queued=items.get(Status.QUEUED, 0) + queued,
                running=items.get(Status.RUNNING, 0) + running,
                late=found[name].late if name in found else 0,
                ended=total.items,
                failed=failed,
                waits=waits,
                runs=runs,
                last_failure=failures.get(name),
                paused=paused.get(name),
            )
        )
    return summaries


def _last_failures(
    state: BackgroundState, writer: Writer | None, found: dict[str, counts.TaskCounts], now: float
) -> dict[str, ItemSnapshot]:
    """Return the failed item that was enqueued last, of each task that has one."""
    failures: dict[str, ItemSnapshot] = {}
    failed = [name for name, count in found.items() if count.items.get(Status.FAILED)]
    if writer is not None and failed:
        for row in writer.read(partial(counts.last_failed, tasks=failed)):
            failures[row.task] = journal_items.snapshot(row, now)
    for item in memory_items.items_of(state.backend):
        if item._status is Status.FAILED:
            before = failures.get(item.task_name)
            if before is None or before.enqueued_at <= item.enqueued_at:
                failures[item.task_name] = memory_items.snapshot(item, "")
    return failures


def schedules(
    state: BackgroundState, writer: Writer | None, pauses: Iterable[PauseInfo]
) -> list[ScheduleSnapshot]:
    """Return all schedules, those that are due next first. Raises JournalError."""
    paused = {pause.name: pause for pause in pauses if pause.kind == "task"}
    known = state.registry.periodic
    now = time.time()
    rows = {} if writer is None else {row.name: row for row in writer.read(journal_schedules.schedules)}
    found = []
    for name in known.keys() | rows.keys():
        row = rows.get(name)
        last = None
        if writer is not None and row is not None and row.last_id is not None:
            last = writer.read(partial(queries.get, item_id=row.last_id))
        spec = repr(known[name].schedule) if row is None else row.spec
        found.append(
            ScheduleSnapshot(
                task=name,
                spec=spec,
                when=in_words(spec),
                next_at=moment(known[name].schedule.next_after(now) if row is None else row.next),
                last_at=None if row is None else moment(row.last),
                last_item=None if last is None else journal_items.snapshot(last, now),
                is_known=name in known,
                paused=paused.get(name),
            )
        )
    return sorted(found, key=lambda one: (one.next_at is None, one.next_at, one.task))
