"""The backend of a child process that a process executor has started: it runs one item for its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_background.errors import EnqueuedInChildError
from flask_background.local.backend import LocalBackend

if TYPE_CHECKING:
    from flask_background.core.item import WorkItem


class ChildBackend(LocalBackend):
    """Takes no items: nothing waits for them here, and the child is killed without asking them."""

    def accept(self, item: WorkItem[Any], held: bool = False, due: float | None = None) -> WorkItem[Any]:
        raise EnqueuedInChildError(
            f"{item.task_name} was enqueued in a child process, by an item or as the app was loaded there,"
            " and would end with that: make it durable=True, so that it goes into the journal, or call it as"
            " a function"
        )
