"""Looks at items, tasks, schedules and processes."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flask_background.core.checks import is_text
from flask_background.core.status import Status
from flask_background.core.stop_tally import is_kept
from flask_background.durable.journal import ended_runs, outbox
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.selection import select_waiting_ids
from flask_background.errors import BrokerError
from flask_background.monitoring import celery_items, journal_items, memory_items, processes, summaries
from flask_background.monitoring.kept import kept_of
from flask_background.monitoring.pages import Source, page
from flask_background.monitoring.snapshots import (
    Count,
    Counts,
    ItemQuery,
    ItemSnapshot,
    Page,
    PauseInfo,
    ProcessSnapshot,
    ScheduleSnapshot,
    TallyEntry,
    TaskSummary,
)
from flask_background.monitoring.sources import (
    JournalSource,
    celery_source,
    memory_source,
    outbox_source,
)

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.celery.client.backend import CeleryBackend
    from flask_background.celery.records.record import Record
    from flask_background.durable.journal.writer import Writer

T = TypeVar("T")

# How long other processes have to answer with their loads, in seconds.
_WAIT = 0.05
# How many items in flight of each kind a Celery cluster is asked for.
_MOST_IN_CELERY = 200
# After a look that has waited for Celery in vain, the looks of so many seconds do not wait for it.
_REST = 5.0


class Reader:
    """The part of a ``Monitor`` that looks."""

    def __init__(self, state: BackgroundState) -> None:
        self._state = state
        self._kept = kept_of(state)

    @property
    def celery_error(self) -> str | None:
        """See ``Monitor.celery_error``."""
        return self._kept.celery_error

    def celery_failed(self, error: BrokerError) -> None:
        """Keep an error of Celery; for some seconds, looks do not ask Celery again."""
        self._kept.celery_error = str(error)
        self._kept.celery_rests_until = time.monotonic() + _REST

    def items(self, query: ItemQuery, limit: int, after: str | None) -> Page:
        """See ``Monitor.items``."""
        conditions, status = conditions_of(query), query.status
        sources: dict[str, Source] = {
            "memory": memory_source(self._state.backend, conditions, status, self._process)
        }
        if (writer := self._writer) is not None:
            sources["journal"] = JournalSource(writer, conditions, status, self._is_paused())
            sources["outbox"] = outbox_source(writer, conditions, status)
        if self._state.has_celery():
            sources["celery"] = celery_source(self.in_celery(_MOST_IN_CELERY), conditions, status)
        return page(sources, limit, after)

    def count(self, queries: Sequence[ItemQuery], within: float | None) -> Count:
        """See ``Monitor.count``."""
        end = math.inf if within is None else time.monotonic() + within
        # Queries that differ by the status alone are counted together.
        together: dict[ItemQuery, list[Status]] = {}
        for query in queries:
            statuses = [*Status] if query.status is None else [query.status]
            together.setdefault(replace(query, status=None), []).extend(statuses)
        found, is_exact = 0, True
        for query, statuses in together.items():
            count = self._count(conditions_of(query), statuses, end)
            found += count.items
            is_exact = is_exact and count.is_exact
        return Count(items=found, is_exact=is_exact)

    def _count(self, conditions: Conditions, statuses: Sequence[Status], end: float) -> Count:
        found = sum(
            item._status in statuses and memory_items.selects(conditions, None, item)
            for item in memory_items.items_of(self._state.backend)
        )
        if (writer := self._writer) is None:
            return Count(items=found)
        in_journal, is_exact = self._kept.counts.count(writer, conditions, statuses, end)
        waiting = select_waiting_ids(writer, statuses, conditions, time.time())
        for ids in waiting:
            found += len(ids)
            if time.monotonic() >= end and next(waiting, None) is not None:
                is_exact = False
                break
        return Count(items=found + in_journal, is_exact=is_exact)

    def get(self, item_id: str) -> ItemSnapshot | None:
        """See ``Monitor.get``."""
        if not is_text(item_id):
            return None
        item = self._state.backend.get(item_id)
        if item is not None and not is_kept(item):
            return memory_items.snapshot(item, self._process, is_full=True)
        if (writer := self._writer) is not None:
            row = self._state.durable.session.read_row(item_id)
            if row is not None:
                earlier = writer.read(partial(ended_runs.ended_runs, item_id=item_id))
                return journal_items.full_snapshot(row, earlier, time.time(), self._is_paused())
            waiting = writer.read(partial(outbox.get, item_id=item_id))
            if waiting is not None:
                return journal_items.full_snapshot(waiting.as_item(), [], time.time())
        if self._state.has_celery():
            record = self._ask_celery(lambda celery: celery.record_of(item_id), None)
            if record is not None:
                return celery_items.snapshot(item_id, record, is_full=True)
        # An item that waits for a commit is in no journal yet.
        if item is not None and not item._status.is_final:
            return memory_items.snapshot(item, self._process, is_full=True)
        return None

    def counts(self) -> Counts:
        """See ``Monitor.counts``."""
        journal: Counter[Status] = Counter()
        late, oldest, now = 0, None, time.time()
        if (writer := self._writer) is not None:
            for task in self._kept.counts.by_task(writer).values():
                journal.update(task.items)
                late += task.late
                if task.oldest is not None and (oldest is None or task.oldest < oldest):
                    oldest = task.oldest
            journal.update(writer.read(outbox.stats))
        memory = Counter(item._status for item in memory_items.items_of(self._state.backend))
        for process in self.processes(_WAIT):
            if not process.is_this:
                memory[Status.QUEUED] += process.queued
                memory[Status.RUNNING] += process.running
            if process.oldest is not None and (oldest is None or now - process.oldest < oldest):
                oldest = now - process.oldest
        celery: dict[Status, int] = {}
        if self._state.has_celery():
            celery = self._ask_celery(lambda celery: celery.count_in_flight(), {})
        return Counts(
            journal=dict(journal),
            memory=dict(memory),
            celery=celery,
            late=late,
            oldest_wait=None if oldest is None else max(0.0, now - oldest),
        )

    def tally(self, since: datetime, until: datetime, step: timedelta | None) -> list[TallyEntry]:
        """See ``Monitor.tally``."""
        minutes = None if step is None else max(1, int(step.total_seconds() // 60))
        return self._kept.tally.entries(self._state, since.timestamp(), until.timestamp(), minutes)

    def tasks(self, period: timedelta) -> list[TaskSummary]:
        """See ``Monitor.tasks``."""
        writer, now = self._writer, time.time()
        found = {} if writer is None else self._kept.counts.by_task(writer)
        ended = self._kept.tally.total(self._state, now - period.total_seconds(), now)
        return summaries.tasks(self._state, writer, found, ended, self.processes(_WAIT), self.pauses())

    def schedules(self) -> list[ScheduleSnapshot]:
        """See ``Monitor.schedules``."""
        return summaries.schedules(self._state, self._writer, self.pauses())

    def processes(self, wait: float) -> list[ProcessSnapshot]:
        """See ``Monitor.processes``."""
        return processes.processes(self._state, wait)

    def pauses(self) -> list[PauseInfo]:
        """See ``Monitor.pauses``."""
        return processes.pauses(self._state)

    @property
    def _writer(self) -> Writer | None:
        """The journal, if the app has one. Raises JournalError."""
        return self._state.durable.session.writer if self._state.has_journal() else None

    @property
    def _process(self) -> str:
        """The id of this process."""
        if not self._state.has_journal():
            return str(os.getpid())
        return self._state.durable.session.process_lock.id

    def _is_paused(self) -> Callable[[str, str], bool]:
        paused = {(pause.kind, pause.name) for pause in self.pauses()}
        return lambda task, executor: ("task", task) in paused or ("executor", executor) in paused

    def in_celery(self, limit: int, *, anew: bool = False) -> list[tuple[str, Record]]:
        """Return the ids and records of the app's items in flight in Celery, at most so many of each kind.

        ``anew``: ask Celery even if it could not be asked a moment ago.
        """
        if anew:
            self._kept.celery_rests_until = 0.0
        nothing: list[tuple[str, Record]] = []
        return self._ask_celery(lambda celery: celery.in_flight(limit), nothing)

    def _ask_celery(self, ask: Callable[[CeleryBackend], T], otherwise: T) -> T:
        if time.monotonic() < self._kept.celery_rests_until:
            return otherwise
        try:
            answer = ask(self._state.celery)
        except BrokerError as error:
            self.celery_failed(error)
            return otherwise
        self._kept.celery_error, self._kept.celery_rests_until = None, 0.0
        return answer


def conditions_of(query: ItemQuery) -> Conditions:
    """Return a query as the conditions of the journal."""
    return Conditions(
        task=query.task,
        executor=query.executor,
        key=query.key,
        text=query.text,
        since=None if query.since is None else query.since.timestamp(),
        until=None if query.until is None else query.until.timestamp(),
        ended_before=None if query.ended_before is None else query.ended_before.timestamp(),
    )
