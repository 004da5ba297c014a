"""The immediate backend, for tests and scripts: an item runs inside enqueue, before enqueue returns.

Neither a delay nor the time between two attempts is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_background.errors import Stopping
from flask_background.local.inline import InlineBackend

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem
    from flask_background.local.backend import LocalBackend


class ImmediateBackend(InlineBackend):
    """Runs each item as soon as it may start."""

    def __init__(self, local: LocalBackend, max_bytes: int, *, strict: bool) -> None:
        super().__init__(local, local.timers, max_bytes, strict=strict)

    def enter_books(self, item: WorkItem[Any]) -> WorkItem[Any]:
        accepted = self._local.take_with_key(item)
        if accepted is None:
            raise Stopping.refusing(item.task_name)
        return accepted

    def may_start(self, item: WorkItem[Any], due: float | None) -> None:
        """Run all attempts, one after the other."""
        queued = self._local.executors[item._task.executor].queued
        while item.id in queued:
            self.run_once(item)
        self.raise_from_signal(item)
