"""Acts on items, schedules and pauses. Each action is logged, with who has asked for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

from flask_background.core.checks import is_text
from flask_background.core.one_line import one_line
from flask_background.core.status import Status
from flask_background.core.stop_tally import is_kept
from flask_background.durable.journal.conditions import Conditions
from flask_background.enqueueing.submit import submit
from flask_background.errors import BrokerError
from flask_background.monitoring import celery_items, memory_items
from flask_background.monitoring.reading import Reader, conditions_of
from flask_background.monitoring.snapshots import ItemQuery, PauseKind

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.item import WorkItem
    from flask_background.durable.bulk import BulkActions

# How many items in flight of each kind a Celery cluster is asked for, to cancel them.
_MOST_IN_CELERY = 100_000
# How many characters the name of whoever has asked may have.
_LONGEST_NAME = 200
# How many ids, and how many characters, the log gives of the items that were selected.
_MOST_IDS, _LONGEST_SELECTION = 10, 500


class Actions:
    """The part of a ``Monitor`` that acts."""

    def __init__(self, state: BackgroundState, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def cancel(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.cancel``."""
        elsewhere = self._elsewhere(items) if isinstance(items, ItemQuery) else [*filter(is_text, items)]
        count = sum(item.cancel() for item in self._in_memory(items))
        count += self._in_journal(items, lambda bulk: bulk.cancel)
        count += self._cancel_elsewhere(elsewhere)
        self._log(count, "cancelled", items, by)
        return count

    def retry(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.retry``."""
        count = self._in_journal(items, lambda bulk: bulk.retry)
        self._log(count, "retried", items, by)
        return count

    def delete(self, items: ItemQuery | Sequence[str], by: str | None) -> int:
        """See ``Monitor.delete``."""
        count = self._in_journal(items, lambda bulk: bulk.delete)
        self._log(count, "deleted", items, by)
        return count

    def run_now(self, task: str, by: str | None) -> str | None:
        """See ``Monitor.run_now``."""
        periodic = self._state.registry.periodic
        _check_name("periodic task", task, periodic)
        item_id: str | None
        if self._state.has_journal():
            item_id = self._state.durable.intake.run_now(periodic[task].task, periodic[task].overlap)
        else:  # items do not go to the journal, as BACKGROUND_BACKEND says in tests
            item_id = submit(self._state, periodic[task].task, (), {}, "now").id
        if item_id is not None:
            self._tell(f"Item {item_id} ({task}) enqueued beside its schedule", by)
        return item_id

    def pause(self, kind: PauseKind, name: str, by: str | None) -> bool:
        """See ``Monitor.pause``."""
        self._check(kind, name)
        if not self._state.has_journal():
            raise ValueError(
                f"the {kind} {name} cannot be paused: only durable items wait, and this app has no journal"
            )
        paused = self._state.durable.pauses.add(kind, name, _name(by))
        if paused:
            self._tell(f"The {kind} {name} was paused", by)
        return paused

    def resume(self, kind: PauseKind, name: str, by: str | None) -> bool:
        """See ``Monitor.resume``."""
        resumed = self._state.has_journal() and self._state.durable.pauses.remove(kind, name)
        if resumed:
            self._tell(f"The {kind} {name} was resumed", by)
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
        """Return the selected items in flight that only this process's memory has."""
        for item in self._state.backend.ledger.unfinished():
            if is_kept(item):
                continue
            if not isinstance(items, ItemQuery):
                if item.id in items:
                    yield item
            elif memory_items.selects(conditions_of(items), items.status, item):
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
            return act([*filter(is_text, items)], None)  # the journal has no other ids
        if not all(is_text(value) for value in (items.executor, items.key) if value is not None):
            return 0
        return act(conditions_of(items), items.status)

    def _elsewhere(self, query: ItemQuery) -> list[str]:
        """Return the ids of the selected items in Celery, or in the journal on their way there."""
        conditions, found = conditions_of(query), list[str]()
        if self._state.has_journal() and query.status in (None, Status.QUEUED):
            found += self._state.durable.bulk.waiting(conditions)
        if self._state.has_celery():
            for item_id, record in self._reader.in_celery(_MOST_IN_CELERY, anew=True):
                if celery_items.selects(conditions, query.status, record):
                    found.append(item_id)
        return found

    def _cancel_elsewhere(self, item_ids: Sequence[str]) -> int:
        """Cancel items in Celery, or on their way there."""
        if self._state.has_celery():
            count = 0
            try:
                for item_id in item_ids:
                    count += self._cancel_in_celery(item_id)
            except BrokerError as error:  # the other items would wait in vain, too
                self._reader.celery_failed(error)
            return count
        return self._state.durable.bulk.cancel_waiting(item_ids) if self._state.has_journal() else 0

    def _cancel_in_celery(self, item_id: str) -> bool:
        if self._state.backend.get(item_id) is not None:
            return False
        item = self._state.celery.get(item_id)
        return item is not None and item.cancel()

    def _log(self, count: int, what: str, items: ItemQuery | Sequence[str], by: str | None) -> None:
        self._tell(f"{count} item{'s'[: count != 1]} {what} ({_selection(items)})", by)

    def _tell(self, what: str, by: str | None) -> None:
        self._state.backend.events.acted(what, _name(by))


def _name(by: str | None) -> str | None:
    """Return the name of whoever has asked as one line, for the log."""
    return None if by is None else one_line(by, _LONGEST_NAME)


def _selection(items: ItemQuery | Sequence[str]) -> str:
    """Return what was selected as one line, for the log, as in "status failed, task mail.*"."""
    if isinstance(items, ItemQuery):
        values = [(each.name, getattr(items, each.name)) for each in fields(items)]
        parts = [f"{name} {value}" for name, value in values if value is not None] or ["all"]
    else:
        parts = [*map(str, items[:_MOST_IDS]), *[f"{len(items) - _MOST_IDS} more"][: len(items) > _MOST_IDS]]
    return one_line(", ".join(parts), _LONGEST_SELECTION)


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(
            f"there is no {what} named {name!r}; there are: {', '.join(sorted(known)) or 'none'}"
        )
