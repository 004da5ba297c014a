"""The pages that show, from what the monitor sees at this moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple

from flask import request
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from flask_background.core.status import Status
from flask_background.dashboard import charts, history
from flask_background.dashboard.actions import ACTIONS
from flask_background.dashboard.filters import Filter
from flask_background.dashboard.visits import Visit
from flask_background.monitoring.monitor import Monitor
from flask_background.monitoring.snapshots import (
    LATE,
    Counts,
    ItemQuery,
    ItemSnapshot,
    PauseInfo,
    ProcessSnapshot,
    TallyEntry,
    TaskSummary,
)

#: The periods of the page about tasks, by their name in the address: in words, and as steps.
PERIODS = {
    "15m": ("15 minutes", timedelta(minutes=1), 15),
    "1h": ("hour", timedelta(minutes=3), 20),
    "6h": ("6 hours", timedelta(minutes=15), 24),
    "24h": ("24 hours", timedelta(hours=1), 24),
}


def overview(visit: Visit) -> Response:
    """Show what needs a look first, who is alive, and the last hours."""
    monitor = visit.monitor
    over = history.span(visit.now, timedelta(minutes=5), 36)
    steps = history.steps(monitor, over)
    rows = _rows(monitor, steps[-12:])  # the last hour
    return visit.render(
        "overview.html",
        counts=_Totals.of(monitor.counts()),
        failing=sorted((row for row in rows if row.failed), key=lambda row: -row.failed),
        late=sorted((row for row in rows if row.task.late), key=lambda row: -row.task.late),
        failed=sum(row.failed for row in rows),
        ended=sum(row.ended for row in rows),
        pauses=monitor.pauses(),
        processes=monitor.processes(0),
        celery_error=monitor.celery_error,
        ended_chart=charts.ended([history.counts(step) for step in steps], over),
        waits_chart=charts.waits([history.add([entry.waits for entry in step]) for step in steps], over),
        recent=monitor.items(ItemQuery(status=Status.FAILED), limit=5).items,
    )


def items(visit: Visit) -> Response:
    """Show the items that the filter in the address selects, page by page."""
    monitor = visit.monitor
    wanted = Filter.read(request.args)
    after = request.args.get("after") or None
    page = None
    if not wanted.errors:
        try:
            page = monitor.items(wanted.query, limit=50, after=after)
        except ValueError:
            raise BadRequest("The address names a page that is none: go to the first one.") from None
    rows = () if page is None else page.items
    return visit.render(
        "items.html",
        status=400 if wanted.errors else 200,
        filter=wanted,
        page=page,
        rows=[(item, is_late(item)) for item in rows],
        after=after,
        has_memory=any(item.place == "memory" for item in rows),
        elsewhere=_elsewhere(monitor.processes(0)),
        names=() if visit.is_live else sorted(task.name for task in monitor.tasks(timedelta(0))),
        actions=[name for name, action in ACTIONS.items() if wanted.query.status in {None, *action.statuses}],
        celery_error=monitor.celery_error,
        statuses=list(Status),
    )


def item(visit: Visit, item_id: str) -> Response:
    """Show one item with all of its runs."""
    found = visit.monitor.get(item_id)
    if found is None:
        return visit.render("unknown.html", 404, item_id=item_id)
    return visit.render(
        "item.html",
        item=found,
        is_late=is_late(found),
        runs=found.runs[::-1][:200],
        chart=charts.timeline(found, visit.now),
        actions=[
            name
            for name, action in ACTIONS.items()
            if found.status in action.statuses and (name == "cancel" or found.place == "journal")
        ],
    )


def tasks(visit: Visit) -> Response:
    """Show how the tasks did in a period."""
    name = request.args.get("period", "1h")
    if name not in PERIODS:
        raise BadRequest(f"The address names no period: use one of {', '.join(PERIODS)}.")
    words, step, number = PERIODS[name]
    over = history.span(visit.now, step, number)
    rows = _rows(visit.monitor, history.steps(visit.monitor, over))
    rows.sort(key=lambda row: (-row.failed, -row.task.late, row.task.name))
    return visit.render(
        "tasks.html",
        rows=[(row.task, history.sums(row.entries), charts.ended(row.counts, over)) for row in rows],
        period=name,
        words=words,
        periods=PERIODS,
        hours=over.length / timedelta(hours=1),
    )


def schedules(visit: Visit) -> Response:
    """Show the periodic tasks."""
    return visit.render("schedules.html", schedules=visit.monitor.schedules())


def processes(visit: Visit) -> Response:
    """Show the processes of the app, and its executors."""
    found = visit.monitor.processes(0.0 if visit.is_live else 0.05)
    paused = {pause.name: pause for pause in visit.monitor.pauses() if pause.kind == "executor"}
    return visit.render("processes.html", processes=found, executors=_executors(found, paused))


def is_late(item: ItemSnapshot) -> bool:
    """Whether an item is due, and has waited for too long."""
    return item.status is Status.QUEUED and not item.is_paused and (item.wait or 0.0) > LATE


class _Totals(NamedTuple):
    """The counts of one status in all places, and in each of them."""

    queued: int
    running: int
    late: int
    oldest_wait: float | None
    places: dict[str, dict[str, int]]

    @classmethod
    def of(cls, counts: Counts) -> _Totals:
        places = {"journal": counts.journal, "memory": counts.memory, "Celery": counts.celery}
        return cls(
            queued=sum(place.get(Status.QUEUED, 0) for place in places.values()),
            running=sum(place.get(Status.RUNNING, 0) for place in places.values()),
            late=counts.late,
            oldest_wait=counts.oldest_wait,
            places={
                status: {name: place.get(status, 0) for name, place in places.items() if place.get(status)}
                for status in (Status.QUEUED, Status.RUNNING)
            },
        )


class _Row(NamedTuple):
    """One task, and its items that ended in a period. ``counts``: the ended and failed ones of each step."""

    task: TaskSummary
    counts: list[tuple[int, int]]
    ended: int
    failed: int
    entries: list[TallyEntry]


def _rows(monitor: Monitor, steps: list[list[TallyEntry]]) -> list[_Row]:
    tasks = history.by_task(steps)
    none: list[list[TallyEntry]] = [[]] * len(steps)
    rows = []
    for task in monitor.tasks(timedelta(0)):  # the steps have the counts of the period
        own = tasks.get(task.name, none)
        entries = [entry for step in own for entry in step]
        rows.append(_Row(task, [history.counts(step) for step in own], *history.counts(entries), entries))
    return rows


class _Executor(NamedTuple):
    """One executor in all processes."""

    name: str
    kinds: str
    processes: int
    workers: int
    queued: int
    running: int
    paused: PauseInfo | None


def _executors(found: Iterable[ProcessSnapshot], paused: dict[str, PauseInfo]) -> list[_Executor]:
    loads: defaultdict[str, list[Any]] = defaultdict(list)
    for process in found:
        for load in process.executors:
            loads[load.name].append(load)
    return [
        _Executor(
            name,
            ", ".join(sorted({load.kind for load in loads[name]})) or "—",
            len(loads[name]),
            sum(load.workers for load in loads[name]),
            sum(load.queued for load in loads[name]),
            sum(load.running for load in loads[name]),
            paused.get(name),
        )
        for name in sorted({*loads, *paused})
    ]


def _elsewhere(found: Iterable[ProcessSnapshot]) -> int:
    return sum(process.queued + process.running for process in found if not process.is_this)
