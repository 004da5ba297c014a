"""The health of an app's items and processes: what is stuck, late, piling up or paused, for the doctor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import add
from typing import TYPE_CHECKING

from flask_background.core.finding import Finding
from flask_background.durable.journal import health, outbox, search, takeover
from flask_background.durable.journal.process_identity import short_name
from flask_background.errors import JournalError
from flask_background.monitoring.processes import pauses, processes
from flask_background.monitoring.reading import Reader
from flask_background.monitoring.snapshots import LATE, Distribution, PauseInfo, ProcessSnapshot

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.durable.journal.health import Running, Waiting
    from flask_background.durable.journal.writer import Writer

# How long a process has to answer, in seconds.
_PATIENCE = 2.0
# A run is stuck after so many times what 95 of 100 runs of its task take, if so many runs are known, and not
# before so many seconds; or so many seconds after its timeout.
_TIMES_LONGER, _KNOWN_RUNS, _SHORTEST = 10, 20, 60.0
# The period of whose runs and ends the pace of a task is taken, in seconds.
_DAY, _PACE = 86_400.0, 600.0
# So many waiting items are no pile yet.
_FEW = 100


def examine(state: BackgroundState) -> Iterator[Finding]:
    """Look at the journal, and ask the processes. No item is changed."""
    if not (state.folder / "journal.sqlite3").exists():
        return  # the app has not run yet
    try:
        found = list(_examine(state))
    except JournalError as error:
        found = [Finding("error", "journal", str(error), "the log of the app's processes may say more")]
    yield from found
    if all(finding.level == "ok" for finding in found):
        yield Finding("ok", "items", "none is late or stuck, and none piles up")


def _examine(state: BackgroundState) -> Iterator[Finding]:
    writer, now = state.durable.session.writer, time.time()
    up, paused = processes(state, _PATIENCE), pauses(state)
    yield from _silent(up, now)
    waiting = writer.read(partial(health.waiting, now=now, late_before=now - LATE))
    yield from _paused(paused, waiting)
    names = {(pause.kind, pause.name) for pause in paused}
    open_ = [
        each
        for each in waiting
        if ("task", each.task) not in names and ("executor", each.executor) not in names
    ]
    yield from _late(state, open_, up, now)
    yield from _piling_up(state, writer, open_, now)
    yield from _stuck(state, writer, now)
    yield from _outbox(writer, now)
    yield from _in_memory(state, up)


def _silent(up: Sequence[ProcessSnapshot], now: float) -> Iterator[Finding]:
    """Tell of processes that do not answer; those of an earlier version never do."""
    running = sum(bool(process.runs) for process in up)
    others = [process for process in up if not process.is_this]
    yield Finding("ok", "processes", f"{len(others)} up beside this one, and {running} run durable items")
    for process in others:
        answered = None if process.answered_at is None else process.answered_at.timestamp()
        if process.host and (answered is None or answered < now - _PATIENCE):
            last = "" if answered is None else f" (it did so {_time(now - answered)} ago)"
            yield Finding(
                "error",
                f"process {process.pid}",
                f"the {process.role} on {process.host} does not answer{last}: it is stopped, or one of its"
                " threads holds Python's lock",
                f"look what it does, for example with py-spy dump --pid {process.pid}, and restart it",
            )


def _paused(paused: Sequence[PauseInfo], waiting: Sequence[Waiting]) -> Iterator[Finding]:
    for pause in paused:
        count = sum(each.items for each in waiting if getattr(each, pause.kind) == pause.name)
        yield Finding(
            "ok",
            f"{pause.kind} {pause.name}",
            f"paused since {pause.since:%Y-%m-%d %H:%M} UTC{f' by {pause.by}' if pause.by else ''}:"
            f" {_items(count, 'wait')}",
            "resume it once the cause is gone: flask background resume"
            f" {'--executor ' if pause.kind == 'executor' else ''}{pause.name}",
        )


def _late(
    state: BackgroundState, waiting: Sequence[Waiting], up: Sequence[ProcessSnapshot], now: float
) -> Iterator[Finding]:
    for each in waiting:
        if not each.late:
            continue
        what = f"{_items(each.late)} (executor {each.executor}), the oldest for {_time(now - each.oldest)}"
        if _is_anybody_up(state, each, up):
            yield Finding(
                "warning",
                f"task {each.task}",
                f"late: {what}",
                "start more processes or give the executor more workers, unless runs are stuck",
            )
        else:
            yield Finding(
                "error",
                f"task {each.task}",
                f"late: {what}, and no process is up that can run them",
                "start the app's server, or flask background worker, with code that has this task",
            )


def _is_anybody_up(state: BackgroundState, waiting: Waiting, up: Sequence[ProcessSnapshot]) -> bool:
    folder = state.durable.session.process_lock.folder
    for process in up:
        if process.is_this:
            if waiting.executor in process.runs and waiting.task in state.registry.tasks:
                return True
        elif (waiting.executor in process.runs or not process.host) and takeover.knows(
            folder, process.id, waiting.task, waiting.executor
        ):
            return True
    return False


def _piling_up(
    state: BackgroundState, writer: Writer, waiting: Sequence[Waiting], now: float
) -> Iterator[Finding]:
    """Tell of tasks that would take long for what waits, while more items come than end."""
    many = [each for each in waiting if each.items >= _FEW]
    if not many:
        return
    ended = _ended(state, _PACE)
    entered = writer.read(partial(search.entered_since, at=now - _PACE))
    if entered <= sum(runs.total for runs in ended.values()):
        return
    for each in many:
        count = ended[each.task].total if each.task in ended else 0
        if count < each.items:
            yield Finding(
                "warning",
                f"task {each.task}",
                f"piling up: {_items(each.items, 'wait')}, and {count} ended in the last {_time(_PACE)}",
                "start more processes, give the executor more workers, or enqueue fewer items",
            )


def _stuck(state: BackgroundState, writer: Writer, now: float) -> Iterator[Finding]:
    running = writer.read(health.running)
    if not running:
        return
    ended = _ended(state, _DAY)
    for item in running:
        limit, why = _limit_of(item, ended.get(item.task))
        if limit is not None and now - item.started > limit:
            yield Finding(
                "warning",
                f"item {item.id}",
                f"stuck: its run ({item.task}, in process {short_name(item.owner)}) takes"
                f" {_time(now - item.started)} by now, {why}",
                f"flask background cancel {item.id}; give the task a timeout, let the function look at its"
                " token, and give what it waits for a time limit",
            )


def _limit_of(item: Running, runs: Distribution | None) -> tuple[float | None, str]:
    """Return after how many seconds a run is stuck, and why; None: this is not known."""
    try:
        timeout = json.loads(item.options)["timeout"]
        if timeout is not None:
            return float(timeout) + _SHORTEST, f"and its timeout is {_time(timeout)}"
    except (ValueError, TypeError, KeyError):  # the row can hold anything
        pass
    if runs is None or runs.total < _KNOWN_RUNS:
        return None, ""
    usual = runs.quantile(0.95) or 0.0
    return max(_SHORTEST, _TIMES_LONGER * usual), f"and 95 of 100 runs take {_time(usual)} at most"


def _outbox(writer: Writer, now: float) -> Iterator[Finding]:
    oldest = writer.read(health.outbox_oldest)
    if oldest is not None and oldest < now - LATE:
        count = writer.read(outbox.count_waiting)
        yield Finding(
            "warning",
            "outbox",
            f"{_items(count, 'wait')} to be forwarded to another backend,"
            f" the oldest for {_time(now - oldest)}",
            "see whether Celery's broker can be reached",
        )


def _in_memory(state: BackgroundState, up: Sequence[ProcessSnapshot]) -> Iterator[Finding]:
    for process in up:
        if process.oldest is not None and process.oldest > LATE:
            yield Finding(
                "warning",
                f"process {process.pid}",
                f"late: {_items(process.queued, 'wait')} in its memory,"
                f" the oldest for {_time(process.oldest)}; BACKGROUND_MAX_QUEUED is"
                f" {state.settings.max_queued}",
                "start more processes, or give the executor more workers, unless runs are stuck",
            )


def _ended(state: BackgroundState, seconds: float) -> dict[str, Distribution]:
    """Return how long the last runs took of each task's items that ended in so many seconds."""
    now = datetime.now(UTC)
    found: dict[str, Distribution] = {}
    for entry in Reader(state).tally(now - timedelta(seconds=seconds), now + timedelta(minutes=1), None):
        runs, before = entry.runs, found.get(entry.task)
        if before is not None:
            counts = tuple(map(add, before.counts, runs.counts))
            runs = Distribution(counts=counts, seconds=before.seconds + runs.seconds)
        found[entry.task] = runs
    return found


def _items(count: int, verb: str = "") -> str:
    more = "more than " if count >= health.MOST else ""
    return f"{more}{count} item{'s'[: count != 1]}{verb and f' {verb}'}{'s'[: count == 1 and bool(verb)]}"


def _time(seconds: float) -> str:
    """Return a time for people."""
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
