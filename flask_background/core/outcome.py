"""The outcome of a run whose function raised an error, and the note on that error."""

from __future__ import annotations

from typing import Any

from flask_background.core.item import WorkItem
from flask_background.core.odd_errors import best_effort
from flask_background.core.status import Outcome, Status
from flask_background.core.token import CancelReason
from flask_background.errors import ItemCancelledError, ItemInterruptedError, ItemTimeoutError

_OUTSIDE_REQUEST = "Working outside of request context"


def outcome_of(item: WorkItem[Any], error: BaseException, aborted: bool = False) -> Outcome:
    """Return the outcome of an item that raised error. ``aborted``: its token cancelled what it awaited."""
    with best_effort():  # some errors raise when an attribute is read
        return _meaning_of(item, error, aborted)
    return Status.FAILED, None, error


def _meaning_of(item: WorkItem[Any], error: BaseException, aborted: bool) -> Outcome:
    source = item._source
    reason = source.token.reason if source is not None else None
    own = (
        error.token is not None and source is not None and error.token is source.token
        if isinstance(error, ItemCancelledError)
        # The class of asyncio or of concurrent.futures
        else aborted and type(error).__name__ == "CancelledError"
    )
    if not own or reason is None:
        return Status.FAILED, None, error
    name = f"item {item.id} ({item.task_name})"
    if reason is CancelReason.REQUESTED:
        return Status.CANCELLED, None, ItemCancelledError(f"{name} was cancelled")
    if reason is CancelReason.SHUTDOWN:
        return Status.INTERRUPTED, None, ItemInterruptedError(f"{name} ended because the host stopped")
    timeout = ItemTimeoutError(
        f"{name} did not end within its timeout of {item._task.timeout:g} s, and was cut short: raise the"
        " timeout of the task if its items may take longer"
    )
    timeout.__cause__ = error
    return Status.FAILED, None, timeout


def annotate(item: WorkItem[Any], error: BaseException) -> None:
    """Add a note to the error that names its item, if the error takes notes (a frozen one does not)."""
    note = f"in work item {item.id} ({item.task_name})"
    with best_effort():
        if note in getattr(error, "__notes__", ()):
            return  # the child process that raised the error has added the note
        error.add_note(note)
        if isinstance(error, RuntimeError) and _OUTSIDE_REQUEST in str(error):
            error.add_note(
                "An item has no request: pass the values that it needs as arguments, or read"
                " current_item.state; a @background.state_processor can add to that."
            )
