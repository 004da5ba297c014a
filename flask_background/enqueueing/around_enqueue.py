"""Functions of the app around each enqueue, in the caller's context: for instrumentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask_background.core.around import Around
from flask_background.core.checks import is_text
from flask_background.errors import StateError

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState
    from flask_background.core.item import WorkItem

#: Enqueues the item, with a state that has this trace context.
Enqueue = Callable[[Mapping[str, str]], "WorkItem[Any]"]

# The W3C trace context that an item carries.
_TRACE_CONTEXT = ("traceparent", "tracestate")


def enqueue_inside(app_state: BackgroundState, task_name: str, enqueue: Enqueue) -> WorkItem[Any]:
    """Enqueue an item inside all around functions, the first of which is the outermost.

    Raises the error with which the item was refused, or what a function raised before its yield. Errors that
    come later do not concern the item: they are logged.
    """
    inside = Inside(app_state, task_name)
    try:
        item = enqueue(inside.enter())
    except BaseException as refusal:
        inside.leave(None, refusal)
        raise
    inside.leave(item, None)
    return item


class Inside:
    """The around functions of one call: all are entered, and then left in the opposite order."""

    def __init__(self, app_state: BackgroundState, task_name: str) -> None:
        self._app_state = app_state
        self._task_name = task_name
        self._entered: list[Around] = []

    def enter(self) -> dict[str, str]:
        """Enter the functions, and return the trace context for the item; raise what a function raises."""
        carried: dict[str, str] = {}
        for function in self._app_state.around_enqueue:
            around = Around("around_enqueue", function, self._task_name)
            self._entered.append(around)
            carried = _trace_context(around) or carried
        return carried

    def leave(self, item: WorkItem[Any] | None, refusal: BaseException | None) -> None:
        """Leave the functions that were entered, with the item or the error that refused it."""
        event = f"the refusal of an item ({self._task_name})"
        if item is not None:
            event = f"item {item.id} ({self._task_name}) was accepted"
        for around in reversed(self._entered):
            failed = around.leave(item, refusal)
            if failed is not None and failed is not refusal:
                self._app_state.backend.events.log_error(
                    f"An around_enqueue function failed after {event}", failed, item
                )


def _trace_context(around: Around) -> dict[str, str]:
    yielded = around.yielded
    if yielded is None:
        return {}
    if not isinstance(yielded, Mapping):
        raise StateError(
            f"{around.name} yielded {type(yielded).__name__}: yield None, or a dict with traceparent and"
            " tracestate for the item to carry"
        )
    found = {name: yielded[name] for name in _TRACE_CONTEXT if yielded.get(name) is not None}
    for key, value in found.items():
        if not is_text(value):
            raise StateError(f"{around.name} yielded a {key} that is no text: yield a string")
    return found
