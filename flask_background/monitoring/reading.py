"""Looks at items, tasks, schedules and processes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flask_background.monitoring import processes
from flask_background.monitoring.snapshots import (
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

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


class Reader:
    """The part of a ``Monitor`` that looks."""

    celery_error: str | None = None

    def __init__(self, state: BackgroundState) -> None:
        self._state = state

    def items(self, query: ItemQuery, limit: int, after: str | None) -> Page:
        raise NotImplementedError

    def count(self, query: ItemQuery) -> int:
        raise NotImplementedError

    def get(self, item_id: str) -> ItemSnapshot | None:
        raise NotImplementedError

    def counts(self) -> Counts:
        raise NotImplementedError

    def tally(self, since: datetime, until: datetime, step: timedelta | None) -> list[TallyEntry]:
        raise NotImplementedError

    def tasks(self, period: timedelta) -> list[TaskSummary]:
        raise NotImplementedError

    def schedules(self) -> list[ScheduleSnapshot]:
        raise NotImplementedError

    def processes(self, wait: float) -> list[ProcessSnapshot]:
        return processes.processes(self._state, wait)

    def pauses(self) -> list[PauseInfo]:
        return processes.pauses(self._state)
