"""The commands that show the app as a whole: stats, schedules and processes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from flask_background.cli.base import json_option, monitor_command
from flask_background.cli.fields import print_json
from flask_background.cli.filters import as_span
from flask_background.cli.formatting import NONE, Table, ago, cut, say, span
from flask_background.core.status import Status

if TYPE_CHECKING:
    from flask_background.monitoring.monitor import Monitor
    from flask_background.monitoring.snapshots import (
        Counts,
        PauseInfo,
        ProcessSnapshot,
        ScheduleSnapshot,
        TaskSummary,
    )


@monitor_command("stats")
@click.option(
    "--period",
    metavar="SPAN",
    callback=as_span,
    default="1h",
    show_default=True,
    help="How far back the waits and run times go; they are kept for two days.",
)
@json_option
def stats(monitor: Monitor, period: timedelta, as_json: bool) -> None:
    """Show how many items there are, and how long those of each task have waited and run."""
    counts, tasks, pauses = monitor.counts(), monitor.tasks(period), monitor.pauses()
    if as_json:
        print_json({"counts": counts, "period": period.total_seconds(), "tasks": tasks, "pauses": pauses})
        return
    for lines in (counts_lines(counts), task_lines(tasks), pause_lines(pauses)):
        for line in lines:
            say(line)


@monitor_command("schedules")
@json_option
def schedules(monitor: Monitor, as_json: bool) -> None:
    """Show the periodic tasks, those that are due next first."""
    found = monitor.schedules()
    if as_json:
        print_json({"schedules": found})
    else:
        Table("task", "schedule", "next", "last", "last item", "paused").print(map(_schedule_row, found))


@monitor_command("processes")
@json_option
def processes(monitor: Monitor, as_json: bool) -> None:
    """Show the living processes of the app on this machine, but not this command."""
    found = other_processes(monitor)
    if as_json:
        print_json({"processes": found})
        return
    for line in process_lines(found):
        say(line)


def other_processes(monitor: Monitor) -> list[ProcessSnapshot]:
    """Return the processes of the app without the command itself."""
    return [process for process in monitor.processes() if not process.is_this]


def counts_lines(counts: Counts) -> list[str]:
    """Return a table of how many items there are."""
    places = {"in memory": counts.memory, "in Celery": counts.celery}
    shown = {name: numbers for name, numbers in places.items() if any(numbers.values())}
    table = Table("status", "items", *shown)
    lines = table.lines(
        (str(status), *(f"{numbers.get(status, 0):,}" for numbers in (counts.journal, *shown.values())))
        for status in Status
        if status is not Status.INTERRUPTED or counts.memory.get(status)
    )
    if counts.late:
        lines.append(f"late: {counts.late:,}, the oldest by {span(counts.oldest_wait)}")
    return lines


def task_lines(tasks: Iterable[TaskSummary]) -> list[str]:
    """Return a table of tasks, with the times of the period that was asked for."""
    table = Table(
        *("task", "queued", "running", "late", "ended", "failed"),
        *("wait p50", "wait p95", "run p50", "run p95", "last failure"),
    )
    rows = [_task_row(task) for task in tasks]
    return ["", *table.lines(rows)] if rows else []


def _task_row(task: TaskSummary) -> tuple[str, ...]:
    failure = task.last_failure
    return (
        f"{task.name} (paused)" if task.paused is not None else task.name,
        *(f"{number:,}" for number in (task.queued, task.running, task.late, task.ended, task.failed)),
        *(span(times.quantile(share)) for times in (task.waits, task.runs) for share in (0.5, 0.95)),
        NONE if failure is None else f"{ago(failure.finished_at)}: {cut(failure.error, 60)}",
    )


def pause_lines(pauses: Iterable[PauseInfo]) -> list[str]:
    """Return a line for each pause."""
    return [
        f"paused: {pause.kind} {pause.name}, {ago(pause.since)}" + (f", by {pause.by}" if pause.by else "")
        for pause in pauses
    ]


def process_lines(processes: Iterable[ProcessSnapshot]) -> list[str]:
    """Return a table of processes; of each executor it has how many of its items run and wait."""
    table = Table("pid", "host", "role", "since", "phase", "executors", "in memory", "oldest")
    return table.lines(
        (
            str(process.pid),
            process.host,
            process.role,
            ago(process.since),
            process.phase if process.answered_at is not None else "no answer",
            ", ".join(
                f"{load.name} {load.running}/{load.workers}" + (f" +{load.queued}" if load.queued else "")
                for load in process.executors
            )
            or NONE,
            f"{process.queued:,} queued, {process.running:,} running",
            span(process.oldest),
        )
        for process in processes
    )


def _schedule_row(schedule: ScheduleSnapshot) -> tuple[str, ...]:
    last = schedule.last_item
    return (
        schedule.task if schedule.is_known else f"{schedule.task} (not in this version of the app)",
        schedule.when,
        ago(schedule.next_at),
        ago(schedule.last_at),
        NONE if last is None else f"{last.status} {last.id}",
        "no" if schedule.paused is None else "yes",
    )
