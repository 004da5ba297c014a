"""``Background.monitor``: looks at the items of an app, its tasks and processes, and acts on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flask_background.monitoring.acting import Actions
from flask_background.monitoring.reading import Reader
from flask_background.monitoring.snapshots import (
    Count,
    Counts,
    ItemQuery,
    ItemSnapshot,
    Page,
    PauseInfo,
    PauseKind,
    ProcessSnapshot,
    ScheduleSnapshot,
    TallyEntry,
    TaskSummary,
)

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState

_EVERY = ItemQuery()


class Monitor:
    """Looks at one app's items in the journal, in memory and in Celery, and acts on them.

    Every method looks anew. Each raises JournalError if the journal cannot be asked; if only Celery cannot be
    asked, its items are left out, and ``celery_error`` says why. In memory only this process's items are
    seen one by one; those of other processes are counted. ``by``, in the methods that act: who has asked for
    it, for the log.
    """

    def __init__(self, state: BackgroundState) -> None:
        self._reader = Reader(state)
        self._actions = Actions(state, self._reader)

    # Looks.

    @property
    def celery_error(self) -> str | None:
        """Why Celery could not be asked last time; None if it could, or if the app does not use it."""
        return self._reader.celery_error

    def items(self, query: ItemQuery = _EVERY, *, limit: int = 50, after: str | None = None) -> Page:
        """Return a page of the items that the query selects, those enqueued last first.

        ``after``: the ``next`` of the page before. Raises ValueError for a text that is no cursor.
        """
        return self._reader.items(query, limit, after)

    def count(self, query: ItemQuery | Sequence[ItemQuery] = _EVERY, *, within: float | None = 0.05) -> Count:
        """Return how many items the query selects, in the journal and in this process's memory.

        Of several queries, none of which selects an item of another one, the items are added up. Counting
        stops after ``within`` seconds, and then says that it is not exact; None: it goes on to the end.
        """
        return self._reader.count([query] if isinstance(query, ItemQuery) else query, within)

    def get(self, item_id: str) -> ItemSnapshot | None:
        """Return one item with its traceback and all of its runs; None if no such item is known."""
        return self._reader.get(item_id)

    def counts(self) -> Counts:
        """Return how many items there are, by status and place, and how many are late."""
        return self._reader.counts()

    def tally(self, since: datetime, until: datetime, step: timedelta | None = None) -> list[TallyEntry]:
        """Return the items that ended between two times, by task and status; ``step`` by step, if given.

        Minutes are the finest step. Entries are kept for two days.
        """
        return self._reader.tally(since, until, step)

    def tasks(self, period: timedelta = timedelta(hours=1)) -> list[TaskSummary]:
        """Return all tasks of this process, and others that have items or were counted in this period."""
        return self._reader.tasks(period)

    def schedules(self) -> list[ScheduleSnapshot]:
        """Return all periodic tasks, those that are due next first."""
        return self._reader.schedules()

    def processes(self, wait: float = 0.1) -> list[ProcessSnapshot]:
        """Return the living processes of the app on this machine.

        All are asked for their present load, and have ``wait`` seconds to answer.
        """
        return self._reader.processes(wait)

    def pauses(self) -> list[PauseInfo]:
        """Return the tasks and executors that are paused."""
        return self._reader.pauses()

    # Acts.

    def cancel(self, items: ItemQuery | Sequence[str], *, by: str | None = None) -> int:
        """Cancel queued items, and ask running ones to end; return how many. ``items``: a query, or ids.

        Of the items that a query selects, those are concerned that exist when the action begins.
        """
        return self._actions.cancel(items, by)

    def retry(self, items: ItemQuery | Sequence[str], *, by: str | None = None) -> int:
        """Run items again that failed or were cancelled; return how many. Only the journal can.

        An item is left out while another item in flight has its key.
        """
        return self._actions.retry(items, by)

    def delete(self, items: ItemQuery | Sequence[str], *, by: str | None = None) -> int:
        """Delete items that have ended, and their uploads, from the journal; return how many."""
        return self._actions.delete(items, by)

    def run_now(self, task: str, *, by: str | None = None) -> str | None:
        """Enqueue a periodic task now, beside its schedule; return the item's id.

        None: an item of it waits already, or runs and may not overlap with another one. Raises ValueError if
        no periodic task of this process has the name.
        """
        return self._actions.run_now(task, by)

    def pause(self, kind: PauseKind, name: str, *, by: str | None = None) -> bool:
        """Let the durable items of a task or an executor wait, in all processes, until ``resume``.

        Runs that have begun go on. Items in memory and in Celery are not paused. Returns False if it was
        paused already. Raises ValueError if the app has no such task or executor, or no journal.
        """
        return self._actions.pause(kind, name, by)

    def resume(self, kind: PauseKind, name: str, *, by: str | None = None) -> bool:
        """End a pause; return False if there was none."""
        return self._actions.resume(kind, name, by)
