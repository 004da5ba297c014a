"""Keys: while an item with a key is in flight, enqueueing another one gives that one back."""

from __future__ import annotations

from typing import Any

from flask_background.concurrency import native
from flask_background.core.item import WorkItem


class Keys:
    """The items in flight that have keys. A key belongs to its task."""

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._items: dict[tuple[str, str], WorkItem[Any]] = {}

    def take(self, item: WorkItem[Any]) -> WorkItem[Any]:
        """Give item its key, unless another one has it: then return that."""
        key = item._task.key
        assert key is not None
        with self._lock:
            return self._items.setdefault((item.task_name, key), item)

    def give_back(self, item: WorkItem[Any]) -> None:
        """The item has ended, or was refused."""
        if not self._items:
            return  # as with nearly every item
        key = item._task.key
        with self._lock:
            if key is not None and self._items.get((item.task_name, key)) is item:
                del self._items[item.task_name, key]
