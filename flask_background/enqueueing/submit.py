"""The way of every item, from the view to the backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any

import flask

from flask_background.core.item import Callee, WorkItem, current_item_var
from flask_background.core.options import When, name_of
from flask_background.core.request_state import RequestState
from flask_background.core.retry import ONCE, RetryPolicy
from flask_background.enqueueing import after_commit as commit
from flask_background.enqueueing import after_response as response
from flask_background.errors import EnqueueError
from flask_background.payload import arguments

if TYPE_CHECKING:
    from flask import Request

    from flask_background.app_state import BackgroundState

_SCALARS = arguments.SCALARS
_current_request: Callable[[], Request] = flask.request._get_current_object  # type: ignore[attr-defined]


def submit(
    part: BackgroundState, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], when: When = "now"
) -> WorkItem[Any]:
    """The way of every item: copy the request's state, take the arguments over, let the backend accept."""
    try:
        if part.elsewhere or callee.backend is not None:
            backend: Any = part.backend_for(callee)
        else:
            backend = part.durable if callee.durable else part.backend
    except EnqueueError as error:  # there is no journal
        part.backend.events.refused(callee.name, error)
        raise
    try:
        request = _current_request()
    except RuntimeError:  # outside of one; to ask first would cost each view something
        outer = current_item_var.get(None)
        state = None if outer is None else outer.state
    else:
        state = RequestState.capture(request, part.processors)
    moved = None
    plain = not (kwargs or part.strict)
    for value in args:
        if type(value) not in _SCALARS:
            plain = False
    if not plain:
        if part.strict and callee.portable:
            check_data(callee.func, args, kwargs, part.settings.max_payload)
        args, kwargs, moved = arguments.take_over(callee.func, args, kwargs)
    item: WorkItem[Any] = backend.make_item(callee, args, kwargs, state)
    held = response.hold() if when == "response" else None
    due = None if callee.due is None else callee.due(time())
    try:
        if moved is not None:
            item._adopt_uploads(moved.own)
        if when == "commit":
            return commit.hold(part.app, backend, item, due)
        accepted: WorkItem[Any] = backend.accept(item, held is not None, due)
    except BaseException:
        if moved is not None:
            moved.give_back()
        raise
    if held is not None and accepted is item:
        held.append((backend, item))
    return accepted


def check_data(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], max_bytes: int
) -> None:
    """Hold an item in memory to what a durable one has to keep, so that it can be made one later."""
    from flask_background.payload import data

    data.dump_call(func, args, kwargs, replace=lambda upload: {}, max_bytes=max_bytes)


@dataclass(frozen=True, slots=True)
class AdHoc:
    """A callable that was enqueued without being a task."""

    func: Callable[..., Any]
    name: str
    executor: str
    is_coroutine: bool
    timeout: None = None
    durable: bool = False
    backend: None = None
    portable: bool = False
    key: None = None
    due: None = None
    retry: RetryPolicy = ONCE

    @classmethod
    def of(cls, func: Callable[..., Any]) -> AdHoc:
        """Work out the name and the executor, as for a task."""
        is_coroutine = is_coroutine_function(func)
        return cls(func, name_of(func), executor_for(is_coroutine), is_coroutine)


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether calling func gives a coroutine, also for a callable object with an async ``__call__``."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004
    )


def executor_for(is_coroutine: bool) -> str:
    """The name of the executor where none is given."""
    return "asyncio" if is_coroutine else "thread"
