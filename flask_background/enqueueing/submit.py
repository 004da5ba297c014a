"""The path of every item, from the view to the backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import flask

from flask_background.core.backend import Overflow
from flask_background.core.callee import Callee, refuse_generator
from flask_background.core.item import WorkItem, current_item_var
from flask_background.core.request_state import NO_REQUEST, RequestState
from flask_background.enqueueing import after_commit as commit
from flask_background.enqueueing import after_response as response
from flask_background.errors import ArgumentError, EnqueueError, PayloadTooLargeError, SerializationError
from flask_background.payload import arguments

if TYPE_CHECKING:
    from flask import Request

    from flask_background.app_state import BackgroundState
    from flask_background.core.backend import Backend
    from flask_background.core.options import Describe, When

_current_request: Callable[[], Request] = flask.request._get_current_object  # type: ignore[attr-defined]


def current_request() -> Request | None:
    """Return the request that this code runs for, or None."""
    return _current_request() if flask.has_request_context() else None


def submit(
    app_state: BackgroundState,
    callee: Callee,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    when: When = "now",
    carried: Mapping[str, str] | None = None,
) -> WorkItem[Any]:
    """Copy the request's state, take the arguments over, and let the backend accept the item.

    ``carried``: the trace context from the functions around this call; None: they have not been called.
    """
    if app_state.around_enqueue and carried is None:
        from flask_background.enqueueing.around_enqueue import (
            enqueue_inside,  # imported for apps that have such functions
        )

        return enqueue_inside(app_state, callee.name, partial(submit, app_state, callee, args, kwargs, when))
    try:
        if app_state.elsewhere or callee.backend is not None:
            backend: Backend[Any] = app_state.backend_for(callee)
        else:
            backend = app_state.durable if callee.durable else app_state.backend
    except EnqueueError as error:  # the journal cannot be opened
        app_state.backend.events.refused(callee.name, error)
        raise
    state: RequestState | None
    request: Request | None
    try:
        request = _current_request()
    except RuntimeError:  # outside of a request; to ask first would cost each view 0.1 µs
        request, outer = None, current_item_var.get(None)
        state = None if outer is None else outer.state
    else:
        state = RequestState._capture(request, app_state.processors)
    if carried:
        state = (state or NO_REQUEST)._with_trace(**carried)
    args, kwargs, moved = arguments.take_over(callee.func, args, kwargs, request)
    try:
        if app_state.strict and callee.portable:
            check_data(callee, args, kwargs, app_state.settings.max_payload)
        item: WorkItem[Any] = backend.make_item(callee, args, kwargs, state)
        if callee.describe is not None:
            describe_item(item, callee.describe, app_state)
        held = response.hold() if when == "response" else None
        due = None if callee.due is None else callee.due(item._enqueued)
        if moved is not None:
            item._adopt_uploads(moved.own)
        try:
            if when == "commit":
                accepted: WorkItem[Any] = commit.hold(app_state.app, backend, item, due)
            else:
                accepted = backend.accept(item, held is not None, due)
        except Overflow as full:
            backend, item = _make_durable(app_state, callee, args, kwargs, state)
            if moved is not None:
                item._adopt_uploads(moved.own)
            accepted = _accept_overflow(app_state, backend, item, full, when, held is not None, due)
    except BaseException:
        if moved is not None:
            moved.give_back()
        raise
    if accepted is not item:
        item._release_arguments()  # the one that has the key runs, with its own
    elif held is not None:
        held.append((backend, item))
    return accepted


def _make_durable(
    app_state: BackgroundState,
    callee: Callee,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    state: RequestState | None,
) -> tuple[Backend[Any], WorkItem[Any]]:
    """Return an item for the journal, and its backend, because memory is full. Raises JournalError."""
    durable = callee.using(durable=True, fallback=None)
    try:
        backend = app_state.backend_for(durable)
    except EnqueueError as error:
        app_state.backend.events.refused(callee.name, error)
        raise
    item: WorkItem[Any] = backend.make_item(durable, args, kwargs, state)
    if durable.describe is not None:
        describe_item(item, durable.describe, app_state)
    return backend, item


def _accept_overflow(
    app_state: BackgroundState,
    backend: Backend[Any],
    item: WorkItem[Any],
    full: Overflow,
    when: When,
    held: bool,
    due: float | None,
) -> WorkItem[Any]:
    """Let the journal accept an item for which memory has no room. Raises QueueFull if it is not data."""
    try:
        if when == "commit":
            return commit.hold(app_state.app, backend, item, due)
        accepted: WorkItem[Any] = backend.accept(item, held, due)
        return accepted
    except ArgumentError as error:
        app_state.backend.events.refused(item.task_name, full.refusal)
        raise full.refusal from error


def submit_callable(
    app_state: BackgroundState, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> WorkItem[Any]:
    """Submit a call of a function that is no task, after checking what the function has captured."""
    if not callable(func):
        raise TypeError(
            f"background.enqueue() takes a function and its arguments, not {type(func).__name__}:"
            " write enqueue(f, x), not enqueue(f(x))"
        )
    refuse_generator(func)
    arguments.refuse_live_closure(func, current_request())
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except ValueError:  # some builtins have no signature
        pass
    else:
        signature.bind(*args, **kwargs)
    return submit(app_state, Callee.of_callable(func), args, kwargs)


def describe_item(item: WorkItem[Any], make: Describe, app_state: BackgroundState) -> None:
    """Give an item the text that its task makes of its arguments."""
    from flask_background.core.description import describe  # imported for tasks that describe their items

    failed = partial(app_state.backend.events.not_described, item.task_name)
    item._describe(describe(make, item._args, item._kwargs or {}, failed))


def check_data(callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], max_bytes: int) -> None:
    """Check the arguments of an in-memory item like those of a durable one (BACKGROUND_STRICT)."""
    from flask_background.payload import data

    try:
        data.dump_call(callee.func, args, kwargs, replace=lambda upload: {}, max_bytes=max_bytes)
    except (SerializationError, PayloadTooLargeError) as error:
        if callee.durable:
            raise
        raise type(error)(
            f"{error} (task {callee.name} is not durable, but BACKGROUND_STRICT is set, and checks it like a"
            " durable one; without that setting the argument would be accepted)"
        ) from None
