"""Acts on items, schedules and pauses. Each action is logged, with who has asked for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from flask_background.core.status import Status
from flask_background.core.stop_tally import is_kept
from flask_background.durable.journal.selection import Conditions
from flask_background.errors import BrokerError
from flask_background.monitoring.reading import Reader
from flask_background.monitoring.snapshots import ItemQuery, PauseKind

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.item import WorkItem
    from flask_background.durable.bulk import BulkActions


class Actions:
    """The part of a ``Monitor`` that acts."""

    def __init__(self, state: BackgroundState, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def cancel(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.cancel``."""
        count = sum(item.cancel() for item in self._in_memory(items))
        count += self._in_journal(items, lambda bulk: bulk.cancel)
        if not isinstance(items, ItemQuery):
            count += sum(map(self._cancel_celery, items))
        self._log(count, "cancelled", by)
        return count

    def retry(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.retry``."""
        count = self._in_journal(items, lambda bulk: bulk.retry)
        self._log(count, "retried", by)
        return count

    def delete(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.delete``."""
        count = self._in_journal(items, lambda bulk: bulk.delete)
        self._log(count, "deleted", by)
        return count

    def run_now(self, task: str, by: str | None) -> str | None:
        """See ``Monitor.run_now``."""
        periodic = self._state.registry.periodic
        _check_name("periodic task", task, periodic)
        item_id = self._state.durable.intake.run_now(periodic[task].task, periodic[task].overlap)
        if item_id is not None:
            self._state.backend.events.acted(f"Item {item_id} ({task}) enqueued beside its schedule", by)
        return item_id

    def pause(self, kind: PauseKind, name: str, by: str | None) -> bool:
        """See ``Monitor.pause``."""
        self._check(kind, name)
        paused = self._state.durable.pauses.add(kind, name, by)
        if paused:
            self._state.backend.events.acted(f"The {kind} {name} paused", by)
        return paused

    def resume(self, kind: PauseKind, name: str, by: str | None) -> bool:
        """See ``Monitor.resume``."""
        resumed = self._state.has_journal() and self._state.durable.pauses.remove(kind, name)
        if resumed:
            self._state.backend.events.acted(f"The {kind} {name} resumed", by)
        else:  # the pause of a task that the app no longer has can be ended
            self._check(kind, name)
        return resumed

    def _check(self, kind: str, name: str) -> None:
        _check_name("kind of pause", kind, get_args(PauseKind))
        known: Collection[str] = (
            self._state.registry.tasks if kind == "task" else self._state.settings.executors
        )
        _check_name(kind, name, known)

    def _in_memory(self, items: ItemQuery | Sequence[str]) -> Iterator[WorkItem[Any]]:
        """Return the items that only this process's memory has, and that have not ended."""
        local = self._state.backend
        for item in local.ledger.unfinished():
            if not is_kept(item) and _selects(items, item):
                yield item

    def _in_journal(
        self,
        items: ItemQuery | Sequence[str],
        action: Callable[[BulkActions], Callable[[Sequence[str] | Conditions, Status | None], int]],
    ) -> int:
        if not self._state.has_journal():
            return 0
        act = action(self._state.durable.bulk)
        if not isinstance(items, ItemQuery):
            return act(items, None)
        conditions = Conditions(
            task=items.task,
            executor=items.executor,
            key=items.key,
            text=items.text,
            since=None if items.since is None else items.since.timestamp(),
            until=None if items.until is None else items.until.timestamp(),
        )
        return act(conditions, items.status)

    def _cancel_celery(self, item_id: str) -> bool:
        """Cancel an item in Celery, or on its way there."""
        if not self._state.has_celery() or self._state.backend.get(item_id) is not None:
            return False
        try:
            item = self._state.celery.get(item_id)
            return item is not None and item.cancel()
        except BrokerError as error:
            self._reader.celery_error = str(error)
            return False

    def _log(self, count: int, what: str, by: str | None) -> None:
        self._state.backend.events.acted(f"{count} item{'s'[: count != 1]} {what}", by)


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(
            f"there is no {what} named {name!r}; there are: {', '.join(sorted(known)) or 'none'}"
        )


def _selects(items: ItemQuery | Sequence[str], item: WorkItem[Any]) -> bool:
    """Return whether an item in flight is among the selected ones."""
    if not isinstance(items, ItemQuery):
        return item.id in items
    conditions = Conditions(task=items.task)
    return (
        items.status in (None, item.status)
        and conditions.names(item.task_name)
        and items.executor in (None, item._task.executor)
        and items.key in (None, item._task.key)
        and items.text is None
        and (items.since is None or item.enqueued_at >= items.since)
        and (items.until is None or item.enqueued_at <= items.until)
    )
