"""The handles of durable items in this process: one object for each item, while code refers to it."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from flask_background.durable.handle import DurableItem, JournalHost
from flask_background.durable.journal import queries
from flask_background.durable.journal.row import ItemRow, state_of
from flask_background.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_background.core.callee import Callee
    from flask_background.core.status import Status
    from flask_background.durable.session import JournalSession

    TaskOf = Callable[[str, str, str], Callee]


class Handles:
    """Finds the handle of an item, or makes it from the item's row."""

    def __init__(self, session: JournalSession, host: JournalHost) -> None:
        self._session = session
        self._host = host
        self._handles: WeakValueDictionary[str, DurableItem[Any]] = WeakValueDictionary()

    def add(self, item: DurableItem[Any]) -> None:
        """Add a new item."""
        self._handles[item.id] = item

    def known(self, item_id: str) -> DurableItem[Any] | None:
        """Return the handle of an item, if this process has one."""
        return self._handles.get(item_id)

    def get(self, item_id: str) -> DurableItem[Any] | None:
        """Return the handle of an item in any process; None if the journal has no such item.

        Raises JournalError.
        """
        handle = self._handles.get(item_id)
        if handle is not None and not handle._announced:
            return handle
        try:
            row = self._session.read_row(item_id)
        except JournalError:
            if handle is None:
                raise
            return handle
        return handle if row is None else self.of_row(row)

    def items(self, status: Status | None, task: str | None) -> list[DurableItem[Any]]:
        """Return the items enqueued last, oldest first. Raises JournalError."""
        rows = self._session.writer.read(partial(queries.rows, status=status, task=task))
        task_of = cache(self._session.registry.task_of)  # few tasks differ, and each takes long to make
        return [self.of_row(row, task_of) for row in rows]

    def of_row(self, row: ItemRow, task_of: TaskOf | None = None) -> DurableItem[Any]:
        """Return the handle of an item; the handle doubts an end that it has seen if the row has news."""
        handle = self.find_or_make(row, task_of)
        handle.doubt(row, self._session.process_lock.id)
        return handle

    def find_or_make(self, row: ItemRow, task_of: TaskOf | None = None) -> DurableItem[Any]:
        """Return the handle of an item, and leave its state as it is.

        Raises an error if the row cannot be read.
        """
        handle = self._handles.get(row.id)
        if handle is None:
            task_of = task_of or self._session.registry.task_of
            callee = task_of(row.task, row.executor, row.options)
            handle = DurableItem.of(row, callee, state_of(row), self._host)
            self._handles[row.id] = handle
        return handle

    def announce_end(self, row: ItemRow) -> None:
        """Announce the end of an item that no process has run to its end."""
        self._session.announce_end(self.find_or_make(row), row)
