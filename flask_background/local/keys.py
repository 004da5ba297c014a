"""Keys: while an item with a key is in flight, enqueue returns that item instead of adding another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flask_background.concurrency import native
from flask_background.core.item import WorkItem


class Keys:
    """The items in flight that have keys. A key belongs to its task.

    A key is taken together with its item's admission, under one lock. So no caller is given an item that is
    refused in the end.
    """

    def __init__(self) -> None:
        self._lock = native.new_lock()
        self._items: dict[tuple[str, str], WorkItem[Any]] = {}

    def enter(self, item: WorkItem[Any], admit: Callable[[], bool]) -> WorkItem[Any] | None:
        """Give item its key if ``admit`` lets it in, and return it; return None if it is not let in.

        If another item in flight has the key, that item is returned, and ``admit`` is not called. ``admit``
        is quick and calls no foreign code.
        """
        assert item._task.key is not None
        key = item.task_name, item._task.key
        with self._lock:
            if (other := self._items.get(key)) is not None:
                return other
            # Set before admission: a stop that ends the item at once gives the key back.
            self._items[key] = item
            admitted = False
            try:
                admitted = admit()
            finally:
                if not admitted:
                    del self._items[key]
            return item if admitted else None

    def enter_all(
        self, items: Sequence[WorkItem[Any]], admit: Callable[[Sequence[WorkItem[Any]]], bool]
    ) -> list[WorkItem[Any]] | None:
        """Do the same for a batch: ``admit`` lets all items in that need it, or none.

        Returns for each item the one that has its key, or None if they are not let in.
        """
        with self._lock:
            accepted, new = [], []
            for item in items:
                key = item._task.key
                other = item if key is None else self._items.setdefault((item.task_name, key), item)
                accepted.append(other)
                if other is item:
                    new.append(item)
            admitted = False
            try:
                admitted = admit(new)
            finally:
                if not admitted:
                    for item in new:
                        if item._task.key is not None:
                            del self._items[item.task_name, item._task.key]
            return accepted if admitted else None

    def give_back(self, item: WorkItem[Any]) -> None:
        """Free the key of an item that has ended."""
        key = item._task.key
        with self._lock:
            if key is not None and self._items.get((item.task_name, key)) is item:
                del self._items[item.task_name, key]
