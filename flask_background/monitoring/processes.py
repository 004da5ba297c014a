"""The processes of an app on this machine: the files of each say what it is, and its load when asked."""

from __future__ import annotations

import math
import os
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask_background import hosts
from flask_background.concurrency import native
from flask_background.durable.journal import loads, takeover
from flask_background.durable.journal.process_lock import About
from flask_background.local.load import load_of
from flask_background.monitoring.snapshots import ExecutorLoad, PauseInfo, ProcessSnapshot

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.durable.journal.pauses import PauseRow

# How often the answers of other processes are looked for, in seconds.
_LOOK = 0.002
# When this process was loaded: an app without a journal tells nothing else of its processes.
_LOADED = time.time()


def processes(state: BackgroundState, wait: float) -> list[ProcessSnapshot]:
    """Return the living processes, this one first; see ``Monitor.processes``. Raises JournalError."""
    if not state.has_journal():
        about = About(socket.gethostname(), os.getpid(), state.role or hosts.current().role, _LOADED, ())
        return [_snapshot(str(about.pid), about, _own_load(state), is_this=True)]
    session = state.durable.session
    lock, folder = session.process_lock, session.process_lock.folder
    try:
        asked = loads.ask(folder, lock.id)
        others = takeover.living(folder)
        answers = _wait_for_answers(state, others, asked, wait)
    except OSError as error:
        raise session.writer.failure(error) from error
    found = [_snapshot(lock.id, lock.about, _own_load(state), is_this=True)]
    for name in others:
        if (its := takeover.about(folder, name)) is not None:
            found.append(_snapshot(name, its, answers.get(name)))
    return [found[0], *sorted(found[1:], key=lambda process: (process.host, process.since))]


def pauses(state: BackgroundState) -> list[PauseInfo]:
    """Return the tasks and executors that are paused. Raises JournalError."""
    return [pause_info(row) for row in state.durable.pauses.rows()] if state.has_journal() else []


def pause_info(row: PauseRow) -> PauseInfo:
    """Return a pause as pages show it."""
    kind: Any = row.kind
    return PauseInfo(kind=kind, name=row.name, since=_moment(row.since), by=row.by)


def _own_load(state: BackgroundState) -> dict[str, Any]:
    return {**load_of(state.backend, state.settings.executors), "at": time.time()}


def _wait_for_answers(
    state: BackgroundState, names: list[str], asked: int, wait: float
) -> dict[str, dict[str, Any]]:
    """Return the last load that each process has told, once all have answered, or after wait seconds."""
    folder = state.durable.session.process_lock.folder
    answers: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + wait
    while True:
        for name in names:
            if answers.get(name, {}).get("stamp", -math.inf) < asked:
                load = loads.read(folder, name)
                if load is not None:
                    answers[name] = load
        left = end - time.monotonic()
        if left <= 0 or all(answers.get(name, {}).get("stamp", -math.inf) >= asked for name in names):
            return answers
        native.Latch().wait(min(_LOOK, left))


def _snapshot(
    process_id: str, about: About, load: dict[str, Any] | None, *, is_this: bool = False
) -> ProcessSnapshot:
    load = load or {
        "phase": "running",
        "executors": [],
        "queued": 0,
        "running": 0,
        "oldest": None,
        "tasks": {},
    }
    at = load.get("at")
    oldest = load["oldest"]
    return ProcessSnapshot(
        id=process_id,
        host=about.host,
        pid=about.pid,
        role=about.role,
        since=_moment(about.since),
        phase=load["phase"],
        executors=tuple(
            ExecutorLoad(name=name, kind=kind, workers=workers, queued=queued, running=running)
            for name, kind, workers, queued, running in load["executors"]
        ),
        queued=load["queued"],
        running=load["running"],
        oldest=None if oldest is None or at is None else max(0.0, at - oldest),
        answered_at=None if at is None else _moment(at),
        is_this=is_this,
        runs=about.runs,
        tasks={name: (queued, running) for name, (queued, running) in load["tasks"].items()},
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
