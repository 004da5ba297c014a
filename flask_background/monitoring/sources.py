"""The sources of pages of items; see pages.py."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_background.core.status import Status
from flask_background.durable.journal import outbox
from flask_background.durable.journal.conditions import Conditions
from flask_background.durable.journal.search import Search
from flask_background.monitoring import celery_items, journal_items, memory_items
from flask_background.monitoring.pages import Entry, Part, Position
from flask_background.monitoring.snapshots import ItemSnapshot

if TYPE_CHECKING:
    from flask_background.celery.records.record import Record
    from flask_background.durable.journal.row import ItemRow
    from flask_background.durable.journal.writer import Writer
    from flask_background.local.backend import LocalBackend

# How long one search reads without a break, in which views may read, and how long it takes in all (seconds).
_CHUNK = 0.01
_IN_ALL = 0.05
# Above all numbers of rows that SQLite knows.
_MOST_NUMBERS = 1 << 63
# How many waiting rows of the outbox are looked at.
_MOST_WAITING = 1_000

IsPaused = Callable[[str, str], bool]


class JournalSource:
    """The rows of the journal."""

    def __init__(
        self, writer: Writer, conditions: Conditions, status: Status | None, is_paused: IsPaused
    ) -> None:
        self._writer = writer
        self._conditions = conditions
        self._status = status
        self._is_paused = is_paused

    def part(self, after: Position | None, limit: int) -> Part:
        """See ``Source``."""
        if after is not None and not (isinstance(after, int) and 0 <= after < _MOST_NUMBERS):
            raise ValueError(f"{after!r} is no position in the journal")
        search = Search(self._conditions, self._status, after, limit)
        end = time.monotonic() + _IN_ALL
        while not self._writer.read(partial(search.look, seconds=_CHUNK)) and time.monotonic() < end:
            pass
        found, now = search.found(), time.time()
        return Part(
            [Entry(row.enqueued, number, self._snapshot(row, now)) for number, row in found.rows],
            found.below,
            found.looked_back_to,
        )

    def _snapshot(self, row: ItemRow, now: float) -> ItemSnapshot:
        return journal_items.snapshot(row, now, is_paused=self._is_paused(row.task, row.executor))


class ListSource:
    """Items that are all there at once, with their enqueue times and ids."""

    def __init__(self, items: Iterable[tuple[float, str, Callable[[], ItemSnapshot]]]) -> None:
        self._items = items

    def part(self, after: Position | None, limit: int) -> Part:
        """See ``Source``."""
        before = None if after is None else _key_of(after)
        left = (item for item in self._items if before is None or item[:2] < before)
        found = heapq.nlargest(limit, left, key=lambda item: item[:2])
        entries = [Entry(enqueued, [enqueued, one], make()) for enqueued, one, make in found]
        return Part(entries, entries[-1].position if len(found) == limit else None)


def _key_of(position: Position) -> tuple[float, str]:
    match position:
        case [float() | int() as enqueued, str() as item_id]:
            return enqueued, item_id
    raise ValueError(f"{position!r} is no position among items")


def outbox_source(writer: Writer, conditions: Conditions, status: Status | None) -> ListSource:
    """Return the items that wait in the journal to be forwarded, and those that ended there."""
    rows = [row.as_item() for row in writer.read(partial(outbox.rows, status=status, limit=_MOST_WAITING))]
    now = time.time()
    return ListSource(
        (row.enqueued, row.id, partial(journal_items.snapshot, row, now))
        for row in rows
        if conditions.fit(row.task, row.executor, row.key, row.enqueued, row.finished)
        and conditions.mentioned(row.description, row.reason, row.error)
    )


def memory_source(
    local: LocalBackend, conditions: Conditions, status: Status | None, process: str
) -> ListSource:
    """Return the items of this process's memory."""
    return ListSource(
        (item._enqueued, item.id, partial(memory_items.snapshot, item, process))
        for item in memory_items.items_of(local)
        if memory_items.selects(conditions, status, item)
    )


def celery_source(
    records: Iterable[tuple[str, Record]], conditions: Conditions, status: Status | None
) -> ListSource:
    """Return the items in flight of a Celery cluster."""
    made: list[tuple[float, str, Any]] = [
        (record.enqueued, item_id, partial(celery_items.snapshot, item_id, record))
        for item_id, record in records
        if celery_items.selects(conditions, status, record)
    ]
    return ListSource(made)
