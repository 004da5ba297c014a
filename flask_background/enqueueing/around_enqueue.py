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
    entered: list[Around] = []
    carried: dict[str, str] = {}
    try:
        for function in app_state.around_enqueue:
            around = Around("around_enqueue", function, task_name)
            entered.append(around)
            carried = _trace_context(around.yielded) or carried
        item = enqueue(carried)
    except BaseException as refusal:
        _leave(app_state, entered, f"the refusal of an item ({task_name})", None, refusal)
        raise
    _leave(app_state, entered, f"item {item.id} ({task_name}) was accepted", item, None)
    return item


def _leave(
    app_state: BackgroundState,
    entered: list[Around],
    event: str,
    item: WorkItem[Any] | None,
    refusal: BaseException | None,
) -> None:
    for around in reversed(entered):
        failed = around.leave(item, refusal)
        if failed is not None and failed is not refusal:
            app_state.backend.events.log_error(
                f"An around_enqueue function failed after {event}", failed, item
            )


def _trace_context(yielded: object) -> dict[str, str]:
    if yielded is None:
        return {}
    if not isinstance(yielded, Mapping):
        raise StateError(
            f"an around_enqueue function yielded {type(yielded).__name__}: yield None, or a dict with"
            " traceparent and tracestate for the item to carry"
        )
    found = {name: yielded[name] for name in _TRACE_CONTEXT if yielded.get(name) is not None}
    for name, value in found.items():
        if not is_text(value):
            raise StateError(f"an around_enqueue function yielded a {name} that is no text: yield a string")
    return found
