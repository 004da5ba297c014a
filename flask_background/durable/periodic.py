"""Periodic tasks: every process looks for those that are due, and one of all enqueues each."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from flask_background.durable.journal import queries, schedules
from flask_background.errors import ConfigurationError
from flask_background.local.admission import check_here

if TYPE_CHECKING:
    from flask_background.core.callee import Callee
    from flask_background.durable.intake import Intake
    from flask_background.durable.session import JournalSession


class PeriodicTasks:
    """Enqueues the periodic tasks of one app, in one process."""

    def __init__(self, session: JournalSession, intake: Intake) -> None:
        self._local = session.local
        self._writer = session.writer
        self._periodic = session.registry.periodic
        self._intake = intake
        # The names of the tasks whose schedules the journal has, and of the tasks that cannot run here.
        self._scheduled: set[str] = set()
        self._unfit: set[str] = set()

    def fire(self, now: float) -> None:
        """Enqueue the tasks that are due. Raises JournalError."""
        for name, (task, schedule, _) in list(self._periodic.items()):
            if name not in self._scheduled and self._is_fit(task):
                first = schedule.next_after(now)
                self._writer.write(partial(schedules.schedule, name=name, spec=repr(schedule), first=first))
                self._scheduled.add(name)
        for name, planned in self._writer.read(partial(queries.planned, now=now)).items():
            if name in self._periodic and name in self._scheduled:
                task, schedule, overlap = self._periodic[name]
                step = partial(
                    schedules.fire,
                    name=name,
                    planned=planned,
                    following=schedule.catch_up(planned, now),
                    row=self._intake.make_periodic_row(task, planned, overlap),
                )
                self._writer.write(step)

    def follow_clock(self, now: float) -> None:
        """Shorten the waits of the tasks if the clock was set back. Raises JournalError."""
        for name, planned in self._writer.read(partial(queries.planned, now=math.inf)).items():
            if name in self._periodic:
                schedule = self._periodic[name].schedule
                # If the clock was set back by less than a period, the task waits, so that nothing runs twice.
                if planned > schedule.next_after(schedule.next_after(now)):
                    following = schedule.catch_up(planned, now)
                    self._writer.write(
                        partial(schedules.reschedule, name=name, planned=planned, following=following)
                    )

    def _is_fit(self, task: Callee) -> bool:
        """Return whether a task has an executor; without one its items would only pile up."""
        if task.name in self._unfit:
            return False
        try:
            check_here(task, self._local.executors)
        except ConfigurationError as error:
            self._unfit.add(task.name)  # one log line for each task
            self._local.log_error(f"The periodic task {task.name} cannot run", error)
            return False
        return True
